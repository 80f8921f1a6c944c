# SPDX-License-Identifier: Apache-2.0
"""The positions of joints that were heard lately, by name.

Stamps are nanoseconds of the robot's clock, as in the messages. Independent of ROS and of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.state import JOINT_STATES, JointPositions
from vla_ros.reasons import Cause, Reason
from vla_ros.text import quoted

_MAX_AHEAD_S = 0.1  # of a stamp
_MOST_JOINTS = 1000  # that are kept
_NAMES_SHOWN = 20


@dataclass
class JointCounters:
    """The counters of the topic ``joint_states``, where a motion needs it.

    :param joints_received: messages heard.
    :param joints_rejected: of these, messages that are not usable.
    """

    joints_received: int = 0
    joints_rejected: int = 0


class _Heard(NamedTuple):
    position: float
    stamp_ns: int


class JointsHeard:
    """The newest position of each joint.

    Several publishers may have joints of their own, as two arms do. So each joint is as old as the
    last message that named it.
    """

    def __init__(self, max_age_s: float) -> None:
        """Begin without a position.

        :param max_age_s: maximum age of a position when it is used.
        """
        self.counters = JointCounters()
        self.max_age_s = max_age_s
        self._joints: dict[str, _Heard] = {}
        self._fault: Cause | None = None  # of the last message

    def hear(self, message: JointPositions, stamp_ns: int, now_ns: int) -> Cause | None:
        """Take a message; return why it is rejected, or None."""
        self.counters.joints_received += 1
        self._fault = _why_rejected(message, stamp_ns, now_ns)
        if self._fault is None and not message.names:
            return None
        if self._fault is None and len(self._joints.keys() | set(message.names)) > _MOST_JOINTS:
            self._fault = _invalid(f'it makes more than {_MOST_JOINTS} joints')
        if self._fault:
            self.counters.joints_rejected += 1
            return self._fault
        for name, position in zip(message.names, message.positions, strict=True):
            known = self._joints.get(name)
            if known is None or stamp_ns > known.stamp_ns:
                self._joints[name] = _Heard(position, stamp_ns)
        return None

    def forget(self) -> None:
        """Forget all positions: the robot's clock has jumped."""
        self._joints, self._fault = {}, None

    def newest(self, names: Sequence[str], now_ns: int) -> NDArray[np.float64] | Cause:
        """Return the positions of some joints, float64 [J], or why they are unknown."""
        if self._fault:
            return self._fault
        missing = [name for name in names if name not in self._joints]
        if missing:
            there = ', '.join(quoted(name) for name in list(self._joints)[:_NAMES_SHOWN])
            return Cause(
                Reason.MOTION_NO_JOINTS,
                f'no position of {", ".join(missing)} came on {JOINT_STATES}, which has '
                f'{there or "no joint yet"}; publish all joints of the contract by its names',
            )
        heard = [self._joints[name] for name in names]
        oldest = min(range(len(names)), key=lambda index: heard[index].stamp_ns)
        age_s = (now_ns - heard[oldest].stamp_ns) / 1e9
        if age_s > self.max_age_s:
            return Cause(
                Reason.MOTION_JOINTS_STALE,
                f'the position of {names[oldest]} on {JOINT_STATES} is {age_s:.2f} s old; '
                f'max_joint_age_s is {self.max_age_s:g}',
            )
        for name, one in zip(names, heard, strict=True):
            if not math.isfinite(one.position):
                return _invalid(f'the position of {name} is {one.position}, which is not finite')
        return np.array([one.position for one in heard])


def _why_rejected(message: JointPositions, stamp_ns: int, now_ns: int) -> Cause | None:
    names, positions = message.names, message.positions
    if len(names) != len(positions):
        return _invalid(
            f'it has {len(names)} names and {len(positions)} positions; allowed: one position for '
            'each name'
        )
    if len(set(names)) < len(names):
        return _invalid('it has a joint twice; allowed: once')
    if stamp_ns == 0:
        return _invalid('it has no stamp')
    ahead_s = (stamp_ns - now_ns) / 1e9
    if ahead_s > _MAX_AHEAD_S:
        return _invalid(
            f"it is stamped {ahead_s:.2f} s in the future; its clock must agree with the node's"
        )
    return None


def _invalid(why: str) -> Cause:
    return Cause(Reason.MOTION_JOINTS_INVALID, f'a message on {JOINT_STATES} is rejected: {why}')
