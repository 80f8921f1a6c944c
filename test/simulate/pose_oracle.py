# SPDX-License-Identifier: Apache-2.0
"""What the poses of one robot's tool tell: where it is, and where it was in an image.

Computed from the messages on ee_pose alone, with rotation matrices. Stamps are nanoseconds of the
robot's clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulate.parameter_oracle import frame_of
from simulate.parts_oracle import NOTICE_S
from simulate.scheduler import NS

_AHEAD_S = 0.1  # of a stamp; more is rejected
_UNSURE_S = 0.005
_JUMP_M, _JUMP_M_S = 0.05, 3.0
_JUMP_RAD, _JUMP_RAD_S = 0.5, 10.0
_METRES_PER_RADIAN = 0.1

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """A position and a rotation matrix."""

    position: Vector
    rotation: Vector

    def moved(self, step: Vector) -> Place:
        """Along the axes of the base."""
        return Place(self.position + step[:3], _matrix(step[3:]) @ self.rotation)

    def way_to(self, goal: Place) -> Vector:
        turn = _vector(goal.rotation @ self.rotation.T)
        return np.concatenate([goal.position - self.position, turn])

    def distance_to(self, other: Place) -> float:
        way = self.way_to(other)
        return math.hypot(
            float(np.linalg.norm(way[:3])), _METRES_PER_RADIAN * float(np.linalg.norm(way[3:]))
        )


@dataclass(frozen=True)
class Known:
    """A pose, or whether it is surely (False) or perhaps (None) unknown."""

    place: Place | None = None
    is_unsure: bool = False


class PoseOracle:
    """The poses that the node heard."""

    def __init__(self, parameters: dict[str, Any], robot: int) -> None:
        self._params, self._robot = parameters, robot
        self._doubt_until_ns = 0  # by the scheduler's clock
        self.begin()

    def begin(self) -> None:
        """Without a pose: nobody listened."""
        self.poses: list[tuple[int, Place]] = []
        self._frame_heard = ''
        self._is_faulty: bool | None = False
        self._begins_unsure = False  # there may be poses before the first

    @property
    def _max_age_s(self) -> float:
        age_s: float = self._params['max_pose_age_s']
        return age_s

    def doubt(self, now_ns: int) -> None:
        """The node may forget the poses, soon."""
        self._doubt_until_ns = now_ns + round(2 * NOTICE_S * NS)

    def hear(self, message: Any, now_ns: int, node_ns: int) -> bool:
        """
        :param now_ns: by the scheduler's clock.
        :returns: whether it ends a motion.
        """
        if now_ns < self._doubt_until_ns:
            self.poses.clear()
            self._begins_unsure, self._is_faulty = True, None
            return False
        stamp_ns = message.header.stamp.sec * NS + message.header.stamp.nanosec
        place = place_of(message.pose)
        ahead_s = (stamp_ns - node_ns) / NS - _AHEAD_S
        if abs(ahead_s) < _UNSURE_S:
            self.doubt(now_ns)
            return False
        if place is None or stamp_ns == 0 or ahead_s > 0:
            self._is_faulty = True
            return True
        self._is_faulty = False
        if self.poses and stamp_ns <= self.poses[-1][0]:
            return False
        is_broken = bool(self.poses) and self._breaks(stamp_ns, place, message.header.frame_id)
        if is_broken:
            self.poses.clear()
            self._begins_unsure = False
        self._frame_heard = message.header.frame_id
        self.poses.append((stamp_ns, place))
        return is_broken

    def _breaks(self, stamp_ns: int, place: Place, frame: str) -> bool:
        before_ns, before = self.poses[-1]
        passed_s = (stamp_ns - before_ns) / NS
        way = before.way_to(place)
        metres, radians = float(np.linalg.norm(way[:3])), float(np.linalg.norm(way[3:]))
        return (
            frame != self._frame_heard
            or metres > _JUMP_M + _JUMP_M_S * passed_s
            or radians > _JUMP_RAD + _JUMP_RAD_S * passed_s
        )

    def newest(self, now_ns: int, node_ns: int) -> Known:
        """The pose that a motion goes by now."""
        if now_ns < self._doubt_until_ns or self._is_faulty is None:
            return Known(is_unsure=True)
        if self._is_faulty or not self.poses:
            return Known(is_unsure=not self._is_faulty and self._begins_unsure)
        age_s = (node_ns - self.poses[-1][0]) / NS
        if abs(age_s - self._max_age_s) < 1e-6:
            return Known(is_unsure=True)
        return Known(self.poses[-1][1] if age_s < self._max_age_s else None)

    @property
    def is_in_frame(self) -> bool:
        return self._frame_heard == frame_of(self._params, self._robot)

    def at(self, stamp_ns: int) -> Known:
        """Where it was."""
        before = [one for one in self.poses if one[0] <= stamp_ns]
        after = [one for one in self.poses if one[0] >= stamp_ns]
        if not before or not after:
            return Known(is_unsure=not before and self._begins_unsure)
        (earlier_ns, earlier), (later_ns, later) = before[-1], after[0]
        if earlier_ns == later_ns:
            return Known(earlier)
        if later_ns - earlier_ns > self._max_age_s * NS:
            is_near = later_ns - earlier_ns < self._max_age_s * NS + 1000
            return Known(is_unsure=is_near)
        share = (stamp_ns - earlier_ns) / (later_ns - earlier_ns)
        return Known(earlier.moved(share * earlier.way_to(later)))


def place_of(pose: Any) -> Place | None:
    """Return a message's; None if it is none."""
    position = np.array([pose.position.x, pose.position.y, pose.position.z])
    orientation = pose.orientation
    q = np.array([orientation.x, orientation.y, orientation.z, orientation.w])
    if not np.isfinite(position).all() or not abs(np.sqrt((q * q).sum()) - 1) <= 0.01:
        return None
    x, y, z, w = q / np.sqrt((q * q).sum())
    return Place(
        position,
        np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        ),
    )


def _matrix(vector: Vector) -> Vector:
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix: Vector = np.eye(3) + math.sin(angle) * skew + (1 - math.cos(angle)) * skew @ skew
    return matrix


def _vector(matrix: Vector) -> Vector:
    axis = np.array(
        [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]
    )
    sine, cosine = float(np.linalg.norm(axis)) / 2, (float(np.trace(matrix)) - 1) / 2
    if sine < 1e-9:
        return np.zeros(3)  # the ways of a simulation are no half turns
    vector: Vector = axis / (2 * sine) * math.atan2(sine, cosine)
    return vector
