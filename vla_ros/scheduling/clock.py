"""Two clocks: the robot's, for stamps and ages, and a monotonic one, for durations."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Any thread may ask."""

    def now_ns(self) -> int:
        """The robot's time, nanoseconds; the clock that stamps pictures. It may jump."""

    def monotonic_s(self) -> float:
        """Seconds since some moment; never goes back."""


class ManualClock:
    """A clock for tests: it moves when told to, both faces together."""

    def __init__(self, now_ns: int = 1_000_000_000_000) -> None:
        self._now_ns = now_ns
        self._monotonic_s = 0.0

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        self._now_ns += round(seconds * 1e9)
        self._monotonic_s += seconds


_CLOCK_SKEW_S = 0.1  # what a stamp may lie in the future; beyond, its age is unknown


def is_fresh(stamp_ns: int, now_ns: int, max_age_s: float) -> bool:
    """Whether the age is known and within bounds."""
    return -_CLOCK_SKEW_S <= age_s(stamp_ns, now_ns) <= max_age_s


def age_s(stamp_ns: int, now_ns: int) -> float:
    """How long ago the stamp was, seconds; negative if it lies in the future."""
    return (now_ns - stamp_ns) / 1e9
