"""``vla_demo``: a simulated arm picks up what it is told to, through the node.

Two processes: the node with a small OpenVLA that was trained for this, and this one, which is the
robot: camera, arm and instructions. It writes a film of it, and shows it where there is a display.
All in the namespace /vla_demo, so that no robot listens by accident. Without OpenGL it shows
photographs to a policy of random weights instead, as it does with --photographs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import Image

from vla_ros.cli.arguments import count, positive, whole
from vla_ros.console import complain, interrupting, unbuffer_output
from vla_ros.demo.photographs import NAMESPACE, show_photographs, write_view
from vla_ros.evaluation.closed_loop import blocks_model, closed_loop
from vla_ros.evaluation.film import Film
from vla_ros.evaluation.play import Pace, play
from vla_ros.evaluation.window import open_window
from vla_ros.simulation import BlocksWorld, SimulationError
from vla_ros.types import PolicyError


def main(arguments: list[str] | None = None) -> int:
    unbuffer_output()
    parser = argparse.ArgumentParser(prog='vla_demo', description=__doc__)
    add = parser.add_argument
    add('--episodes', type=count, default=6, help='(default: %(default)s)')
    add('--first-seed', type=whole, default=0, help='of the starts (default: %(default)s)')
    add('--gif', type=Path, default='vla_demo.gif', help='the film (default: %(default)s)')
    add('--sheet', type=Path, default='vla_demo.png', help='its pictures (default: %(default)s)')
    add('--view', type=Path, metavar='PNG', help="write the operator's last view")
    add('--photographs', action='store_true', help='no simulation, and a policy of random weights')
    add('--actions', type=count, default=20, help='with photographs (default: %(default)s)')
    add('--timeout', type=positive, default=180.0, help='with photographs, seconds')
    options = parser.parse_args(arguments)
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    try:
        with interrupting():
            return _show(options)
    except (PolicyError, OSError) as failure:
        complain('vla_demo', failure)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130


def _show(options: argparse.Namespace) -> int:
    """:returns: the exit code."""
    if not options.photographs:
        try:
            with BlocksWorld() as world:
                return _pick_up_blocks(world, options)
        except SimulationError as error:
            print(f'{error}\nUntil then, photographs and a policy of random weights:\n')
    show_photographs(options.actions, options.timeout, options.view)
    return 0


def _pick_up_blocks(world: BlocksWorld, options: argparse.Namespace) -> int:
    """:returns: 0 if the arm succeeded at least once."""
    for file in (options.gif, options.sheet):
        file.touch()  # now, and not when all has been played
    parameters = {
        'model': blocks_model(),
        'device': 'cpu',
        'unnorm_key': world.contract.unnorm_key,
        'frame_id': 'base',
    }
    film, successes = Film(world.contract), 0
    window = open_window('vla_demo')

    def watch(image: NDArray[np.uint8], action: NDArray[np.float64] | None) -> None:
        film.add(image, action)
        if window is not None:
            window.show(film.last_frame)

    with closed_loop(NAMESPACE, parameters, print) as robot:
        views: deque[Image] = deque(maxlen=1)
        if options.view:
            robot.create_subscription(Image, 'debug_image', lambda one: views.append(one), 1)
        print(f'\n{"#":>2}  {"instruction":24}{"result":9}{"actions":>7}  picture to action')
        for number in range(options.episodes):
            instruction = world.instructions[number % len(world.instructions)]
            film.begin(instruction)
            episode = play(
                robot,
                world,
                options.first_seed + number,
                instruction,
                instruction,
                Pace(),
                watch,
            )
            film.end(episode.success)
            successes += episode.success
            print(
                f'{number + 1:2}  {instruction:24}{"success" if episode.success else "failed":9}'
                f'{episode.steps:7}  {1e3 * float(np.median(episode.latencies_s)):.0f} ms'
            )
            if window is not None:
                window.show(film.last_frame)
                time.sleep(1.0)
        status = robot.settled_status()
        if options.view:
            write_view(views[-1] if views else None, options.view)
    if window is not None:
        window.close()
    film.write_gif(options.gif)
    film.write_contact_sheet(options.sheet)
    policy, counters = status.policy, status.counters
    print(
        f'\n{successes} of {options.episodes} episodes succeeded, {policy.device} {policy.dtype}; '
        f'{counters.accepted / max(1, counters.drafted):.0%} of the drafted tokens were right'
        f'\n{options.gif}: the film\n{options.sheet}: its pictures'
    )
    return 0 if successes else 1


if __name__ == '__main__':
    sys.exit(main())
