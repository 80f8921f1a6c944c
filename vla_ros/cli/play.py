"""Episodes of a simulated world whose robot the node steers.

In step, the world waits for each action: that shows what a policy does, whatever time it takes.
Free-running, the world goes on with the wall's clock, as a real one does: the camera shows its
pictures at its rate, and the arm does the newest action whenever it has done the one before.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.cli.simulated_robot import EvaluationError, HeardAction, SimulatedRobot
from vla_ros.evaluation.episode import Episode
from vla_ros.simulation import FreeWorld, World

DELTAS = ('now', 'picture')

_ANSWER_S = 5.0  # an action takes no longer, beside the inference
_ASKED_AT_MOST = 10  # times, in step
_SETTLE_S = 0.1  # of simulated time, between two episodes

# Is shown what was seen and what was done there; the action is None in an episode's last picture.
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
    :raises EvaluationError: if no actions come.
    """
    limit_s = pace.time_limit_s or world.max_steps * world.contract.period_s
    if pace.free:
        robot.instruct('')
        image = world.reset(seed, instruction).image
        robot.instruct(said)
        run: _Run = FreeRun(robot, world, pace)
    else:
        image = world.reset(seed, instruction).image
        robot.let_time_pass(_SETTLE_S)
        robot.instruct(said)
        run = _StepRun(robot, world, image)
    while not world.success and run.elapsed_s < limit_s - 1e-9:
        image = run.go_on(watch)
    watch(image, None)
    return Episode(
        seed=seed,
        instruction=instruction,
        said=said,
        success=world.success,
        steps=len(run.latencies_s),
        duration_s=run.elapsed_s,
        latencies_s=tuple(run.latencies_s),
        unanswered=run.unanswered,
    )


class _Run(ABC):
    """An episode that is under way."""

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.unanswered = 0

    @property
    @abstractmethod
    def elapsed_s(self) -> float:
        """Of the world's time."""

    @abstractmethod
    def go_on(self, watch: Watch) -> NDArray[np.uint8]:
        """:returns: what was seen last."""


class _StepRun(_Run):
    def __init__(self, robot: SimulatedRobot, world: World, image: NDArray[np.uint8]) -> None:
        super().__init__()
        self._robot, self._world, self._image = robot, world, image

    @property
    def elapsed_s(self) -> float:
        return len(self.latencies_s) * self._world.contract.period_s

    def go_on(self, watch: Watch) -> NDArray[np.uint8]:
        """One action."""
        action = self._ask().action
        watch(self._image, action)
        self._image = self._world.step(action).image
        self._robot.let_time_pass(self._world.contract.period_s)
        return self._image

    def _ask(self) -> HeardAction:
        """Show the picture until an action comes to it."""
        robot = self._robot
        patience_s = _ANSWER_S + 3 * robot.status.steady_inference_s
        for _ in range(_ASKED_AT_MOST):
            stamp_ns, shown_s = robot.now_ns(), time.monotonic()
            robot.show(self._image, stamp_ns)
            robot.wait_for(lambda: _answers(robot.newest, stamp_ns), patience_s)  # noqa: B023
            if _answers(robot.newest, stamp_ns):
                assert robot.newest is not None
                self.latencies_s.append(robot.newest.at_s - shown_s)
                return robot.newest
            robot.check()
            robot.let_time_pass(self._world.contract.period_s)
            self.unanswered += 1
        raise EvaluationError(
            f'no action came to {_ASKED_AT_MOST} pictures; the last status was '
            f'{robot.status.state}: {robot.status.why}'
        )


def _answers(heard: HeardAction | None, stamp_ns: int) -> bool:
    return heard is not None and heard.stamp_ns == stamp_ns


class FreeRun(_Run):
    """
    :raises EvaluationError: if the world can go in step only.
    """

    def __init__(self, robot: SimulatedRobot, world: World, pace: Pace) -> None:
        super().__init__()
        if not isinstance(world, FreeWorld):
            raise EvaluationError('this world can not run freely, only in step')
        self._robot, self._world, self._pace = robot, world, pace
        self._started_s = time.monotonic()
        self._ticks = 0
        self._idle_from_s = 0.0  # when the arm has done its last action
        self._used_ns = robot.now_ns()  # pictures up to here are done with
        self._captured: dict[int, tuple[float, Any]] = {}  # by the stamp: when, and the tool's pose
        self._unsent: deque[tuple[int, NDArray[np.uint8]]] = deque()

    @property
    def elapsed_s(self) -> float:
        return self._ticks / self._pace.rate_hz

    def go_on(self, watch: Watch) -> NDArray[np.uint8]:
        """One period of the camera: a picture, what is heard meanwhile, what the arm does then."""
        robot, world = self._robot, self._world
        image = world.look().image
        self._send(image)
        self._ticks += 1
        robot.spin_until(self._started_s + self.elapsed_s)
        robot.check()
        heard = robot.newest
        is_idle = self.elapsed_s >= self._idle_from_s - 1e-6
        if is_idle and heard is not None and heard.stamp_ns > self._used_ns:
            watch(image, heard.action)
            self._begin(heard)
        world.advance(1 / self._pace.rate_hz)
        return image

    def _send(self, image: NDArray[np.uint8]) -> None:
        """This picture, or those whose time has come."""
        now_ns = self._robot.now_ns()
        self._captured[now_ns] = time.monotonic(), self._world.pose
        self._unsent.append((now_ns, image))
        while self._unsent and self._unsent[0][0] <= now_ns - self._pace.added_latency_s * 1e9:
            stamp_ns, late = self._unsent.popleft()
            self._robot.show(late, stamp_ns)

    def _begin(self, heard: HeardAction) -> None:
        captured_s, pose = self._captured[heard.stamp_ns]
        self._captured = {ns: kept for ns, kept in self._captured.items() if ns > heard.stamp_ns}
        self._used_ns = heard.stamp_ns
        self.latencies_s.append(heard.at_s - captured_s)
        self._idle_from_s = self.elapsed_s + self._world.contract.period_s
        self._world.begin(heard.action, pose if self._pace.deltas_from == 'picture' else None)
