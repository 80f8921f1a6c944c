"""Notices when the robot's clock jumps."""

from __future__ import annotations

from vla_ros.clock import MAX_CLOCK_SKEW_S, Clock

_MAX_SIMULATED_STEP_S = 10.0  # forward, between two looks: simulations may run much faster


class ClockWatch:
    """Notices when the robot's clock jumps: ages across a jump mean nothing. Of one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._now_ns = clock.now_ns()
        self._monotonic_s = clock.monotonic_s()
        self.jumps = 0

    def jump_s(self, simulated: bool) -> float:
        """Look at the clock; how far it has jumped since the last look, seconds, mostly 0.

        :param simulated: the robot's time is a simulation's: it may run faster or slower, or
            stand still; only a step back, or a very long one, is a jump.
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
