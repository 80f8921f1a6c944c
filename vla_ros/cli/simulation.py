# SPDX-License-Identifier: Apache-2.0
"""``vla_simulation``: the demonstration's arm and camera, for a node that runs elsewhere.

It publishes images on ``image`` and executes the actions on ``action`` in real time, until it is
interrupted. ``~/start_over`` (std_srvs/Trigger) begins at another start.
"""

from __future__ import annotations

import argparse
import sys

from vla_ros.cli import exit_codes
from vla_ros.cli.arguments import positive, whole
from vla_ros.console import EndRequest, catch_signals, complain, unbuffer_output


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    stopped = catch_signals()  # also for a Ctrl-C during the imports that follow
    unbuffer_output()
    return _run(sys.argv if arguments is None else ['vla_simulation', *arguments], stopped)


def _run(given: list[str], stopped: EndRequest) -> int:
    import rclpy
    from rclpy.signals import SignalHandlerOptions
    from rclpy.utilities import remove_ros_args

    from vla_ros.client.processes import clean_shared_memory
    from vla_ros.evaluation.alone import run_alone
    from vla_ros.evaluation.pace import DELTAS, Pace
    from vla_ros.graph.arguments import ArgumentsError, usable_arguments
    from vla_ros.simulation import BlocksWorld
    from vla_ros.types import PolicyError

    parser = argparse.ArgumentParser(prog='vla_simulation', description=__doc__)
    add = parser.add_argument
    add(
        '--first-seed', type=whole, default=0, help='seed of the first start (default: %(default)s)'
    )
    add('--rate', type=positive, default=30.0, help='rate of the camera, Hz (default: %(default)s)')
    add(
        '--deltas-from',
        choices=DELTAS,
        default=DELTAS[0],
        help="start of a displacement: the tool's pose now, or when the image was captured "
        '(default: %(default)s)',
    )
    options = parser.parse_args(remove_ros_args(given)[1:])
    pace = Pace('free', rate_hz=options.rate, deltas_from=options.deltas_from)
    try:
        clean_shared_memory()
        with usable_arguments():
            # No handlers of rclpy, which would end its context in the middle of publishing.
            rclpy.init(args=given, signal_handler_options=SignalHandlerOptions.NO)
        with BlocksWorld() as world:
            run_alone(world, pace, options.first_seed, stopped)
        return exit_codes.INTERRUPTED
    except ArgumentsError as error:
        complain('vla_simulation', error)
        return exit_codes.BAD_ARGUMENTS
    except PolicyError as error:
        complain('vla_simulation', error)
        return exit_codes.FAILED
    finally:
        rclpy.try_shutdown()


if __name__ == '__main__':
    sys.exit(main())
