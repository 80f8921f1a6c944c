# SPDX-License-Identifier: Apache-2.0
"""The training data: images of the simulated world, with the expert's actions as labels.

The expert gives the right action in every state, so every image has a label for every instruction.
The arm is driven by the expert, by the expert with a shaky hand, or by the policy that is being
trained (DAgger, Ross et al. 2011, arXiv:1011.0686).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_ros.simulation import INSTRUCTIONS, BlocksWorld, State
from vla_ros.simulation.expert import expert_action
from vla_ros.simulation.scene import COLOURS, IMAGE_SIZE
from vla_ros.types import Observation

# From an observation and the expert's action, float64 [7], to the action to take, float64 [7].
Driver = Callable[[Observation, NDArray[np.float64]], NDArray[np.float64]]

_MAX_STEPS = 26  # of an episode; the expert needs 9
_STEPS_AFTER_SUCCESS = 2
_IMAGES, _ACTIONS, _PLACES = 'images.npy', 'actions.npy', 'places.npy'
PLACES = 3 * (1 + len(COLOURS)) + 3


class Frames:
    """Images and the expert's actions, in a folder. The images stay on the disk.

    ``images`` is uint8 [N, 224, 224, 3], ``actions`` float32 [N, instructions, 7] in the order of
    the world's instructions, ``places`` float32 [N, PLACES]: where tool and blocks are.
    """

    def __init__(self, directory: Path) -> None:
        self.images = np.load(directory / _IMAGES, mmap_mode='r')
        self.actions: NDArray[np.float32] = np.load(directory / _ACTIONS)
        self.places: NDArray[np.float32] = np.load(directory / _PLACES)

    def __len__(self) -> int:
        return len(self.actions)


def collect(
    directory: Path,
    world: BlocksWorld,
    starts: Iterable[int],
    frames: int,
    driver_of: Callable[[int], Driver],
) -> None:
    """Play episodes until there are enough frames, and write the frames.

    :param starts: one seed for each episode; even and odd seeds have different instructions.
    :param frames: the number of frames.
    :param driver_of: from a seed to the driver of its episode.
    :raises ValueError: if the starts are not enough.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shape = (frames, IMAGE_SIZE, IMAGE_SIZE, 3)
    images = np.lib.format.open_memmap(directory / _IMAGES, 'w+', np.uint8, shape)
    actions = np.zeros((frames, len(INSTRUCTIONS), 7), np.float32)
    places = np.zeros((frames, PLACES), np.float32)
    instructions = tuple(INSTRUCTIONS)
    done = 0
    for seed in starts:
        asked = seed % len(instructions)
        drive = driver_of(seed)
        observation = world.reset(seed, instructions[asked])
        left = _MAX_STEPS
        while left:
            state = world.state
            labels = [expert_action(state, text) for text in instructions]
            images[done], actions[done] = observation.image, labels
            places[done] = _places(state)
            done += 1
            if done == frames:
                images.flush()
                np.save(directory / _PLACES, places)
                np.save(directory / _ACTIONS, actions)
                return
            observation = world.step(drive(observation, labels[asked]))
            left = min(left - 1, _STEPS_AFTER_SUCCESS if world.success else left)
    raise ValueError(f'{done} of {frames} frames, then the starts were used up')


def _places(state: State) -> NDArray[np.float64]:
    """Return the places of tool and blocks, and the fingers: float64 [PLACES].

    These are positions, the direction in which the fingers move, and their distance, in units in
    which all values are about 1.
    """
    poses = [state.tool, *(state.blocks[colour] for colour in COLOURS)]
    positions = np.concatenate([pose.position for pose in poses])
    fingers = state.tool.rotation[:2, 0]
    return np.concatenate([positions / 0.05, fingers / 0.2, [state.opening / 0.5]])


def shaky_expert(seed: int) -> Driver:
    """Return a driver that takes the expert's actions, with disturbances in most episodes.

    In a third of the episodes there are none. In the others there are noise, pushes and wrong
    gripper commands.
    """
    random = np.random.default_rng([seed, 1])
    if seed // 2 % 3 == 0:
        return lambda _, expert: expert
    sigma_m = random.uniform(0.006, 0.012)
    push, pushes_left = np.zeros(3), 0

    def drive(_: Observation, expert: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal push, pushes_left
        action = expert.copy()
        if pushes_left == 0 and random.random() < 0.08:
            push, pushes_left = random.normal(0, 0.03, 3), int(random.integers(1, 3))
        if pushes_left:
            action[:3], pushes_left = push, pushes_left - 1
        action[:3] += random.normal(0, sigma_m, 3)
        action[3:6] += random.normal(0, 0.04, 3) * (1, 1, 2)
        if random.random() < 0.04:
            action[6] = 1 - action[6]
        return action

    return drive
