# SPDX-License-Identifier: Apache-2.0
"""When a simulated robot acts on what, by a clock that only moves when it waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_ros.client import Answer, ReceivedAction
from vla_ros.evaluation.episode import EvaluationError
from vla_ros.evaluation.pace import Pace
from vla_ros.evaluation.play import play
from vla_ros.graph.stamps import to_duration, to_time
from vla_ros.motion.contract import load_contracts
from vla_ros.reasons import Reason, State
from vla_ros.types import Observation, PolicySpec

NO_PERIOD = to_duration(0.0)


def received(
    stamp_ns: int, arrived_s: float, rows: int = 1, first: float = 0.0, due_s: float = 0.0
) -> ReceivedAction:
    """A chunk whose rows are ``first``, ``first`` + 1, ..., due when it came or at ``due_s``."""
    due = to_time(round(1e9 * (due_s or arrived_s)))
    actions = np.zeros((rows, 7))
    actions[:, 0] = first + np.arange(rows)
    actions[:, 6] = 1.0  # open, as at the start
    message = SimpleNamespace(due=due, period=NO_PERIOD)
    return ReceivedAction(message, actions, stamp_ns, arrived_s)


class FakeWorld:
    """The tool's pose is the time, and moves by an action's first value; looking may take time."""

    contract = load_contracts()['vla_ros_blocks']
    node_parameters: Mapping[str, str] = MappingProxyType({})
    instructions = ('go',)
    max_steps = 40
    success = False

    def __init__(self, clock: SimpleNamespace, looking_s: float = 0.0) -> None:
        self.time_s = 0.0
        self.began: list[tuple[float, Any]] = []  # when in the world's time, and from where
        self.rows: list[float] = []  # the first value of each
        self._clock, self._looking_s = clock, looking_s

    def __enter__(self) -> FakeWorld:
        return self

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    def reset(self, seed: int, instruction: str) -> Observation:
        self.time_s = 0.0
        return self.look()

    def look(self) -> Observation:
        self._clock.s += self._looking_s
        image = np.full((2, 2, 3), min(255, round(10 * self.time_s)), np.uint8)
        return Observation.of_one(image, 'go', 0)

    def equip(self, spec: PolicySpec) -> None: ...

    def step(self, action: NDArray[np.float64]) -> Observation:
        self.begin(action)
        self.time_s += self.contract.period_s
        return self.look()

    @property
    def pose(self) -> float:
        return self.time_s

    def begin(self, action: NDArray[np.float64], start: Any = None) -> None:
        self.began.append((self.time_s, start))
        self.rows.append(float(action[0]))

    def moved(self, pose: float, action: NDArray[np.float64]) -> float:
        return pose + float(action[0])

    def apart(self, one: float, other: float) -> float:
        return abs(one - other)

    def advance(self, seconds: float) -> None:
        self.time_s += seconds

    def drive(self, twist: NDArray[np.float64], gripper_open: bool, seconds: float) -> None:
        self.advance(seconds)


class FakeRobot:
    """Answers each image after ``latency_s``; None: never.

    :param answer: makes the chunk from the number of the image, its stamp and the arrival.
    """

    def __init__(
        self,
        latency_s: float | None,
        answer: Callable[[int, int, float], ReceivedAction | None] = lambda _, *when: received(
            *when
        ),
    ) -> None:
        self.clock = SimpleNamespace(s=100.0)
        self.latency_s = latency_s
        self._answer = answer
        self.newest: ReceivedAction | None = None
        self.latest = SimpleNamespace(
            policy=SimpleNamespace(steady_inference_s=0.0),
            message='RUNNING: busy',
            state=State.RUNNING,
        )
        self.shown: list[tuple[float, int]] = []
        self._coming: list[ReceivedAction] = []

    def now_ns(self) -> int:
        return round(self.clock.s * 1e9)

    def monotonic_s(self) -> float:
        return float(self.clock.s)

    def is_in_force(self, instruction: str) -> bool:
        return False

    def instruct(self, instruction: str) -> Answer:
        return Answer(True, State.RUNNING, Reason.NONE, '')

    def let_time_pass(self, seconds: float) -> None: ...

    def seen(self, observation: Observation) -> Observation:
        return observation

    def send(self, seen: Observation, stamp_ns: int) -> None:
        self.shown.append((self.clock.s, stamp_ns))
        if self.latency_s is None:
            return
        coming = self._answer(len(self.shown), stamp_ns, self.clock.s + self.latency_s)
        if coming is not None:
            self._coming.append(coming)

    def spin_until(self, at_s: float) -> None:
        self.clock.s = max(self.clock.s, at_s)
        while self._coming and self._coming[0].arrived_s <= self.clock.s:
            self.newest = self._coming.pop(0)

    def next_action(self, timeout_s: float, of_stamp_ns: int) -> ReceivedAction | None:
        ends_s = self.clock.s + timeout_s
        while not self._has(of_stamp_ns) and self.clock.s < ends_s:
            self.spin_until(min(self.clock.s + 0.001, ends_s))
        return self.newest if self._has(of_stamp_ns) else None

    def _has(self, stamp_ns: int) -> bool:
        return self.newest is not None and self.newest.stamp_ns == stamp_ns


def played(robot: FakeRobot, world: FakeWorld, pace: Pace) -> Any:
    seen: list[Any] = []
    watch = lambda observation, action: seen.append((observation, action))  # noqa: E731
    episode = play(robot, world, 0, 'go', 'go', pace, watch)  # type: ignore[arg-type]
    return episode, seen


@pytest.mark.parametrize('latency_s', [0.005, 0.03, 0.04, 0.19, 0.21])
@pytest.mark.parametrize('added_s', [0.0, 0.2, 0.25, 1.0])
@pytest.mark.parametrize('rate_hz', [30.0, 5.0])
def test_an_action_is_never_felt_sooner_than_it_came(
    latency_s: float, added_s: float, rate_hz: float
) -> None:
    """From capture to the arm, in the world's own time; and later by a camera's period at most,
    or by what the arm has to do before."""
    robot = FakeRobot(latency_s)
    world = FakeWorld(robot.clock)
    episode, _ = played(robot, world, Pace('free', rate_hz, added_s, 'image', 6.0))
    assert episode.steps == len(world.began) > 3
    felt_s = np.array([began_s - captured_s for began_s, captured_s in world.began])
    total_s = latency_s + added_s
    assert (felt_s >= total_s - 1e-6).all()
    assert felt_s[0] <= total_s + 2 / rate_hz + 1e-6
    assert (felt_s <= total_s + 2 / rate_hz + world.contract.period_s + 1e-6).all()
    told_s = np.array(episode.latencies_s)
    assert (told_s >= total_s - 1e-6).all()
    assert (told_s <= felt_s + 1e-6).all()


def test_pictures_come_late_with_the_stamp_of_their_capture() -> None:
    robot = FakeRobot(0.01)
    played(robot, FakeWorld(robot.clock), Pace('free', 30.0, 0.2, 'now', 2.0))
    late_s = [at_s - stamp_ns / 1e9 for at_s, stamp_ns in robot.shown]
    assert late_s == pytest.approx([0.2] * len(late_s), abs=1e-6)


def test_the_arm_finishes_what_it_does_and_takes_each_action_once() -> None:
    robot = FakeRobot(0.01)
    world = FakeWorld(robot.clock)
    played(robot, world, Pace('free', 30.0, time_limit_s=4.0))
    began_s = [at_s for at_s, _ in world.began]
    assert np.diff(began_s) == pytest.approx(world.contract.period_s)
    assert {start for _, start in world.began} == {None}  # from where the arm is


def test_a_slow_simulation_skips_pictures_and_not_time() -> None:
    robot = FakeRobot(0.01)
    world = FakeWorld(robot.clock, looking_s=0.08)
    started_s = robot.clock.s
    episode, _ = played(robot, world, Pace('free', 30.0, time_limit_s=4.0))
    assert world.time_s == pytest.approx(episode.duration_s)
    assert robot.clock.s - started_s == pytest.approx(episode.duration_s, abs=0.2)
    assert episode.skipped > 50
    assert len(robot.shown) + episode.skipped == pytest.approx(4.0 * 30, abs=3)


def test_actions_to_pictures_of_somebody_else_are_not_done() -> None:
    robot = FakeRobot(None)
    robot.newest = received(123, 0.0)
    world = FakeWorld(robot.clock)
    episode, _ = played(robot, world, Pace('free', 30.0, time_limit_s=20.0))
    assert (episode.steps, episode.success, world.began) == (0, False, [])


def test_in_step_the_world_waits() -> None:
    robot = FakeRobot(3.0)
    world = FakeWorld(robot.clock)
    episode, seen = played(robot, world, Pace(time_limit_s=1.0))
    assert (episode.steps, episode.duration_s, episode.unanswered) == (5, pytest.approx(1.0), 0)
    assert episode.latencies_s == pytest.approx([3.0] * 5, abs=0.01)
    assert [action is None for _, action in seen] == [False] * 5 + [True]


def test_a_picture_without_an_answer_ends_the_episode_and_nothing_else() -> None:
    robot = FakeRobot(None)
    episode, _ = played(robot, FakeWorld(robot.clock), Pace())
    assert (episode.steps, episode.success, episode.unanswered) == (0, False, 3)
    assert episode.failure == (
        'no action came to one image, which was sent 3 times; the last status was RUNNING: busy'
    )


def test_a_world_that_waits_can_not_run_freely() -> None:
    robot = FakeRobot(0.1)
    world = SimpleNamespace(
        contract=FakeWorld.contract, max_steps=1, reset=lambda seed, instruction: None
    )
    with pytest.raises(EvaluationError, match='only in step'):
        played(robot, world, Pace('free'))  # type: ignore[arg-type]


# -- chunks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(('rows', 'executed'), [(None, 8), (3, 3), (20, 8)])
def test_in_step_each_row_is_executed_once_and_in_order(rows: int | None, executed: int) -> None:
    robot = FakeRobot(0.01, lambda number, *when: received(*when, 8, 100.0 * number))
    world = FakeWorld(robot.clock)
    episode, seen = played(robot, world, Pace(time_limit_s=5.0, rows=rows))
    expected = [100.0 * (1 + step // executed) + step % executed for step in range(25)]
    assert world.rows == [action[0] for _, action in seen[:-1]] == expected
    assert (episode.steps, episode.duration_s) == (25, pytest.approx(5.0))
    chunks = -(-25 // executed)
    assert len(episode.latencies_s) == len(robot.shown) == chunks


def test_in_step_a_chunk_ends_with_the_episode() -> None:
    robot = FakeRobot(0.01, lambda number, *when: received(*when, 8))
    world = FakeWorld(robot.clock)
    look = world.look

    def step(action: object) -> Any:
        world.success = True
        return look()

    world.step = step  # type: ignore[method-assign]
    episode, _ = played(robot, world, Pace())
    assert (episode.steps, episode.success) == (1, True)


def only_first(number: int, *when: Any) -> ReceivedAction | None:
    """A chunk of eight rows after the first image, and nothing more."""
    return received(*when, 8) if number == 1 else None


def test_free_running_each_row_begins_when_it_is_due() -> None:
    robot = FakeRobot(0.01, only_first)
    world = FakeWorld(robot.clock)
    episode, _ = played(robot, world, Pace('free', 30.0, time_limit_s=4.0))
    assert world.rows == list(range(8)) and episode.steps == 8
    began_s = [at_s for at_s, _ in world.began]
    assert np.diff(began_s) == pytest.approx(world.contract.period_s, abs=1 / 30 + 1e-6)
    assert len(episode.latencies_s) == 1


def test_free_running_no_row_begins_before_it_is_due() -> None:
    robot = FakeRobot(
        0.01,
        lambda number, *when: received(*when, 8, 0.0, when[1] + 1.0) if number == 1 else None,
    )
    world = FakeWorld(robot.clock)
    played(robot, world, Pace('free', 30.0, time_limit_s=4.0))
    assert world.rows == list(range(8))
    assert world.began[0][0] == pytest.approx(1.01, abs=2 / 30)


def test_free_running_rows_that_are_over_are_skipped() -> None:
    """But for the last one: what came is executed, as for chunks of one row."""
    for latency_s, executed in ((0.9, [4, 5, 6, 7]), (2.5, [7])):
        robot = FakeRobot(
            latency_s,
            lambda number, stamp_ns, at_s: (
                received(stamp_ns, at_s, 8, 0.0, stamp_ns / 1e9) if number == 1 else None
            ),
        )
        world = FakeWorld(robot.clock)
        played(robot, world, Pace('free', 30.0, time_limit_s=4.0))
        assert world.rows == executed


def test_free_running_a_newer_chunk_replaces_the_rest() -> None:
    def answer(number: int, *when: Any) -> ReceivedAction | None:
        return received(*when, 8, 100.0 * number) if number % 16 == 1 else None

    robot = FakeRobot(0.01, answer)
    world = FakeWorld(robot.clock)
    episode, _ = played(robot, world, Pace('free', 30.0, time_limit_s=2.0))
    chunks = [row // 100 for row in world.rows]
    assert chunks == sorted(chunks) and set(chunks) == {1, 17, 33, 49}
    for chunk in set(chunks):
        rows = [row % 100 for row in world.rows if row // 100 == chunk]
        assert rows == list(range(len(rows))) and 2 <= len(rows) <= 4
    assert len(episode.latencies_s) == 4


def test_free_running_a_hold_ends_the_chunk() -> None:
    robot = FakeRobot(0.01, only_first)
    world = FakeWorld(robot.clock)
    begin = world.begin

    def begin_and_hold(action: NDArray[np.float64], start: Any = None) -> None:
        begin(action, start)
        if len(world.rows) == 3:
            robot.latest.state = State.HOLDING

    world.begin = begin_and_hold  # type: ignore[method-assign]
    played(robot, world, Pace('free', 30.0, time_limit_s=4.0))
    assert world.rows == [0, 1, 2]


def test_a_row_of_deltas_from_the_image_starts_where_the_rows_before_end() -> None:
    robot = FakeRobot(0.01, only_first)
    world = FakeWorld(robot.clock)
    played(robot, world, Pace('free', 30.0, 0.0, 'image', time_limit_s=4.0))
    starts = [start for _, start in world.began]
    assert starts == [sum(range(row)) for row in range(8)]  # the image was captured at 0
