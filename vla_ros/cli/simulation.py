"""``vla_simulation``: the demonstration's arm and camera, for a node that somebody else runs.

It shows pictures on ``image`` and does what comes on ``action``, with the wall's clock, until it is
interrupted. ``~/start_over`` (std_srvs/Trigger) puts arm and blocks somewhere else.
"""

from __future__ import annotations

import argparse
import sys

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args
from std_srvs.srv import Trigger

from vla_ros.cli.arguments import positive, whole
from vla_ros.client.processes import clean_shared_memory
from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.console import complain, unbuffer_output
from vla_ros.evaluation.closed_loop import blocks_model, end_in_error
from vla_ros.evaluation.play import DELTAS, FreeRun, Pace
from vla_ros.evaluation.window import open_window
from vla_ros.simulation import BlocksWorld
from vla_ros.types import PolicyError


def main(arguments: list[str] | None = None) -> int:
    unbuffer_output()
    given = sys.argv if arguments is None else ['vla_simulation', *arguments]
    parser = argparse.ArgumentParser(prog='vla_simulation', description=__doc__)
    add = parser.add_argument
    add('--first-seed', type=whole, default=0, help='of the starts (default: %(default)s)')
    add('--rate', type=positive, default=30.0, help="the camera's, Hz (default: %(default)s)")
    add(
        '--deltas-from',
        choices=DELTAS,
        default=DELTAS[0],
        help="where a displacement starts from: the arm's place now, or when its picture was "
        'captured (default: %(default)s)',
    )
    options = parser.parse_args(remove_ros_args(given)[1:])
    try:
        clean_shared_memory()
        rclpy.init(args=given)
        with BlocksWorld() as world:
            _run(world, options)
        return 0
    except PolicyError as error:
        complain('vla_simulation', error)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    finally:
        rclpy.try_shutdown()


def _run(world: BlocksWorld, options: argparse.Namespace) -> None:
    robot, window = SimulatedRobot(name='vla_simulation'), open_window('vla_simulation')
    pace = Pace(free=True, rate_hz=options.rate, deltas_from=options.deltas_from)
    starts_asked_for = 1

    def start_over(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        nonlocal starts_asked_for
        starts_asked_for += 1
        response.success = True
        return response

    robot.check = lambda: end_in_error(robot)
    robot.node.create_service(Trigger, '~/start_over', start_over)
    print(
        f'the node for it: ros2 launch vla_ros vla.launch.py model:={blocks_model()} '
        'frozen_image_timeout_s:=0.0\n'
        f'say to it one of: {", ".join(world.instructions)}'
    )
    starts = 0
    while True:
        if starts < starts_asked_for:
            world.reset(options.first_seed + starts, world.instructions[0])
            run = FreeRun(robot, world, pace)
            starts += 1
        run.go_on(watch=lambda image, action: None)
        if window is not None:
            window.show(run.image)


if __name__ == '__main__':
    sys.exit(main())
