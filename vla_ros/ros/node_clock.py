# SPDX-License-Identifier: Apache-2.0
"""The node's clock, and its faults.

Any thread may ask for the time; the rest belongs to the executor's thread.
"""

from __future__ import annotations

from typing import NamedTuple

from rclpy.node import Node

from vla_ros.clock import Clock, SystemClock
from vla_ros.reasons import Cause, Reason
from vla_ros.scheduling import ClockStep, ClockWatch

_TOGETHER_S = 1e-3  # between two readings of one moment
_READINGS = 3


class ClockLook(NamedTuple):
    """The result of a look at the clock.

    :param fault: the fault of the clock; None if there is none.
    :param jumped: whether it has jumped since the last look.
    """

    fault: Cause | None
    jumped: bool


class Moment(NamedTuple):
    """One moment by two clocks.

    :param node_ns: of the node's clock.
    :param monotonic_s: of the monotonic clock.
    """

    node_ns: int
    monotonic_s: float


class _RosClock(SystemClock):
    """Its time is the node's: the system's, or a simulation's where use_sim_time is set."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds


class NodeClock:
    """The clock of a node, with a look at its faults."""

    def __init__(self, node: Node, clock: Clock | None = None) -> None:
        """Watch from now on.

        :param clock: in place of the node's own, for tests.
        """
        self._node = node
        self._clock = _RosClock(node) if clock is None else clock
        self.start_over()

    def now_ns(self) -> int:
        return self._clock.now_ns()

    def now(self) -> Moment:
        """Read both clocks, and again if this thread did not run in between."""
        for _ in range(_READINGS):
            before_s = self.monotonic_s()
            moment = Moment(self.now_ns(), self.monotonic_s())
            if moment.monotonic_s - before_s <= _TOGETHER_S:
                break
        return moment

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()

    def system_ns(self) -> int:
        return self._clock.system_ns()

    def simulated_step_s(self) -> float | None:
        """Return the step of /clock as seen by :meth:`look`; None if the time is the system's."""
        return self._step.smallest_s if self.is_simulated else None

    def sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds)

    @property
    def is_simulated(self) -> bool:
        return self._node.get_clock().ros_time_is_active

    @property
    def jumps(self) -> int:
        return self._watch.jumps

    def start_over(self) -> None:
        """Count jumps from zero, from now on."""
        self._watch = ClockWatch(self)
        self._step = ClockStep()

    def look(self) -> ClockLook:
        """Compare the clock with the monotonic one; call this often."""
        simulated = self.is_simulated
        if simulated:
            self._step.note(self.now_ns())
        jumped_s = self._watch.jump_s(simulated)
        if jumped_s:
            message = (
                f"clock jump: this machine's clock went {jumped_s:+.3f} s by itself, so ages are "
                'unknown; observations and inferences are dropped'
            )
            return ClockLook(Cause(Reason.CLOCK_JUMP, message), True)
        if simulated and self.now_ns() == 0:
            message = (
                'no simulated time: use_sim_time is true, and nothing publishes /clock; start the '
                'simulation, play the recording with --clock, or set use_sim_time to false'
            )
            return ClockLook(Cause(Reason.NO_SIMULATED_TIME, message), False)
        return ClockLook(None, False)
