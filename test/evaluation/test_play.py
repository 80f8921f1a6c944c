"""When a simulated robot acts on what, by a clock that only moves when it waits."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_ros.client import Answer, ReceivedAction
from vla_ros.evaluation.episode import EvaluationError
from vla_ros.evaluation.play import Pace, play
from vla_ros.motion.contract import load_contracts
from vla_ros.reasons import Reason, State
from vla_ros.types import Observation

NOTHING = np.zeros((1, 7))


def received(stamp_ns: int, arrived_s: float) -> ReceivedAction:
    return ReceivedAction(SimpleNamespace(), NOTHING, stamp_ns, arrived_s)


class FakeWorld:
    """One number says where the tool is; looking and advancing may take the machine's time."""

    contract = load_contracts()['vla_ros_blocks']
    node_parameters: Mapping[str, str] = MappingProxyType({})
    instructions = ('go',)
    max_steps = 40
    success = False

    def __init__(self, clock: SimpleNamespace, looking_s: float = 0.0) -> None:
        self.time_s = 0.0
        self.began: list[tuple[float, Any]] = []  # when in the world's time, and from where
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

    def step(self, action: NDArray[np.float64]) -> Observation:
        self.began.append((self.time_s, None))
        self.time_s += self.contract.period_s
        return self.look()

    @property
    def pose(self) -> float:
        return self.time_s

    def begin(self, action: NDArray[np.float64], start: Any = None) -> None:
        self.began.append((self.time_s, start))

    def advance(self, seconds: float) -> None:
        self.time_s += seconds


class FakeRobot:
    """Answers each picture that it is shown after ``latency_s``; None: never."""

    def __init__(self, latency_s: float | None) -> None:
        self.clock = SimpleNamespace(s=100.0)
        self.latency_s = latency_s
        self.newest: ReceivedAction | None = None
        self.latest = SimpleNamespace(
            policy=SimpleNamespace(steady_inference_s=0.0), message='RUNNING: busy'
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

    def show_image(self, image: NDArray[np.uint8], stamp_ns: int) -> NDArray[np.uint8]:
        self.shown.append((self.clock.s, stamp_ns))
        if self.latency_s is not None:
            self._coming.append(received(stamp_ns, self.clock.s + self.latency_s))
        return image

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
    watch = lambda image, action: seen.append((image, action))  # noqa: E731
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
    episode, _ = played(robot, world, Pace(True, rate_hz, added_s, 'picture', 6.0))
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
    played(robot, FakeWorld(robot.clock), Pace(True, 30.0, 0.2, 'now', 2.0))
    late_s = [at_s - stamp_ns / 1e9 for at_s, stamp_ns in robot.shown]
    assert late_s == pytest.approx([0.2] * len(late_s), abs=1e-6)


def test_the_arm_finishes_what_it_does_and_takes_each_action_once() -> None:
    robot = FakeRobot(0.01)
    world = FakeWorld(robot.clock)
    played(robot, world, Pace(True, 30.0, time_limit_s=4.0))
    began_s = [at_s for at_s, _ in world.began]
    assert np.diff(began_s) == pytest.approx(world.contract.period_s)
    assert {start for _, start in world.began} == {None}  # from where the arm is


def test_a_slow_simulation_skips_pictures_and_not_time() -> None:
    robot = FakeRobot(0.01)
    world = FakeWorld(robot.clock, looking_s=0.08)
    started_s = robot.clock.s
    episode, _ = played(robot, world, Pace(True, 30.0, time_limit_s=4.0))
    assert world.time_s == pytest.approx(episode.duration_s)
    assert robot.clock.s - started_s == pytest.approx(episode.duration_s, abs=0.2)
    assert episode.skipped > 50
    assert len(robot.shown) + episode.skipped == pytest.approx(4.0 * 30, abs=3)


def test_actions_to_pictures_of_somebody_else_are_not_done() -> None:
    robot = FakeRobot(None)
    robot.newest = received(123, 0.0)
    world = FakeWorld(robot.clock)
    episode, _ = played(robot, world, Pace(True, 30.0, time_limit_s=20.0))
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
        'no action came to one picture, shown 3 times; the last status was RUNNING: busy'
    )


def test_a_world_that_waits_can_not_run_freely() -> None:
    robot = FakeRobot(0.1)
    world = SimpleNamespace(
        contract=FakeWorld.contract, max_steps=1, reset=lambda seed, instruction: None
    )
    with pytest.raises(EvaluationError, match='only in step'):
        played(robot, world, Pace(free=True))  # type: ignore[arg-type]
