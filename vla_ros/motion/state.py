# SPDX-License-Identifier: Apache-2.0
"""The state of a robot as its policy was trained on it: which numbers, in which order and units.

A contract lists the parts. Each part takes its numbers from one message: the positions of joints by
their names, or the pose of the end effector. Independent of ROS and torch. Any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.contract_fields import ContractError, choose, field, read_fields
from vla_ros.motion.orientation import axis_angle, nearer, unit_quaternion
from vla_ros.motion.pose import Pose
from vla_ros.text import quoted

JOINT_STATES, EE_POSE = 'joint_states', 'ee_pose'  # topics
_UNIT = (-1000.0, 1000.0)


@dataclass(frozen=True)
class JointPositions:
    """A message of joint positions: radians or metres by name."""

    names: Sequence[str]
    positions: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Position:
    """The position of the end effector, three numbers.

    :param unit: metres of one unit.
    """

    topic: ClassVar[str] = EE_POSE
    length: ClassVar[int] = 3
    label: ClassVar[str] = 'position of ee_pose'
    unit: float = field(bounds=_UNIT)

    def values(self, pose: Pose) -> NDArray[np.float64]:
        """Return the numbers of a pose, float64 [3]."""
        return pose.position / self.unit


@dataclass(frozen=True, kw_only=True)
class AxisAngle:
    """The orientation of the end effector as robosuite's axis times angle, three numbers.

    :param unit: radians of one unit.
    :param near: quaternion x, y, z, w. Of the two quaternions of an orientation, which give two
        vectors, the one nearer to it is taken.
    """

    topic: ClassVar[str] = EE_POSE
    length: ClassVar[int] = 3
    label: ClassVar[str] = 'orientation of ee_pose'
    unit: float = field(bounds=_UNIT)
    near: tuple[float, ...] = field(bounds=(-1.0, 1.0), length=4)

    def values(self, pose: Pose) -> NDArray[np.float64]:
        """Return the numbers of a pose, float64 [3].

        :raises ValueError: if the quaternion has not the norm 1.
        """
        quaternion = nearer(unit_quaternion(pose.quaternion), np.array(self.near))
        return axis_angle(quaternion) / self.unit


@dataclass(frozen=True, kw_only=True)
class Quaternion:
    """The orientation of the end effector as a quaternion x, y, z, w, four numbers.

    :param near: quaternion x, y, z, w. Of the two quaternions of an orientation, the one nearer to
        it is taken.
    """

    topic: ClassVar[str] = EE_POSE
    length: ClassVar[int] = 4
    label: ClassVar[str] = 'orientation of ee_pose'
    near: tuple[float, ...] = field(bounds=(-1.0, 1.0), length=4)

    def values(self, pose: Pose) -> NDArray[np.float64]:
        """Return the numbers of a pose, float64 [4].

        :raises ValueError: if the quaternion has not the norm 1.
        """
        return nearer(unit_quaternion(pose.quaternion), np.array(self.near))


@dataclass(frozen=True, kw_only=True)
class Joints:
    """The positions of joints, one number for each: (position - zero) / unit.

    :param joints: names as in the message, in the policy's order.
    :param zero: position whose number is 0 [rad or m].
    :param unit: radians or metres of one unit; below 0 for a joint that turns the other way.
    """

    topic: ClassVar[str] = JOINT_STATES
    joints: tuple[str, ...] = field()
    zero: float = field(bounds=_UNIT)
    unit: float = field(bounds=_UNIT)

    @property
    def length(self) -> int:
        """Number of numbers."""
        return len(self.joints)

    @property
    def label(self) -> str:
        """The part, for messages."""
        return f'{JOINT_STATES} with {", ".join(self.joints)}'

    def values(self, message: JointPositions) -> NDArray[np.float64] | None:
        """Return the numbers of a message, float64 [length]; None if it has none of the joints.

        :raises ValueError: if it has only some of the joints, or no position for each name.
        """
        names, positions = list(message.names), message.positions
        if len(names) != len(positions):
            raise ValueError(
                f'{JOINT_STATES} has {len(names)} names and {len(positions)} positions; allowed: '
                'one position for each name'
            )
        missing = [name for name in self.joints if name not in names]
        if len(missing) == len(self.joints):
            return None
        if missing:
            raise ValueError(
                f'{JOINT_STATES} has no joint {", ".join(missing)}; it has '
                f'{", ".join(quoted(name) for name in names[:20])}; name all joints of the '
                'contract in one message'
            )
        twice = [name for name in self.joints if names.count(name) > 1]
        if twice:
            raise ValueError(f'{JOINT_STATES} has {", ".join(twice)} twice; allowed: once')
        raw = np.array([positions[names.index(name)] for name in self.joints], np.float64)
        return (raw - self.zero) / self.unit


StatePart = Position | AxisAngle | Quaternion | Joints

_KINDS: Mapping[str, type] = {
    'position': Position,
    'axis_angle': AxisAngle,
    'quaternion': Quaternion,
    'joints': Joints,
}
PART_KINDS = tuple(_KINDS)


def read_state(what: str, content: Any) -> tuple[StatePart, ...]:
    """Return the parts of the section ``state`` of a contract.

    :param what: the section, for errors.
    :raises ContractError: if it is not a list of parts, or a part is malformed.
    """
    if not isinstance(content, list):
        raise ContractError(
            f'{what} is {quoted(content)}',
            value=content,
            expected='a list of parts, each with a value of ' + ', '.join(PART_KINDS),
        )
    return tuple(_part(f'{what}, part {index}', one) for index, one in enumerate(content, 1))


def _part(what: str, content: Any) -> StatePart:
    if not isinstance(content, dict):
        raise ContractError(
            f'{what} is {quoted(content)}',
            value=content,
            expected=f'a mapping with value ({", ".join(PART_KINDS)}) and its fields',
        )
    kind = choose(what, _KINDS, 'value', content, default='')
    given = {name: value for name, value in content.items() if name != 'value'}
    values = read_fields(what, kind, given, f'write all fields of value {content["value"]}')
    if values.get('unit') == 0.0:
        raise ContractError(f'{what}: unit is 0', value=0.0, expected='a number other than 0')
    if not any(values.get('near', (1.0,))):
        raise ContractError(
            f'{what}: near is zero', value=values['near'], expected='a quaternion x, y, z, w'
        )
    part: StatePart = kind(**values)
    return part


def state_dim(parts: Sequence[StatePart]) -> int:
    """Return how many numbers the parts have together."""
    return sum(part.length for part in parts)


def state_topics(parts: Sequence[StatePart]) -> tuple[str, ...]:
    """Return the topics that the parts need, each once, in the order of the parts."""
    return tuple(dict.fromkeys(part.topic for part in parts))
