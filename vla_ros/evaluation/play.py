"""Episodes of a simulated world whose robot the node steers.

In step, the world waits for each action: that shows what a policy does, whatever time it takes.
Free-running, the world goes on with the wall's clock, as a real one does: the camera shows its
pictures at its rate, and the arm does the newest action whenever it has done the one before.

Of the robot's thread. All time is the robot's to tell.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.client.vla_client import ReceivedAction
from vla_ros.evaluation.episode import Episode, EvaluationError
from vla_ros.simulation import FreeWorld, World

DELTAS = ('now', 'picture')

_ANSWER_S = 5.0  # an action takes no longer, beside the inference
_ASKED_AT_MOST = 3  # times, in step, about one picture
_SETTLE_S = 0.1  # of simulated time, between two episodes
_REMEMBERED_S = 10.0  # beyond the added latency: an action to an older picture is not done

# Is shown the picture that the node was shown, and the action that it answered; None at the end.
Watch = Callable[[NDArray[np.uint8], NDArray[np.float64] | None], None]


@dataclass(frozen=True)
class Pace:
    """How the world goes on.

    :param free: with the wall's clock; otherwise in step with the actions.
    :param rate_hz: of the camera, free-running.
    :param added_latency_s: so much later than it was captured is each picture sent, free-running.
    :param deltas_from: what a displacement starts from, free-running: ``now``, where the arm is
        when it begins, or ``picture``, where it was when the picture was captured.
    :param time_limit_s: of an episode, in the world's time; None: the world's own.
    """

    free: bool = False
    rate_hz: float = 30.0
    added_latency_s: float = 0.0
    deltas_from: str = 'now'
    time_limit_s: float | None = None


def play(
    robot: SimulatedRobot,
    world: World,
    seed: int,
    instruction: str,
    said: str,
    pace: Pace,
    watch: Watch,
) -> Episode:
    """One episode.

    :param instruction: what the world judges by.
    :param said: what the policy is told.
    :raises EvaluationError: if the node is in ERROR, or does not listen.
    """
    limit_s = pace.time_limit_s or world.max_steps * world.contract.period_s
    run: FreeRun | _StepRun
    if pace.free:
        _instruct(robot, '')
        world.reset(seed, instruction)
        _instruct(robot, said)
        run = FreeRun(robot, world, pace)
    else:
        image = world.reset(seed, instruction).image
        robot.let_time_pass(_SETTLE_S)
        _instruct(robot, said)
        run = _StepRun(robot, world, image)
    while not (world.success or run.failure) and run.elapsed_s < limit_s - 1e-9:
        run.go_on(watch)
    watch(run.image, None)
    return Episode(
        seed=seed,
        instruction=instruction,
        said=said,
        success=world.success,
        steps=len(run.latencies_s),
        duration_s=run.elapsed_s,
        latencies_s=tuple(run.latencies_s),
        failure=run.failure,
        unanswered=run.unanswered,
        skipped=run.skipped,
    )


def _instruct(robot: SimulatedRobot, instruction: str) -> None:
    if robot.is_in_force(instruction):
        return
    answer = robot.instruct(instruction)
    if not answer.ok:
        raise EvaluationError(f'the instruction {instruction!r} is not obeyed: {answer.message}')


class _Run(ABC):
    """An episode that is under way.

    ``image`` is what was seen last; ``failure`` is why it can't go on, if so.
    """

    image: NDArray[np.uint8]

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.failure = ''
        self.unanswered = 0
        self.skipped = 0

    @property
    @abstractmethod
    def elapsed_s(self) -> float:
        """Of the world's time."""

    @abstractmethod
    def go_on(self, watch: Watch) -> None:
        """:raises EvaluationError: if the node is in ERROR."""


