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

from vla_ros.cli import exit_codes
from vla_ros.cli.arguments import positive, whole
from vla_ros.client.processes import clean_shared_memory
from vla_ros.console import complain, unbuffer_output
from vla_ros.evaluation.alone import run_alone
from vla_ros.evaluation.play import DELTAS, Pace
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
    pace = Pace(free=True, rate_hz=options.rate, deltas_from=options.deltas_from)
    try:
        clean_shared_memory()
        rclpy.init(args=given)
        with BlocksWorld() as world:
            run_alone(world, pace, options.first_seed)
        return 0
    except PolicyError as error:
        complain('vla_simulation', error)
        return exit_codes.FAILED
    except (KeyboardInterrupt, ExternalShutdownException):
        return exit_codes.INTERRUPTED
    finally:
        rclpy.try_shutdown()


if __name__ == '__main__':
    sys.exit(main())
