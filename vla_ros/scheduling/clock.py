# SPDX-License-Identifier: Apache-2.0
"""Detection of jumps and of coarse steps of the robot's clock."""

from __future__ import annotations

from collections import deque

from vla_ros.clock import MAX_CLOCK_SKEW_S, Clock

_STEPS = 5  # a stall of this process makes one of them long, not all
_MAX_SIMULATED_STEP_S = 10.0  # forward, between two calls: simulations may run much faster


class ClockWatch:
    """A detector of jumps of the robot's clock, across which ages mean nothing. One thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._now_ns = clock.now_ns()
        self._monotonic_s = clock.monotonic_s()
        self.jumps = 0

    def jump_s(self, simulated: bool) -> float:
        """Return how far the clock jumped since the last call, seconds; mostly 0.

        :param simulated: whether the robot's time is a simulation's. It may run faster or slower,
            or pause; only a step back, or a very long one, is a jump.
        """
        before_ns, before_s = self._now_ns, self._monotonic_s
        jumped_s = self._jump_s(before_ns, before_s, simulated)
        if jumped_s:  # no jump if the process was only suspended between the two readings
            jumped_s = self._jump_s(before_ns, before_s, simulated)
        self.jumps += jumped_s != 0
        return jumped_s

    def _jump_s(self, before_ns: int, before_s: float, simulated: bool) -> float:
        """Read both clocks, and return how far the robot's jumped since these times, seconds."""
        self._now_ns, self._monotonic_s = self._clock.now_ns(), self._clock.monotonic_s()
        if before_ns == 0:  # simulated time begins
            return 0.0
        step_s = (self._now_ns - before_ns) / 1e9
        if simulated:
            return step_s if not 0 <= step_s <= _MAX_SIMULATED_STEP_S else 0.0
        jumped_s = step_s - (self._monotonic_s - before_s)
        return jumped_s if abs(jumped_s) > MAX_CLOCK_SKEW_S else 0.0


class ClockStep:
    """The step in which a simulated clock moves. One thread."""

    def __init__(self) -> None:
        self._last_ns = 0
        self._steps_s: deque[float] = deque(maxlen=_STEPS)

    def note(self, now_ns: int) -> None:
        """Note the clock's time; call this often."""
        step_s = (now_ns - self._last_ns) / 1e9
        if self._last_ns and 0 < step_s <= _MAX_SIMULATED_STEP_S:
            self._steps_s.append(step_s)
        self._last_ns = now_ns

    @property
    def smallest_s(self) -> float:
        """Return the smallest of the last steps [s]; 0 while there are too few."""
        return min(self._steps_s) if len(self._steps_s) == _STEPS else 0.0
