# SPDX-License-Identifier: Apache-2.0
"""Limits of joints: what a contract, a robot description and a parameter say, and the tightest.

Independent of ROS and of threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.contract_fields import ContractError, field, read_fields
from vla_ros.reasons import Cause, Reason
from vla_ros.text import quoted

MAX_RAMP_S = 0.5  # with a longer one the robot moves by an old image
_POSITION = (-1000.0, 1000.0)
_SPEED = (1e-4, 100.0)


@dataclass(frozen=True)
class JointLimit:
    """The limits of one joint; infinite where there is none.

    :param low: lowest position [rad or m].
    :param high: highest position.
    :param speed: highest speed [rad/s or m/s].
    """

    low: float = field(bounds=_POSITION, default=-math.inf)
    high: float = field(bounds=_POSITION, default=math.inf)
    speed: float = field(bounds=_SPEED, default=math.inf)

    def within(self, other: JointLimit) -> JointLimit:
        """Return the tighter of each two limits, which may leave nothing."""
        return JointLimit(
            max(self.low, other.low), min(self.high, other.high), min(self.speed, other.speed)
        )


NO_LIMIT = JointLimit()


def read_limits(what: str, content: Any, joints: Sequence[str]) -> dict[str, JointLimit]:
    """Return the section ``limits`` of a contract.

    :param what: the section, for errors.
    :param joints: those that may have limits.
    :raises ContractError: if it is not a mapping from joints to limits.
    """
    if not isinstance(content, dict):
        raise ContractError(
            f'{what} is {quoted(content)}',
            value=content,
            expected='a mapping: the name of a joint, and below it low, high or speed',
        )
    return {name: _limit(what, name, one, joints) for name, one in content.items()}


def _limit(what: str, name: Any, content: Any, joints: Sequence[str]) -> JointLimit:
    if name not in joints:
        raise ContractError(
            f'{what} has {quoted(name)}',
            value=name,
            expected=f'one of the joints that are no grippers: {", ".join(joints)}',
        )
    if not isinstance(content, dict):
        raise ContractError(
            f'{what}, {name} is {quoted(content)}',
            value=content,
            expected='a mapping with low, high or speed',
        )
    limit = JointLimit(**read_fields(f'{what}, {name}', JointLimit, content, ''))
    if limit.low > limit.high:
        raise ContractError(
            f'{what}, {name}: low is {limit.low:g}, above high, {limit.high:g}',
            value=limit.low,
            expected=f'at most {limit.high:g}',
        )
    return limit


class JointBounds(NamedTuple):
    """The limits of the joints of one motion, in its order.

    :param low: float64 [J], rad or m.
    :param high: float64 [J].
    :param speed: float64 [J], finite.
    :param ramp_s: duration of a ramp; a joint accelerates with at most ``2 * speed / ramp_s``.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    speed: NDArray[np.float64]
    ramp_s: float

    def same_as(self, other: JointBounds) -> bool:
        """Return whether all limits are equal."""
        return self.ramp_s == other.ramp_s and all(
            np.array_equal(one, two) for one, two in zip(self[:3], other[:3], strict=True)
        )


@dataclass(frozen=True)
class JointLimits:
    """What limits the joints of a robot, beside its contract.

    :param speed_rad_s: maximum speed of every joint; infinite: none.
    :param acceleration_rad_s2: maximum acceleration of every joint.
    :param least_ramp_s: minimum duration of a ramp: two ticks.
    :param description: limits by joint, from the robot description; a Cause says why it is
        unknown, though it must be known.
    :param lead_rad: maximum distance of a joint from its command; infinite: any.
    """

    speed_rad_s: float
    acceleration_rad_s2: float
    least_ramp_s: float
    description: Mapping[str, JointLimit] | Cause
    lead_rad: float

    def of(self, joints: Sequence[str], contract: Mapping[str, JointLimit]) -> JointBounds | Cause:
        """Return the tightest limits of some joints, or why they must not move.

        :param contract: limits by joint, from the contract.
        """
        if isinstance(self.description, Cause):
            return self.description
        every = JointLimit(speed=self.speed_rad_s)
        limits = [
            every.within(contract.get(name, NO_LIMIT)).within(self.description.get(name, NO_LIMIT))
            for name in joints
        ]
        for name, limit in zip(joints, limits, strict=True):
            if not math.isfinite(limit.speed):
                return _cause(
                    f'nothing limits the speed of joint {name}; set max_joint_speed_rad_s, or '
                    'robot_description to a URDF with limits, or add limits to the contract'
                )
            if not (limit.low < limit.high and limit.speed > 0.0):
                return _cause(
                    f'the limits of joint {name} leave no motion: positions from {limit.low:g} to '
                    f'{limit.high:g}, speed {limit.speed:g}; correct the contract or the robot '
                    'description'
                )
        return self._bounds(limits)

    def _bounds(self, limits: Sequence[JointLimit]) -> JointBounds | Cause:
        low, high, speed = np.array([(one.low, one.high, one.speed) for one in limits]).T
        fastest = float(speed.max())
        ramp_s = max(2 * fastest / self.acceleration_rad_s2, self.least_ramp_s)
        if ramp_s > MAX_RAMP_S:
            return _cause(
                f'a joint that may move with {fastest:g} rad/s and accelerate with '
                f'max_joint_acceleration_rad_s2, {self.acceleration_rad_s2:g}, needs ramps of '
                f'{ramp_s:.2g} s, so that the robot moves by an old image; allowed: '
                f'{MAX_RAMP_S:g} s, so set max_joint_speed_rad_s to at most '
                f'{self.acceleration_rad_s2 * MAX_RAMP_S / 2:g}, or a higher acceleration'
            )
        return JointBounds(low, high, speed, ramp_s)


def _cause(message: str) -> Cause:
    return Cause(Reason.MOTION_JOINT_LIMITS, message)
