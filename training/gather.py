# SPDX-License-Identifier: Apache-2.0
"""The processes that make the data of models/blocks4, while it is trained.

Each has a world of its own and a copy of the policy, which it renews from shared memory. The
expert, the expert with a shaky hand, or the policy drives; the expert labels every image that is
met with a chunk for each instruction (DAgger, Ross et al. 2011, arXiv:1011.0686). At the end the
processes play the episodes of an evaluation.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.chunks import Chunker
from training.frames import shaky_expert
from vla_ros.simulation import CONTRACT, Pose, State
from vla_ros.simulation.blocks4 import INSTRUCTIONS, Blocks4World
from vla_ros.simulation.blocks4_expert import expert_chunk
from vla_ros.simulation.scene import COLOURS, IMAGE_SIZE
from vla_ros.types import ActionSpace, Observation, PolicySpec

HORIZON, ACTION_DIM, STATE_DIM = 8, 7, 8
PLACES = 3 * (1 + len(COLOURS)) + 3 + 2 * len(COLOURS)
LABELS = len(INSTRUCTIONS) * HORIZON * ACTION_DIM
NUMBERS = LABELS + STATE_DIM + PLACES + 1  # of a frame: labels, state, places, who drove
SPEC = PolicySpec(
    ('image',), STATE_DIM, ACTION_DIM, HORIZON, ActionSpace.POSE_DELTA,
    ('x', 'y', 'z', 'u', 'v', 'w', 'gripper'), CONTRACT.period_s, False, True,
)  # fmt: skip

_STARTS = 1_000_000  # seeds of each process, one process after the other
_MAX_STEPS = 60
_STEPS_AFTER_SUCCESS = 3
_MID_ACTION = 0.15  # share of the actions with an image amid the motion
_STEADY = 0.6  # share of the policy's episodes in which nothing disturbs it
WORK, POLICY, JUDGE, LEAVE = range(4)  # what the processes do


@dataclass(frozen=True)
class Way:
    """How chunks are played in an evaluation.

    :param rows: executed of each chunk.
    :param lag: periods from an image to its chunk; the arm goes on with the chunk before.
    """

    name: str
    rows: int
    lag: int = 0
    most: int = 60  # periods of an episode


WAYS = (Way('8 rows', 8), Way('4 rows', 4), Way('1 s', 8, 5, 120), Way('2 s', 8, 10, 150))


class Shared:
    """Memory that all processes share: files, mapped.

    ``images`` uint8 [P, S, 224, 224, 3] and ``numbers`` float32 [P, S, NUMBERS] are a ring of S
    frames for each process; ``counts`` int64 [P, 3]: frames written, frames read, episodes;
    ``orders`` int64 [3]: what to do, the version of the weights (odd while they are written), the
    starts to judge; ``weights`` float32 [W]; ``judged`` int64 [P, ways, I, 2]: episodes and
    successes.
    """

    def __init__(self, directory: Path, processes: int, slots: int, weights: int) -> None:
        self.directory, self.processes, self.slots = directory, processes, slots
        self._weights = weights
        image = (IMAGE_SIZE, IMAGE_SIZE, 3)
        self.images = self._mapped('images', np.uint8, (processes, slots, *image))
        self.numbers = self._mapped('numbers', np.float32, (processes, slots, NUMBERS))
        self.counts = self._mapped('counts', np.int64, (processes, 3))
        self.orders = self._mapped('orders', np.int64, (3,))
        self.weights = self._mapped('weights', np.float32, (weights,))
        judged = (processes, len(WAYS), len(INSTRUCTIONS), 2)
        self.judged = self._mapped('judged', np.int64, judged)

    def _mapped(self, name: str, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
        path = self.directory / name
        return np.memmap(path, dtype, 'r+' if path.exists() else 'w+', shape=shape)

    def __reduce__(self) -> tuple[type[Shared], tuple[Path, int, int, int]]:
        return Shared, (self.directory, self.processes, self.slots, self._weights)


def work(shared: Shared, rank: int, fresh: Path, first_start: int) -> None:
    """Make frames, until the order is to leave.

    :param rank: number of this process.
    :param fresh: a checkpoint of the model's layout.
    """
    torch.set_num_threads(1)
    os.nice(1)
    with Blocks4World() as world:
        world.equip(SPEC)
        Gatherer(shared, rank, fresh, first_start, world).run()


class Gatherer:
    """One process."""

    def __init__(
        self,
        shared: Shared,
        rank: int,
        fresh: Path,
        first_start: int,
        world: Blocks4World,
    ) -> None:
        self._shared, self._rank, self._world = shared, rank, world
        self._starts = iter(range(first_start + rank * _STARTS, first_start + (rank + 1) * _STARTS))
        self._random = np.random.default_rng([first_start, rank])
        self._chunker = Chunker(fresh, INSTRUCTIONS, PLACES).eval().requires_grad_(False)
        self._actions = self._chunker.statistics
        assert self._actions.state is not None
        self._states = self._actions.state
        self._version = 0
        self._drives = False  # whether the policy drives the episode
        self._seen: Observation | None = None  # the newest observation, if it was drawn

    def run(self) -> None:
        while (order := self._shared.orders[0]) != LEAVE:
            if order == JUDGE:
                self._judge()
                while self._shared.orders[0] == JUDGE:
                    time.sleep(0.1)
                continue
            self._episode(order == POLICY)
            self._shared.counts[self._rank, 2] += 1

    def _episode(self, has_policy: bool) -> None:
        seed, random = next(self._starts), self._random
        asked = int(random.integers(len(INSTRUCTIONS)))
        self._drives = has_policy and random.random() < 0.75 and self._renew()
        observation = self._world.reset(seed, INSTRUCTIONS[asked])
        self._keep(observation)
        self._left = _MAX_STEPS
        if self._drives:
            disturb = None if random.random() < _STEADY else shaky_expert(seed // 6 * 6 + 2)
            self._drive(observation, asked, disturb)
            return
        hand = shaky_expert(seed)
        while self._left > 0:
            action = expert_chunk(self._world.state, INSTRUCTIONS[asked], 1)[0]
            observation = self._act(hand(observation, action))

    def _drive(self, observation: Observation, asked: int, disturb: Callable | None) -> None:
        """Let the policy drive, often with a latency."""
        random = self._random
        lags = random.random() < 0.5
        rows = int(random.integers(1, HORIZON + 1))
        lag = int(random.integers(0, 11)) if lags else 0
        for action, start in self._played(observation, asked, rows, lag, random.random() < 0.7):
            if disturb is not None and action is not None:
                action = disturb(observation, action)
            observation = self._act(action, start)
            self._seen = observation
            if self._left <= 0 or self._shared.orders[0] >= JUDGE:
                return

    def _played(
        self, observation: Observation, asked: int, rows: int, lag: int, from_pose: bool
    ) -> Iterator[tuple[NDArray[np.float64] | None, Pose | None]]:
        """Yield actions of chunk after chunk, each with the pose that it starts from.

        None is no action: the arm rests.
        """
        self._seen = observation
        rest: list[tuple[NDArray[np.float64] | None, Pose | None]] = []
        while True:
            pose, done = self._world.pose, 0
            chunk = self._chunk(self._seen or self._world.look(), asked)
            for _ in range(lag):
                if rest:
                    done += 1
                    yield rest.pop(0)
                else:
                    yield None, None
                    if not from_pose:
                        break
            steps: list[tuple[NDArray[np.float64] | None, Pose | None]] = []
            for action in chunk:
                steps.append((action, pose if from_pose else None))
                pose = self._world.moved(pose, action)
            now = min(done, HORIZON - 1)
            yield from steps[now : now + rows]
            rest = steps[now + rows :]

    def _act(self, action: NDArray[np.float64] | None, start: Pose | None = None) -> Observation:
        """Execute an action for a period, and return what is seen then; or rest."""
        world, period_s = self._world, CONTRACT.period_s
        self._left -= 1
        if action is not None:
            world.begin(action, start)
        if action is not None and self._random.random() < _MID_ACTION:
            share = self._random.uniform(0.2, 0.9)
            world.advance(share * period_s)
            self._keep(world.look())
            world.advance((1 - share) * period_s)
        else:
            world.advance(period_s)
        observation = world.look()
        if action is not None:
            self._keep(observation)
        if world.success:
            self._left = min(self._left, _STEPS_AFTER_SUCCESS)
        return observation

    def _keep(self, observation: Observation) -> None:
        """Label what is seen, and put it into the ring; wait while that is full."""
        shared, rank = self._shared, self._rank
        written = int(shared.counts[rank, 0])
        while written - shared.counts[rank, 1] >= shared.slots:
            if shared.orders[0] >= JUDGE:
                return
            time.sleep(0.002)
        state, slot = self._world.state, written % shared.slots
        labels = np.stack([expert_chunk(state, text, HORIZON) for text in INSTRUCTIONS])
        shared.images[rank, slot] = observation.image
        shared.numbers[rank, slot] = np.concatenate(
            [
                self._actions.normalize(labels).ravel(),
                self._states.normalize(_state(observation)),
                places(state),
                [float(self._drives)],
            ]
        )
        shared.counts[rank, 0] = written + 1

    def _renew(self) -> bool:
        """Take the newest weights; False if there are none yet."""
        shared = self._shared
        while True:
            version = int(shared.orders[1])
            if version == self._version:
                return version > 0
            weights = np.array(shared.weights)
            if version % 2 == 0 and shared.orders[1] == version:
                break
            time.sleep(0.001)
        read_weights(self._chunker, torch.from_numpy(weights))
        self._version = version
        return True

    @torch.inference_mode()
    def _chunk(self, observation: Observation, asked: int) -> NDArray[np.float64]:
        """Return the policy's chunk, float64 [K, D]."""
        image = torch.from_numpy(observation.image).permute(2, 0, 1)[None].float()
        state = torch.from_numpy(self._states.normalize(_state(observation))[None]).float()
        pixels = self._chunker.pixel_values(image)
        chunks, _ = self._chunker(pixels, state, slice(asked, asked + 1))
        return self._actions.unnormalize(chunks[0, 0].numpy())

    def _judge(self) -> None:
        """Play this process's share of the evaluation."""
        if not self._renew():
            return
        self._drives = True
        shared = self._shared
        for seed in range(self._rank, int(shared.orders[2]), shared.processes):
            for number, way in enumerate(WAYS):
                for asked in range(len(INSTRUCTIONS)):
                    if shared.orders[0] != JUDGE:
                        return
                    done = self._succeeds(seed, asked, way)
                    shared.judged[self._rank, number, asked] += (1, done)

    def _succeeds(self, seed: int, asked: int, way: Way) -> bool:
        world = self._world
        observation = world.reset(seed, INSTRUCTIONS[asked])
        left = way.most
        for action, start in self._played(observation, asked, way.rows, way.lag, way.lag > 0):
            if action is not None:
                world.begin(action, start)
            world.advance(CONTRACT.period_s)
            self._seen, left = None, left - 1
            if world.success or not left:
                break
        return world.success


def _state(observation: Observation) -> NDArray[np.float64]:
    assert observation.state is not None
    return observation.state


def places(state: State) -> NDArray[np.float64]:
    """Return the places of tool and blocks, the fingers, and the blocks' turns: float64 [PLACES].

    These are positions, the direction in which the fingers move, their distance, and four times the
    angle of each block, in units in which all values are about 1.
    """
    poses = [state.tool, *(state.blocks[colour] for colour in COLOURS)]
    positions = np.concatenate([pose.position for pose in poses])
    turns = []
    for pose in poses[1:]:
        angle = 4 * np.arctan2(pose.rotation[1, 0], pose.rotation[0, 0])
        turns += [np.cos(angle), np.sin(angle)]
    fingers = state.tool.rotation[:2, 0]
    return np.concatenate([positions / 0.05, fingers / 0.2, [state.opening / 0.5], turns])


def read_weights(chunker: Chunker, weights: torch.Tensor) -> None:
    """Set the trained parameters from one vector, in their order."""
    start = 0
    with torch.no_grad():
        for value in chunker.learning().values():
            value.copy_(weights[start : start + value.numel()].view_as(value))
            start += value.numel()
