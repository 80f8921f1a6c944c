"""Detection of jumps of the robot's clock."""

from __future__ import annotations

from vla_ros.clock import MAX_CLOCK_SKEW_S, Clock

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
        before_ns, self._now_ns = self._now_ns, self._clock.now_ns()
        before_s, self._monotonic_s = self._monotonic_s, self._clock.monotonic_s()
        if before_ns == 0:  # simulated time begins
            return 0.0
        step_s = (self._now_ns - before_ns) / 1e9
        if simulated:
            jumped_s = step_s if not 0 <= step_s <= _MAX_SIMULATED_STEP_S else 0.0
        else:
            jumped_s = step_s - (self._monotonic_s - before_s)
            jumped_s = jumped_s if abs(jumped_s) > MAX_CLOCK_SKEW_S else 0.0
        self.jumps += jumped_s != 0
        return jumped_s
