"""The clocks of everything: the robot's time, this machine's system time, and a monotonic one.

What waits or measures takes a Clock, so that a test decides what time it is. Standard library only.
"""

from __future__ import annotations

import time
from typing import Protocol

MAX_CLOCK_SKEW_S = 0.1  # what a stamp may lie in the future; beyond, its age is unknown


class Clock(Protocol):
    """Any thread may ask."""

    def now_ns(self) -> int:
        """The robot's time, nanoseconds; the clock that stamps images. It may jump."""

    def monotonic_s(self) -> float:
        """Seconds since some moment; never goes back. Durations and deadlines go by it."""

    def system_ns(self) -> int:
        """This machine's system time, nanoseconds; the middleware stamps messages with it."""

    def sleep(self, seconds: float) -> None:
        """Block the calling thread."""


class SystemClock:
    """This machine's clocks; the robot's time is the system's."""

    def now_ns(self) -> int:
        return self.system_ns()

    def monotonic_s(self) -> float:
        return time.monotonic()

    def system_ns(self) -> int:
        return time.time_ns()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


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


def is_fresh(stamp_ns: int, now_ns: int, max_age_s: float) -> bool:
    """Whether the age is known and within bounds."""
    return -MAX_CLOCK_SKEW_S <= age_s(stamp_ns, now_ns) <= max_age_s


def age_s(stamp_ns: int, now_ns: int) -> float:
    """How long ago the stamp was, seconds; negative if it lies in the future."""
    return (now_ns - stamp_ns) / 1e9
