# SPDX-License-Identifier: Apache-2.0
"""A running episode, and one that follows the system's clock.

The cameras send images at their rate, and the arm executes the rows of the newest chunk when they
are due, as on a real robot. Used by the robot's thread. All times are the robot's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict, deque

from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.evaluation.episode import EvaluationError
from vla_ros.evaluation.pace import Pace, Watch
from vla_ros.evaluation.player import Captured, Chunk, Player
from vla_ros.graph.stamps import from_duration, from_time
from vla_ros.reasons import State
from vla_ros.simulation import FreeWorld, World
from vla_ros.types import Observation

_REMEMBERED_S = 10.0  # beyond the added latency; actions of older observations are ignored


class Run(ABC):
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


class FreeRun(Run):
    """An episode in which the world follows the system's clock, in periods of the cameras.

    A simulation that is too slow for an image skips and counts it: the world is never slower than
    the clock.

    The arm completes a row before it begins another one. It takes the newest chunk then. The last
    row of a chunk may begin late; so a chunk of one row never comes too late. While the node holds,
    no chunk is continued.

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
        self._player = Player(world, pace.deltas_from)
        # By stamp. Those up to the observation of the last chunk are removed.
        self._captured: OrderedDict[int, Captured] = OrderedDict()
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
        if self._is_resting:
            self._take_newest_chunk()
            self._begin_due_row(watch)

    def _capture(self) -> None:
        """Keep the observation, and send those whose time has come."""
        robot, pace = self._robot, self._pace
        now_ns = robot.now_ns()
        late = math.ceil(pace.added_latency_s * pace.rate_hz - 1e-6)
        seen = robot.seen(self.observation)
        self._captured[now_ns] = self._player.captured(robot.monotonic_s(), seen, self._is_resting)
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
        self._player.take(
            Chunk(
                captured,
                received.actions,
                from_time(received.message.due),
                round(1e9 * period_s),
            )
        )

    def _begin_due_row(self, watch: Watch) -> None:
        if self._player.is_playing and self._robot.latest.state == State.HOLDING:
            self._player.drop()
        begun = self._player.begin(self._robot.now_ns())
        if begun is None:
            return
        captured, row, is_first = begun
        watch(captured.seen if is_first else self._robot.seen(self.observation), row)
        self.steps += 1
        self._idle_from_s = self.elapsed_s + self._world.contract.period_s

    @property
    def _is_resting(self) -> bool:
        return self.elapsed_s >= self._idle_from_s - 1e-6
