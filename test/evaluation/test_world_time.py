# SPDX-License-Identifier: Apache-2.0
"""Episodes in world time: the expert's chunks, late by up to two seconds, without ROS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_ros.client import Answer, ReceivedAction
from vla_ros.evaluation.episode import Episode
from vla_ros.evaluation.pace import Pace
from vla_ros.evaluation.play import play
from vla_ros.graph.stamps import to_duration, to_time
from vla_ros.reasons import Reason, State
from vla_ros.simulation import Blocks4World
from vla_ros.simulation import State as Place
from vla_ros.simulation.blocks4 import INSTRUCTIONS
from vla_ros.simulation.blocks4_expert import expert_chunk
from vla_ros.types import Observation

# From the world's state and the instruction to a chunk, float64 [K, 7].
Policy = Callable[[Place, str], NDArray[np.float64]]


class BlindWorld(Blocks4World):
    """Its images are empty, since the expert sees the state."""

    def look(self) -> Observation:
        return Observation.of_one(np.zeros((2, 2, 3), np.uint8), self.instructions[0], 0)


class Robot:
    """A robot whose node answers immediately, by a clock that only moves with the world."""

    def __init__(self, world: BlindWorld, policy: Policy, timing: str = 'published') -> None:
        self._world, self._policy = world, policy
        self._timed = timing == 'timed'
        self._now_ns = 10**9
        self._said = ''
        self._seen: dict[int, Place] = {}
        self.sent: list[tuple[int, int]] = []  # now, and stamp
        self.latest = SimpleNamespace(
            policy=SimpleNamespace(steady_inference_s=0.0),
            motion=SimpleNamespace(chunk_timing=timing),
            header=SimpleNamespace(stamp=to_time(0)),
            message='',
            state=State.RUNNING,
        )

    def now_ns(self) -> int:
        # It is read when an observation is captured.
        self._seen.setdefault(self._now_ns, self._world.state)
        return self._now_ns

    def monotonic_s(self) -> float:
        return self._now_ns / 1e9

    def is_in_force(self, text: str) -> bool:
        return False

    def instruct(self, text: str) -> Answer:
        self._said = text
        return Answer(True, State.RUNNING, Reason.NONE, '')

    def let_time_pass(self, seconds: float) -> None:
        self._now_ns += round(1e9 * seconds)

    def spin_until(self, at_s: float) -> None: ...

    def seen(self, observation: Any) -> Any:
        return observation

    def send(self, seen: Any, stamp_ns: int) -> None:
        self.sent.append((self._now_ns, stamp_ns))

    def next_action(self, timeout_s: float, of_stamp_ns: int) -> ReceivedAction:
        actions = self._policy(self._seen[of_stamp_ns], self._said)
        due_ns = of_stamp_ns if self._timed else self._now_ns
        message = SimpleNamespace(period=to_duration(0.0), due=to_time(due_ns))
        return ReceivedAction(message, actions, of_stamp_ns, 0.0)


@pytest.fixture(scope='module')
def world() -> Iterator[BlindWorld]:
    with BlindWorld() as world:
        yield world


def played(world: BlindWorld, robot: Robot, pace: Pace, seed: int, instruction: str) -> Episode:
    return play(
        robot,  # type: ignore[arg-type]
        *(world, seed, instruction, instruction, pace),
        lambda seen, action: None,
    )


@pytest.mark.parametrize('latency_s', [0.0, 1.0, 2.0])
def test_from_the_pose_late_chunks_of_the_expert_are_right(
    world: BlindWorld, latency_s: float
) -> None:
    pace = Pace('world', 30.0, latency_s, 'image', 30.0)
    for seed, instruction in enumerate(2 * INSTRUCTIONS):
        episode = played(world, Robot(world, expert_chunk), pace, seed, instruction)
        assert episode.success, (instruction, episode)


def test_images_come_when_the_node_is_free_and_one_inference_runs_at_a_time(
    world: BlindWorld,
) -> None:
    robot = Robot(world, lambda state, said: 0.0 * expert_chunk(state, said))
    episode = played(world, robot, Pace('world', 30.0, 0.5, 'now', 4.0), 0, INSTRUCTIONS[0])
    assert set(episode.latencies_s) == {0.5}
    sent, stamps = (np.array(times) / 1e9 for times in zip(*robot.sent, strict=True))
    assert sent - stamps == pytest.approx(0.5)
    assert np.diff(stamps) == pytest.approx(0.52)  # the first of 25 images a second
    assert episode.duration_s == pytest.approx(4.0)
    # Rows of 0.2 s: the arm waits for the first chunk, and never after it.
    assert episode.steps == 18


def test_timed_rows_that_are_past_are_skipped(world: BlindWorld) -> None:
    def count(state: Place, said: str) -> NDArray[np.float64]:
        rows = np.zeros((8, 7))
        rows[:, 0] = np.arange(8) / 1e6
        return rows

    begun: list[int] = []
    robot = Robot(world, count, timing='timed')
    play(
        robot,  # type: ignore[arg-type]
        *(world, 0, INSTRUCTIONS[0], INSTRUCTIONS[0], Pace('world', 30.0, 1.0, 'now', 3.0)),
        lambda seen, row: begun.append(-1 if row is None else round(1e6 * row[0])),
    )
    assert begun == [5, 6, 7, 5, 6, 7, -1]


@pytest.mark.parametrize(
    ('rows', 'latency_s', 'timing', 'between_s', 'steps'),
    [
        (None, 0.0, 'published', 0.04, 20),
        (8, 0.0, 'published', 1.6, 20),
        (3, 0.0, 'published', 0.6, 20),
        (10, 0.0, 'published', 2.0, 16),  # the arm rests for the time of two rows
        (8, 0.4, 'published', 2.0, 16),  # the arm waits for its chunk
        (5, 0.4, 'published', 1.4, 18),  # and does not: it has three rows left
        (8, 0.4, 'timed', 1.6, 14),
    ],
)
def test_with_rows_the_next_image_is_the_first_one_after_them(
    world: BlindWorld,
    rows: int | None,
    latency_s: float,
    timing: str,
    between_s: float,
    steps: int,
) -> None:
    robot = Robot(world, lambda state, said: 0.0 * expert_chunk(state, said), timing)
    pace = Pace('world', 30.0, latency_s, 'now', 4.0, rows)
    episode = played(world, robot, pace, 0, INSTRUCTIONS[0])
    stamps = np.array([stamp_ns for _, stamp_ns in robot.sent]) / 1e9
    assert np.diff(stamps) == pytest.approx(between_s)
    assert episode.steps == steps


def test_a_hold_ends_the_chunk_and_only_one_that_is_later(world: BlindWorld) -> None:
    def hold(state: Place, said: str) -> NDArray[np.float64]:
        robot.latest.state = State.HOLDING
        return expert_chunk(state, said)

    robot = Robot(world, hold)
    pace = Pace('world', 30.0, 2.0, 'now', 4.0)
    assert played(world, robot, pace, 0, INSTRUCTIONS[0]).steps == 8  # the status is older
    robot.latest.header.stamp = to_time(100 * 10**9)
    assert played(world, robot, pace, 0, INSTRUCTIONS[0]).steps == 1
