# SPDX-License-Identifier: Apache-2.0
"""The clocks: what a test moves, and what this machine has."""

from __future__ import annotations

import time

import pytest

from vla_ros.clock import MAX_CLOCK_SKEW_S, ManualClock, SystemClock, age_s, is_fresh


def test_a_manual_clock_moves_when_it_is_told_to() -> None:
    clock = ManualClock(5_000_000_000)
    clock.advance(1.5)
    clock.sleep(0.5)
    assert (clock.now_ns(), clock.system_ns(), clock.monotonic_s()) == (7 * 10**9, 7 * 10**9, 2.0)
    clock.jump(-3.0)
    assert (clock.now_ns(), clock.system_ns(), clock.monotonic_s()) == (4 * 10**9, 7 * 10**9, 2.0)


def test_the_system_clock_is_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, 'time_ns', lambda: 7)
    monkeypatch.setattr(time, 'monotonic', lambda: 2.0)
    monkeypatch.setattr(time, 'sleep', slept.append)
    clock = SystemClock()
    clock.sleep(3.0)
    assert (clock.now_ns(), clock.system_ns(), clock.monotonic_s()) == (7, 7, 2.0)
    assert slept == [3.0]


def test_an_age_is_known_within_bounds() -> None:
    assert age_s(1_000_000_000, 3_500_000_000) == 2.5
    skew_ns = round(MAX_CLOCK_SKEW_S * 1e9)
    ages_ns = (-skew_ns - 1, -skew_ns, 0, 10**9, 10**9 + 1)
    now_ns = 10**12
    fresh = [is_fresh(now_ns - age_ns, now_ns, 1.0) for age_ns in ages_ns]
    assert fresh == [False, True, True, True, False]
