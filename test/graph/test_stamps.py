# SPDX-License-Identifier: Apache-2.0
"""Times and durations as messages, also those that no message can have."""

from __future__ import annotations

import math

import pytest

from vla_ros.graph.stamps import from_duration, from_time, to_duration, to_time

FIRST_S, LAST_S = -(2**31), 2**31 - 1


@pytest.mark.parametrize('seconds', [-1.5, -1e-9, 0.0, 0.25, 3600.0])
def test_a_duration_comes_back(seconds: float) -> None:
    assert from_duration(to_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


def test_beyond_the_range_of_a_message_it_is_the_nearest_one() -> None:
    for seconds in (2.0**31, 1e300, math.inf):
        longest = to_duration(seconds)
        assert (longest.sec, longest.nanosec) == (LAST_S, 999_999_999)
        assert to_duration(-seconds).sec == FIRST_S
    assert from_time(to_time(10**30)) == (LAST_S + 1) * 10**9 - 1
    assert from_time(to_time(-(10**30))) == FIRST_S * 10**9
