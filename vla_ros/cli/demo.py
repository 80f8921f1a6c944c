# SPDX-License-Identifier: Apache-2.0
"""``vla_demo``: a simulated arm picks up the block it is told to, controlled through the node.

There are two processes: the node, with a small OpenVLA that was trained for this, and the robot,
with camera, arm and instructions. The robot writes a film, and shows it where there is a display.
Both use the namespace /vla_demo, so that no real robot listens. Without OpenGL, and with
--photographs, photographs are shown to a policy with random weights instead.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rclpy.executors import ExternalShutdownException

from vla_ros.cli import exit_codes
from vla_ros.cli.arguments import count, positive, whole
from vla_ros.console import complain, interrupting, unbuffer_output
from vla_ros.demo.blocks import Setup, pick_up_blocks
from vla_ros.demo.photographs import show_photographs
from vla_ros.errors import VlaError
from vla_ros.simulation import BlocksWorld, SimulationError


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    unbuffer_output()
    parser = argparse.ArgumentParser(prog='vla_demo', description=__doc__)
    add = parser.add_argument
    add('--episodes', type=count, default=6, help='number of episodes (default: %(default)s)')
    add(
        '--first-seed', type=whole, default=0, help='seed of the first start (default: %(default)s)'
    )
    add('--gif', type=Path, default='vla_demo.gif', help='the film (default: %(default)s)')
    add(
        '--sheet',
        type=Path,
        default='vla_demo.png',
        help='images of the film (default: %(default)s)',
    )
    add('--view', type=Path, metavar='PNG', help="write the operator's last view")
    add('--photographs', action='store_true', help='no simulation, and a policy of random weights')
    add(
        '--actions',
        type=count,
        default=20,
        help='number of actions, with photographs (default: %(default)s)',
    )
    add('--timeout', type=positive, default=180.0, help='time limit with photographs, seconds')
    options = parser.parse_args(arguments)
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    try:
        with interrupting():
            return _show(options)
    except (VlaError, OSError) as failure:
        complain('vla_demo', failure)
        return exit_codes.FAILED
    except (KeyboardInterrupt, ExternalShutdownException):
        return exit_codes.INTERRUPTED


def _show(options: argparse.Namespace) -> int:
    """Show the simulation or the photographs, and return the exit code."""
    if not options.photographs:
        setup = Setup(
            options.episodes, options.first_seed, options.gif, options.sheet, options.view
        )
        try:
            with BlocksWorld() as world:
                return 0 if pick_up_blocks(world, setup) else exit_codes.FAILED
        except SimulationError as error:
            print(f'{error}\nUntil then, photographs and a policy with random weights:\n')
    show_photographs(options.actions, options.timeout, options.view)
    return 0


if __name__ == '__main__':
    sys.exit(main())
