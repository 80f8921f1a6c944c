"""Between nanoseconds and the messages' times. Pure functions."""

from __future__ import annotations

from builtin_interfaces.msg import Duration, Time

_NS_PER_S = 10**9
_FIRST_NS, _LAST_NS = -(2**31) * _NS_PER_S, 2**31 * _NS_PER_S - 1  # that a message can hold


def to_time(nanoseconds: int) -> Time:
    """The nearest time that a message can hold."""
    nanoseconds = min(max(nanoseconds, _FIRST_NS), _LAST_NS)
    return Time(sec=nanoseconds // _NS_PER_S, nanosec=nanoseconds % _NS_PER_S)


def from_time(time: Time) -> int:
    """Nanoseconds."""
    return time.sec * _NS_PER_S + time.nanosec


def from_duration(duration: Duration) -> float:
    """Seconds."""
    return duration.sec + duration.nanosec / _NS_PER_S


def to_duration(seconds: float) -> Duration:
    """To the nanosecond."""
    nanoseconds = round(seconds * _NS_PER_S)
    return Duration(sec=nanoseconds // _NS_PER_S, nanosec=nanoseconds % _NS_PER_S)
