"""Episodes of a simulated world whose robot is controlled through the node.

In step, the world waits for each chunk of actions: the result depends on the actions of a policy,
not on its speed. Free-running, the world follows the system's clock, as a real one does: the
cameras send images at their rate, and the arm executes the rows of the newest chunk when they are
due.

Used by the robot's thread. All times are the robot's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.client.vla_client import ReceivedAction
from vla_ros.evaluation.episode import Episode, EvaluationError
from vla_ros.graph.stamps import from_duration, from_time
from vla_ros.reasons import State
from vla_ros.simulation import FreeWorld, World
from vla_ros.types import Observation

DELTAS = ('now', 'image')

_ANSWER_S = 5.0  # maximum time to an action, in addition to the inference
_MAX_REQUESTS = 3  # in step, for one observation
_SETTLE_S = 0.1  # simulated time between two episodes
_REMEMBERED_S = 10.0  # beyond the added latency; actions of older observations are ignored

# Called with the observation that a row is executed after, and the row; at the end with None.
Watch = Callable[[Observation, NDArray[np.float64] | None], None]


@dataclass(frozen=True)
class Pace:
    """The pace of the world and the robot.

    :param free: follow the system's clock; otherwise wait for each chunk.
    :param rate_hz: rate of the cameras, free-running [Hz].
    :param added_latency_s: time from capture to sending of an observation, free-running [s].
    :param deltas_from: start of a displacement, free-running: ``now``, the tool's pose when the row
        begins, or ``image``, its pose when the image was captured, moved by the rows before.
    :param time_limit_s: maximum duration of an episode in the world's time [s]; None: the world's.
    :param rows: number of rows of each chunk that are executed; None: all.
    """

    free: bool = False
    rate_hz: float = 30.0
    added_latency_s: float = 0.0
    deltas_from: str = 'now'
    time_limit_s: float | None = None
    rows: int | None = None


def main_image(observation: Observation) -> NDArray[np.uint8]:
    """Return the image of the policy's first camera, uint8 [H, W, 3]."""
    return next(iter(observation.images.values()))


