# SPDX-License-Identifier: Apache-2.0
"""Limits and contracts that change while the robot moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support.motions import CONTRACT, FOREVER_S, LIMITS, WIDE, motion, random_action, within
from vla_ros.motion import MotionLimits
from vla_ros.reasons import Reason

CONTRACTS = {'bridge': CONTRACT}


@pytest.mark.parametrize('seed', range(10))
def test_lower_limits_hold_from_the_next_twist_on(seed: int) -> None:
    generator = np.random.default_rng(seed)
    one = motion(WIDE)
    limits = WIDE
    for now_s in np.cumsum(generator.uniform(0.001, 0.1, 400)).tolist():
        if generator.random() < 0.3:
            one.execute(random_action(generator), 'bridge', now_s, now_s + 1.0)
        if generator.random() < 0.1:
            limits = replace(
                WIDE,
                linear_m_s=float(generator.uniform(0.001, 10.0)),
                angular_rad_s=float(generator.uniform(0.001, 50.0)),
            )
            one.adjust(CONTRACTS, limits)
        assert within(one.twist(now_s)[np.newaxis], limits)


def steady(limits: MotionLimits) -> tuple[object, float]:
    """A motion in the middle of a long action, and the moment."""
    one = motion(limits, period_s=1.0)
    one.execute(np.array([0.2, 0, 0, 0, 0, 0, 1.0]), 'bridge', 0.0, FOREVER_S)
    return one, 0.5


def test_a_lower_speed_shortens_what_is_above_it_and_nothing_else() -> None:
    one, now_s = steady(LIMITS)
    before = one.twist(now_s)
    one.adjust({'bridge': replace(CONTRACT, period_s=1.0)}, replace(LIMITS, linear_m_s=0.1))
    after = one.twist(now_s)
    np.testing.assert_allclose(after, before * 0.1 / before[0], rtol=1e-9)
    one, now_s = steady(LIMITS)
    one.adjust({'bridge': replace(CONTRACT, period_s=1.0)}, replace(LIMITS, linear_m_s=0.22))
    np.testing.assert_array_equal(one.twist(now_s), before)
    # It ends as it would have: the ramp is the one with which it began.
    assert one.is_over(1.0 + 2 * LIMITS.ramp_s) and not one.is_over(0.999 + 2 * LIMITS.ramp_s)


def test_the_next_motion_has_the_shorter_ramp() -> None:
    one, _ = steady(LIMITS)
    slower = replace(LIMITS, linear_m_s=0.01, angular_rad_s=0.01)
    one.adjust({'bridge': replace(CONTRACT, period_s=1.0)}, slower)
    one.execute(np.array([0.2, 0, 0, 0, 0, 0, 1.0]), 'bridge', 9.0, FOREVER_S)
    assert one.is_over(10.0 + 2 * slower.ramp_s)


@pytest.mark.parametrize('longer', [{'linear_m_s': 5.0}, {'linear_m_s3': 10.0}])
def test_longer_ramps_end_the_motion(longer: dict[str, float]) -> None:
    one, now_s = steady(LIMITS)
    limits = replace(LIMITS, **longer)
    one.adjust({'bridge': replace(CONTRACT, period_s=1.0)}, limits)
    assert not one.twist(now_s).any() and one.is_over(now_s)
    assert one.execute(np.array([0.2, 0, 0, 0, 0, 0, 1.0]), 'bridge', 1.0, FOREVER_S)
    assert one.is_over(2.0 + 2 * limits.ramp_s) and not one.is_over(1.9 + 2 * limits.ramp_s)


def test_another_contract_ends_the_motion_and_no_contract_ends_all() -> None:
    one, now_s = steady(LIMITS)
    one.adjust(CONTRACTS, LIMITS)
    assert one.is_over(now_s) and one.contract == CONTRACT
    one.adjust({}, LIMITS)
    assert one.cause.reason == Reason.MOTION_NO_CONTRACT
    one.adjust(CONTRACTS, LIMITS)
    assert one.cause is None
    assert one.execute(np.array([0.02, 0, 0, 0, 0, 0, 1.0]), 'bridge', 1.0, FOREVER_S)
