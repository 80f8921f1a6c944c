# SPDX-License-Identifier: Apache-2.0
"""The clocks: the robot's time, this machine's system time, and a monotonic clock.

Code that waits or measures takes a Clock, so that tests control the time. Standard library only.
"""

from __future__ import annotations

import time
from typing import Protocol

MAX_CLOCK_SKEW_S = 0.1  # how far a stamp may be in the future; beyond it, its age is unknown


class Clock(Protocol):
    """The times that code may ask for. Any thread."""

    def now_ns(self) -> int:
        """Return the robot's time, nanoseconds. Images are stamped with it; it may jump."""

    def monotonic_s(self) -> float:
        """Return the seconds since an arbitrary moment, for durations. They never decrease."""

    def system_ns(self) -> int:
        """Return this machine's system time, nanoseconds, the stamp of the middleware."""

    def simulated_step_s(self) -> float | None:
        """Return the step of the robot's time, seconds; None if it is not simulated."""

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

    def simulated_step_s(self) -> float | None:
        return None

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class ManualClock:
    """A clock for tests, which moves only when told to."""

    def __init__(self, now_ns: int = 1_000_000_000_000) -> None:
        self._now_ns = now_ns
        self._monotonic_s = 0.0
        self._system_ns = now_ns
        self.step_s: float | None = None  # as of a system clock

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def system_ns(self) -> int:
        return self._system_ns

    def simulated_step_s(self) -> float | None:
        return self.step_s

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move all three times."""
        self.jump(seconds)
        self._monotonic_s += seconds
        self._system_ns += round(seconds * 1e9)

    def jump(self, seconds: float) -> None:
        """Move only the robot's time."""
        self._now_ns += round(seconds * 1e9)


def is_fresh(stamp_ns: int, now_ns: int, max_age_s: float) -> bool:
    """Return whether the age of a stamp is known and at most ``max_age_s``."""
    return -MAX_CLOCK_SKEW_S <= age_s(stamp_ns, now_ns) <= max_age_s


def age_s(stamp_ns: int, now_ns: int) -> float:
    """Return the age of a stamp, seconds; negative if the stamp is in the future."""
    return (now_ns - stamp_ns) / 1e9


def latency_s(stamp_ns: int, now_ns: int) -> float:
    """Return the time since an image was captured, seconds.

    :param stamp_ns: up to MAX_CLOCK_SKEW_S in the future, as of a camera whose clock is ahead: that
        counts as now.
    """
    return max(0.0, age_s(stamp_ns, now_ns))
