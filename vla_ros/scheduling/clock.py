"""The clocks that everything goes by: the robot's, this machine's, and a monotonic one."""

from __future__ import annotations

from typing import Protocol

MAX_CLOCK_SKEW_S = 0.1  # what a stamp may lie in the future; beyond, its age is unknown

_MAX_SIMULATED_STEP_S = 10.0  # forward, between two looks: simulations may run much faster


class Clock(Protocol):
    """Any thread may ask."""

    def now_ns(self) -> int:
        """The robot's time, nanoseconds; the clock that stamps pictures. It may jump."""

    def monotonic_s(self) -> float:
        """Seconds since some moment; never goes back. Durations and deadlines go by it."""

    def system_ns(self) -> int:
        """This machine's system time, nanoseconds; the middleware stamps messages with it."""

    def sleep(self, seconds: float) -> None:
        """Block the calling thread."""


class ManualClock:
    """A clock for tests: it moves when told to, all faces together or one alone."""

    def __init__(self, now_ns: int = 1_000_000_000_000) -> None:
        self._now_ns = now_ns
        self._monotonic_s = 0.0
        self._system_ns = now_ns

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def system_ns(self) -> int:
        return self._system_ns

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.jump(seconds)
        self._monotonic_s += seconds
        self._system_ns += round(seconds * 1e9)

    def jump(self, seconds: float) -> None:
        """The robot's time alone."""
        self._now_ns += round(seconds * 1e9)


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


def is_fresh(stamp_ns: int, now_ns: int, max_age_s: float) -> bool:
    """Whether the age is known and within bounds."""
    return -MAX_CLOCK_SKEW_S <= age_s(stamp_ns, now_ns) <= max_age_s


def age_s(stamp_ns: int, now_ns: int) -> float:
    """How long ago the stamp was, seconds; negative if it lies in the future."""
    return (now_ns - stamp_ns) / 1e9
