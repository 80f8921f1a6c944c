# SPDX-License-Identifier: Apache-2.0
"""A motion by a contract of the tests, and what a controller hears of it. Without ROS."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion import ActionContract, Motion, MotionLimits

LIMITS = MotionLimits(0.25, 1.0, 100.0, 400.0)
WIDE = MotionLimits(10.0, 50.0, 4000.0, 20000.0)
CONTRACT = ActionContract(
    unnorm_key='bridge',
    robot='an arm',
    period_s=0.2,
    frame='base',
    metres_per_unit=1.0,
    rotation='rpy',
    radians_per_unit=1.0,
    gripper_closed=0.0,
    gripper_open=1.0,
    max_linear_m_s=20.0,
    max_angular_rad_s=60.0,
    center_crop=False,
    source='this test',
)
FOREVER_S = 1e6
EXTREMES = (0.0, -0.0, 5e-324, 1e-200, 1e-3, 1.0, 1e10, 1e200, 1.7e308, math.inf, math.nan)


def motion(limits: MotionLimits = LIMITS, **changes: float | str) -> Motion:
    return Motion({'bridge': replace(CONTRACT, **changes)}, limits, 'bridge')


def action(*values: float) -> NDArray[np.float64]:
    """Zeros where there is no value."""
    return np.array([*values, *[0.0] * (7 - len(values))])


def sampled(
    one: Motion, seconds: float, rate_hz: float = 50.0, from_s: float = 0.0
) -> NDArray[np.float64]:
    """[N, 6]: the twists of so long, as a controller hears them."""
    times_s = from_s + np.arange(round(seconds * rate_hz) + 1) / rate_hz
    return np.array([one.twist(float(now_s)) for now_s in times_s])


def within(twists: NDArray[np.float64], limits: MotionLimits) -> bool:
    linear = np.linalg.norm(twists[:, :3], axis=1).max()
    angular = np.linalg.norm(twists[:, 3:], axis=1).max()
    return bool(linear <= limits.linear_m_s and angular <= limits.angular_rad_s)


def random_action(generator: np.random.Generator) -> NDArray[np.float64]:
    if generator.random() < 0.3:
        signs = generator.choice([-1.0, 1.0], 7)
        return signs * generator.choice(EXTREMES, 7)
    return generator.normal(size=7) * 10.0 ** generator.uniform(-4, 3)
