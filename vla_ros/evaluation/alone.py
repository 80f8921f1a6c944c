"""The simulated arm and camera by themselves, for a node that another program runs."""

from __future__ import annotations

from std_srvs.srv import Trigger

from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.evaluation.closed_loop import blocks_model, end_in_error
from vla_ros.evaluation.play import FreeRun, Pace
from vla_ros.evaluation.window import open_window
from vla_ros.simulation import BlocksWorld

_NAME = 'vla_simulation'


def run_alone(world: BlocksWorld, pace: Pace, first_seed: int) -> None:
    """Play without end; the service ``~/start_over`` puts arm and blocks somewhere else.

    :param first_seed: of the starts.
    :raises EvaluationError: if the node is in ERROR.
    :raises ExternalShutdownException: when ROS is shut down.
    """
    robot, window = SimulatedRobot(name=_NAME), open_window(_NAME)
    robot.check = lambda: end_in_error(robot)
    starts_asked_for = 1

    def start_over(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        nonlocal starts_asked_for
        starts_asked_for += 1
        response.success = True
        return response

    robot.node.create_service(Trigger, '~/start_over', start_over)
    print(
        f'the node for it: ros2 launch vla_ros vla.launch.py model:={blocks_model()} '
        'frozen_image_timeout_s:=0.0\n'
        f'say to it one of: {", ".join(world.instructions)}'
    )
    starts = 0
    while True:
        if starts < starts_asked_for:
            world.reset(first_seed + starts, world.instructions[0])
            run = FreeRun(robot, world, pace)
            starts += 1
        run.go_on(watch=lambda image, action: None)
        if window is not None:
            window.show(run.image)