def play(
    robot: SimulatedRobot,
    world: World,
    seed: int,
    instruction: str,
    said: str,
    pace: Pace,
    watch: Watch,
) -> Episode:
    """Play one episode.

    :param instruction: instruction that decides about success.
    :param said: instruction that the policy gets.
    :raises EvaluationError: if the node is in ERROR, or does not take the instruction.
    """
    limit_s = pace.time_limit_s or world.max_steps * world.contract.period_s
    run: FreeRun | _StepRun
    if pace.free:
        _instruct(robot, '')
        world.reset(seed, instruction)
        _instruct(robot, said)
        run = FreeRun(robot, world, pace)
    else:
        observation = world.reset(seed, instruction)
        robot.let_time_pass(_SETTLE_S)
        _instruct(robot, said)
        run = _StepRun(robot, world, observation, pace)
    while not (world.success or run.failure) and run.elapsed_s < limit_s - 1e-9:
        run.advance(watch)
    watch(run.observation, None)
    return Episode(
        seed=seed,
        instruction=instruction,
        said=said,
        success=world.success,
        steps=run.steps,
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
    """A running episode.

    ``observation`` is the world's last one, ``failure`` the reason for an early end.
    """

    observation: Observation

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.steps = 0
        self.failure = ''
        self.unanswered = 0
        self.skipped = 0

    @property
    @abstractmethod
    def elapsed_s(self) -> float:
        """Duration so far, in the world's time [s]."""

    @abstractmethod
    def advance(self, watch: Watch) -> None:
        """Let the world run for one action or one image.

        :raises EvaluationError: if the node is in ERROR.
        """


class _StepRun(_Run):
    """An episode in which the world waits: it gets each row once and in order."""

    def __init__(
        self, robot: SimulatedRobot, world: World, observation: Observation, pace: Pace
    ) -> None:
        super().__init__()
        self.observation = observation
        self._robot, self._world, self._pace = robot, world, pace
        self._rows: deque[NDArray[np.float64]] = deque()  # of the last chunk, still to execute

    @property
    def elapsed_s(self) -> float:
        return self.steps * self._world.contract.period_s

    def advance(self, watch: Watch) -> None:
        """Execute one row, of a new chunk if none is left; nothing if no chunk comes."""
        robot = self._robot
        seen = robot.seen(self.observation)
        if self._rows:
            robot.let_time_pass(self._world.contract.period_s)
        elif (chunk := self._request_chunk(seen)) is not None:
            self._rows.extend(chunk.actions[: self._pace.rows])
        else:
            self.failure = (
                f'no action came to one image, which was sent {_MAX_REQUESTS} times; the last '
                f'status was {robot.latest.message}'
            )
            return
        row = self._rows.popleft()
        watch(seen, row)
        self.observation = self._world.step(row)
        self.steps += 1

    def _request_chunk(self, seen: Observation) -> ReceivedAction | None:
        """Send the observation until its chunk comes; return None if none does."""
        robot = self._robot
        patience_s = _ANSWER_S + 3 * robot.latest.policy.steady_inference_s
        for _ in range(_MAX_REQUESTS):
            stamp_ns, sent_s = robot.now_ns(), robot.monotonic_s()
            robot.send(seen, stamp_ns)
            received = robot.next_action(patience_s, stamp_ns)
            robot.let_time_pass(self._world.contract.period_s)
            if received is not None:
                self.latencies_s.append(received.arrived_s - sent_s)
                return received
            self.unanswered += 1
        return None


@dataclass(frozen=True)
class _Captured:
    """An observation that the robot made.

    :param at_s: time of capture, seconds of the monotonic clock.
    :param seen: the observation as the node gets it.
    :param pose: pose of the tool.
    """

    at_s: float
    seen: Observation
    pose: Any


@dataclass
class _Chunk:
    """The chunk that the arm executes.

    :param captured: its observation.
    :param rows: float64 [K, D], those that may be executed.
    :param due_ns: time of row 0 by the robot's clock, nanoseconds.
    :param period_ns: time between two rows, nanoseconds.
    :param next_row: index of the first row that has neither begun nor been skipped.
    """

    captured: _Captured
    rows: NDArray[np.float64]
    due_ns: int
    period_ns: int
    next_row: int = 0

    def due_row(self, now_ns: int) -> int:
        """Return the index of the row that is due; -1 before row 0, the last row at the end."""
        return min((now_ns - self.due_ns) // self.period_ns, len(self.rows) - 1)


class FreeRun(_Run):
    """An episode in which the world follows the system's clock, in periods of the cameras.

    A simulation that is too slow for an image skips and counts it: the world is never slower than
    the clock.

    The arm completes a row before it begins another one. It takes the newest chunk then, and of
    that the row that is due. The last row of a chunk may begin late; so a chunk of one row never
    comes too late. While the node holds, no chunk is continued.

    :raises EvaluationError: if the world can only run in step.
    """

    def __init__(self, robot: SimulatedRobot, world: World, pace: Pace) -> None:
        super().__init__()
        if not isinstance(world, FreeWorld):
            raise EvaluationError('this world cannot run freely, only in step')
        self._robot, self._world, self._pace = robot, world, pace
        self._started_s = robot.monotonic_s()
        self._ticks = 0
        self._idle_from_s = 0.0  # when the arm has completed its last row
        self._chunk: _Chunk | None = None
        # By stamp. Those up to the observation of the last chunk are removed.
        self._captured: OrderedDict[int, _Captured] = OrderedDict()
        self._unsent: deque[tuple[int, int]] = deque()  # tick in which to send, and stamp

    @property
    def elapsed_s(self) -> float:
        return self._ticks / self._pace.rate_hz

    def advance(self, watch: Watch) -> None:
        """Capture an observation, wait until the next one is due, then begin a row that is due."""
        robot, world, rate_hz = self._robot, self._world, self._pace.rate_hz
        self.observation = world.look()
        self._capture()
        late_s = robot.monotonic_s() - self._started_s - (self._ticks + 1) / rate_hz
        skipped = max(0, int(late_s * rate_hz))
        self.skipped += skipped
        self._ticks += 1 + skipped
        robot.spin_until(self._started_s + self.elapsed_s)
        world.advance((1 + skipped) / rate_hz)
        if self.elapsed_s >= self._idle_from_s - 1e-6:
            self._take_newest_chunk()
            self._begin_due_row(watch)

    def _capture(self) -> None:
        """Keep the observation, and send those whose time has come."""
        robot, pace = self._robot, self._pace
        now_ns = robot.now_ns()
        late = math.ceil(pace.added_latency_s * pace.rate_hz - 1e-6)
        seen = robot.seen(self.observation)
        self._captured[now_ns] = _Captured(robot.monotonic_s(), seen, self._world.pose)
        self._unsent.append((self._ticks + late, now_ns))
        while self._unsent and self._unsent[0][0] <= self._ticks:
            _, stamp_ns = self._unsent.popleft()
            if (captured := self._captured.get(stamp_ns)) is not None:
                robot.send(captured.seen, stamp_ns)
        while len(self._captured) > (_REMEMBERED_S + pace.added_latency_s) * pace.rate_hz:
            self._captured.popitem(last=False)

    def _take_newest_chunk(self) -> None:
        """Replace the chunk by the newest one, if its observation is later."""
        received = self._robot.newest
        if received is None or received.stamp_ns not in self._captured:
            return
        captured = self._captured[received.stamp_ns]
        while next(iter(self._captured), received.stamp_ns + 1) <= received.stamp_ns:
            self._captured.popitem(last=False)
        self.latencies_s.append(received.arrived_s - captured.at_s)
        period_s = from_duration(received.message.period) or self._world.contract.period_s
        self._chunk = _Chunk(
            captured,
            received.actions[: self._pace.rows],
            from_time(received.message.due),
            round(1e9 * period_s),
        )

    def _begin_due_row(self, watch: Watch) -> None:
        chunk = self._chunk
        if chunk is None:
            return
        if chunk.next_row and self._robot.latest.state == State.HOLDING:
            self._chunk = None
            return
        index = chunk.due_row(self._robot.now_ns())
        if index < chunk.next_row:
            return
        seen = self._robot.seen(self.observation) if index else chunk.captured.seen
        watch(seen, chunk.rows[index])
        self._world.begin(chunk.rows[index], self._start_of(chunk, index))
        chunk.next_row = index + 1
        self.steps += 1
        self._idle_from_s = self.elapsed_s + self._world.contract.period_s

    def _start_of(self, chunk: _Chunk, index: int) -> Any:
        """Return the pose that a row's displacement starts from; None: the current one."""
        if self._pace.deltas_from == 'now':
            return None
        pose = chunk.captured.pose
        for row in chunk.rows[:index]:
            pose = self._world.moved(pose, row)
        return pose
