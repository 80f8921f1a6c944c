# SPDX-License-Identifier: Apache-2.0
"""The likely cause of a stamp whose age cannot be right. Independent of ROS; any thread."""

from __future__ import annotations

from datetime import datetime, timezone

from vla_ros.clock import MAX_CLOCK_SKEW_S, Clock, age_s

_SYSTEM_TIME_S = 1e9  # since 1970; a smaller stamp is not the system time of a machine of today
_LONG_S = 60.0  # a delay or a clock that drifts is shorter
_TAI_AHEAD_S = 37.0  # of UTC since 2017


def clock_advice(stamp_ns: int, clock: Clock, otherwise: str) -> str:
    """Return the likely cause of a stamp's age, and what to do.

    :param otherwise: the advice for a stamp that has no cause of these: the clocks differ.
    """
    now_ns = clock.now_ns()
    step_s = clock.simulated_step_s()
    if step_s is None:
        return _by_system_time(stamp_ns, now_ns, clock.monotonic_s()) or otherwise
    return _by_simulated_time(stamp_ns, now_ns, step_s) or otherwise


def _by_simulated_time(stamp_ns: int, now_ns: int, step_s: float) -> str:
    ahead_s = -age_s(stamp_ns, now_ns)
    if _is_system_time(stamp_ns) and not _is_system_time(now_ns):
        return (
            'its stamp is system time, and this node has simulated time: set use_sim_time to true '
            'where it is stamped, or to false here'
        )
    if abs(ahead_s) > _LONG_S:
        return (
            f'its stamp is {abs(ahead_s):.0f} s {"after" if ahead_s > 0 else "before"} /clock, so '
            'they are of two simulations or recordings: stop one, or play it with --clock'
        )
    if MAX_CLOCK_SKEW_S < ahead_s <= step_s + MAX_CLOCK_SKEW_S:
        return (
            f'/clock moves in steps of {step_s:.2g} s, and a stamp between two seems to be in the '
            f'future: publish /clock every {MAX_CLOCK_SKEW_S:g} s or more often'
        )
    return ''


def _by_system_time(stamp_ns: int, now_ns: int, uptime_s: float) -> str:
    """Return the cause; empty if the clocks may just differ.

    :param uptime_s: the monotonic time, which Linux counts from the boot.
    """
    stamp_s, old_s = stamp_ns / 1e9, age_s(stamp_ns, now_ns)
    if _is_system_time(now_ns) and not _is_system_time(stamp_ns):
        if abs(stamp_s - uptime_s) < _LONG_S:
            return (
                'its stamp is the time since this machine booted: have the driver stamp with the '
                'system time'
            )
        return (
            f'its stamp is {stamp_s:.1f} s after 1970, so it is simulated time (set use_sim_time '
            'to true), or the time since a boot or of a clock that was never set (have the driver '
            'stamp with the system time)'
        )
    if old_s > _LONG_S:
        day = datetime.fromtimestamp(stamp_s, timezone.utc).strftime('%Y-%m-%d %H:%M:%S')
        return (
            f'its stamp is of {day} UTC, so it is probably of a recording: play it with --clock, '
            'and set use_sim_time to true; if it is not, synchronise the clocks'
        )
    if abs(-old_s - _TAI_AHEAD_S) < 1.0:
        return (
            f'its stamp is {_TAI_AHEAD_S:g} s ahead, so it is probably TAI, the time of PTP: have '
            'the driver stamp with UTC'
        )
    return ''


def _is_system_time(time_ns: int) -> bool:
    return time_ns / 1e9 >= _SYSTEM_TIME_S
