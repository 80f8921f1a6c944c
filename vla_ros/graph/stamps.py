# SPDX-License-Identifier: Apache-2.0
"""Conversion between nanoseconds and the messages' times. Pure functions."""

from __future__ import annotations

from builtin_interfaces.msg import Duration, Time

_NS_PER_S = 10**9
_FIRST_NS, _LAST_NS = -(2**31) * _NS_PER_S, 2**31 * _NS_PER_S - 1  # the range of a message


def to_time(nanoseconds: int) -> Time:
    """Return a time as a message; the nearest one if it is out of a message's range."""
    return Time(**_fields(nanoseconds))


def from_time(time: Time) -> int:
    """Return a message's time in nanoseconds."""
    return time.sec * _NS_PER_S + time.nanosec


def from_duration(duration: Duration) -> float:
    """Return a message's duration in seconds."""
    return duration.sec + duration.nanosec / _NS_PER_S


def to_duration(seconds: float) -> Duration:
    """Return a duration as a message, rounded to nanoseconds, as :func:`to_time` does.

    :param seconds: may be infinite.
    """
    within_s = min(max(seconds, -(2.0**31)), 2.0**31)
    return Duration(**_fields(round(within_s * _NS_PER_S)))


def _fields(nanoseconds: int) -> dict[str, int]:
    nanoseconds = min(max(nanoseconds, _FIRST_NS), _LAST_NS)
    return {'sec': nanoseconds // _NS_PER_S, 'nanosec': nanoseconds % _NS_PER_S}