class _StepRun(_Run):
    def __init__(self, robot: SimulatedRobot, world: World, image: NDArray[np.uint8]) -> None:
        super().__init__()
        self.image = image
        self._robot, self._world = robot, world

    @property
    def elapsed_s(self) -> float:
        return len(self.latencies_s) * self._world.contract.period_s

    def go_on(self, watch: Watch) -> None:
        """One action, or none if there is none to be had."""
        robot, period_s = self._robot, self._world.contract.period_s
        patience_s = _ANSWER_S + 3 * robot.latest.policy.steady_inference_s
        for _ in range(_ASKED_AT_MOST):
            stamp_ns, shown_s = robot.now_ns(), robot.monotonic_s()
            shown = robot.show_image(self.image, stamp_ns)
            heard = robot.next_action(patience_s, stamp_ns)
            robot.let_time_pass(period_s)
            if heard is not None:
                self.latencies_s.append(heard.arrived_s - shown_s)
                watch(shown, heard.action)
                self.image = self._world.step(heard.action).image
                return
            self.unanswered += 1
        self.failure = (
            f'no action came to one picture, shown {_ASKED_AT_MOST} times; the last status was '
            f'{robot.latest.message}'
        )


@dataclass(frozen=True)
class _Captured:
    """
    :param at_s: of the monotonic clock.
    :param image: as the node is shown it.
    :param pose: of the tool.
    """

    at_s: float
    image: NDArray[np.uint8]
    pose: Any


class FreeRun(_Run):
    """The world's time is the wall's, in periods of the camera. A simulation that is too slow for
    one skips its picture, and counts it: the world is never slower than the wall.

    :raises EvaluationError: if the world can go in step only.
    """

    def __init__(self, robot: SimulatedRobot, world: World, pace: Pace) -> None:
        super().__init__()
        if not isinstance(world, FreeWorld):
            raise EvaluationError('this world cannot run freely, only in step')
        self._robot, self._world, self._pace = robot, world, pace
        self._started_s = robot.monotonic_s()
        self._ticks = 0
        self._idle_from_s = 0.0  # when the arm has done its last action
        # By the stamp; of pictures that were answered, and earlier ones, there is nothing here.
        self._captured: OrderedDict[int, _Captured] = OrderedDict()
        self._unsent: deque[tuple[int, int]] = deque()  # in which tick to send, and the stamp

    @property
    def elapsed_s(self) -> float:
        return self._ticks / self._pace.rate_hz

    def go_on(self, watch: Watch) -> None:
        """One picture, what is heard until the next is due, and what the arm does then."""
        robot, world, rate_hz = self._robot, self._world, self._pace.rate_hz
        self.image = world.look().image
        self._capture()
        late_s = robot.monotonic_s() - self._started_s - (self._ticks + 1) / rate_hz
        skipped = max(0, int(late_s * rate_hz))
        self.skipped += skipped
        self._ticks += 1 + skipped
        robot.spin_until(self._started_s + self.elapsed_s)
        world.advance((1 + skipped) / rate_hz)
        heard = robot.newest
        is_idle = self.elapsed_s >= self._idle_from_s - 1e-6
        if is_idle and heard is not None and heard.stamp_ns in self._captured:
            self._begin(heard, watch)

    def _capture(self) -> None:
        """Take a picture, and send those whose time has come."""
        robot, pace = self._robot, self._pace
        now_ns = robot.now_ns()
        late = math.ceil(pace.added_latency_s * pace.rate_hz - 1e-6)
        self._captured[now_ns] = _Captured(robot.monotonic_s(), self.image, self._world.pose)
        self._unsent.append((self._ticks + late, now_ns))
        while self._unsent and self._unsent[0][0] <= self._ticks:
            _, stamp_ns = self._unsent.popleft()
            if (one := self._captured.get(stamp_ns)) is not None:
                self._captured[stamp_ns] = replace(one, image=robot.show_image(one.image, stamp_ns))
        while len(self._captured) > (_REMEMBERED_S + pace.added_latency_s) * pace.rate_hz:
            self._captured.popitem(last=False)

    def _begin(self, heard: ReceivedAction, watch: Watch) -> None:
        seen = self._captured[heard.stamp_ns]
        while next(iter(self._captured), heard.stamp_ns + 1) <= heard.stamp_ns:
            self._captured.popitem(last=False)
        watch(seen.image, heard.action)
        self.latencies_s.append(heard.arrived_s - seen.at_s)
        self._idle_from_s = self.elapsed_s + self._world.contract.period_s
        self._world.begin(heard.action, seen.pose if self._pace.deltas_from == 'picture' else None)
