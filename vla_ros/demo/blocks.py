# SPDX-License-Identifier: Apache-2.0
"""``vla_demo``: a film of a simulated arm that picks up the block it is told to."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image

from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.demo.photographs import NAMESPACE, write_view
from vla_ros.evaluation.closed_loop import blocks_model, closed_loop, settled_status
from vla_ros.evaluation.episode import Episode
from vla_ros.evaluation.film import Film
from vla_ros.evaluation.pace import Pace
from vla_ros.evaluation.play import main_image, play
from vla_ros.evaluation.window import Window, open_window
from vla_ros.msg import VlaStatus
from vla_ros.simulation import BlocksWorld
from vla_ros.types import Observation

_PAUSE_S = 1.0  # in the window, after an episode


@dataclass(frozen=True)
class Setup:
    """The options of the demonstration, and the files that it writes.

    :param first_seed: seed of the first start.
    :param gif: file for the film.
    :param sheet: file for the film's images.
    :param view: file for the operator's last view; None: do not write it.
    """

    episodes: int
    first_seed: int
    gif: Path
    sheet: Path
    view: Path | None


def pick_up_blocks(world: BlocksWorld, setup: Setup) -> bool:
    """Play the episodes, and return whether at least one succeeded.

    :raises EvaluationError: if the node can't be loaded, or is in ERROR.
    :raises OSError: if a file cannot be written.
    """
    for file in (setup.gif, setup.sheet):
        file.touch()  # so that an error comes before anything is played
    parameters = {
        'model': blocks_model(),
        'device': 'cpu',
        'unnorm_key': world.contract.unnorm_key,
        'frame_id': 'base',
    }
    show = _Show(world, setup)
    with closed_loop(NAMESPACE, parameters, print) as robot:
        views: deque[Image] = deque(maxlen=1)
        if setup.view:
            topic = robot.topic('debug_image')
            robot.node.create_subscription(Image, topic, lambda one: views.append(one), 1)
        successes = show.play_all(robot)
        status = settled_status(robot)
        if setup.view:
            write_view(views[-1] if views else None, setup.view)
    show.close()
    _print_summary(successes, setup, status)
    return successes > 0


class _Show:
    """The episodes, their film and the window."""

    def __init__(self, world: BlocksWorld, setup: Setup) -> None:
        self._world, self._setup = world, setup
        self._film = Film(world.contract)
        self._window: Window | None = open_window('vla_demo')

    def play_all(self, robot: SimulatedRobot) -> int:
        """Return the number of successes."""
        print(f'\n{"#":>2}  {"instruction":24}{"result":9}{"actions":>7}  image to action')
        return sum(self._play(robot, number).success for number in range(self._setup.episodes))

    def close(self) -> None:
        """Write the film."""
        if self._window is not None:
            self._window.close()
        self._film.write_gif(self._setup.gif)
        self._film.write_contact_sheet(self._setup.sheet)

    def _play(self, robot: SimulatedRobot, number: int) -> Episode:
        instructions, seed = self._world.instructions, self._setup.first_seed + number
        instruction = instructions[number % len(instructions)]
        self._film.begin(instruction)
        episode = play(robot, self._world, seed, instruction, instruction, Pace(), self._watch)
        self._film.end(episode.success)
        print(
            f'{number + 1:2}  {instruction:24}{"success" if episode.success else "failed":9}'
            f'{episode.steps:7}  {1e3 * float(np.median(episode.latencies_s)):.0f} ms'
        )
        if self._window is not None:
            self._window.show(self._film.last_frame)
            time.sleep(_PAUSE_S)
        return episode

    def _watch(self, seen: Observation, action: NDArray[np.float64] | None) -> None:
        self._film.add(main_image(seen), action)
        if self._window is not None:
            self._window.show(self._film.last_frame)


def _print_summary(successes: int, setup: Setup, status: VlaStatus) -> None:
    policy, counters = status.policy, status.counters
    print(
        f'\n{successes} of {setup.episodes} episodes succeeded, {policy.device} {policy.dtype}; '
        f'{counters.accepted / max(1, counters.drafted):.0%} of the drafted tokens were right'
        f'\n{setup.gif}: the film\n{setup.sheet}: its images'
    )
