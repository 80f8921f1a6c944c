# SPDX-License-Identifier: Apache-2.0
"""The pose of the tool: its arithmetic, and what was heard of it lately.

Stamps are nanoseconds of the robot's clock, as in the messages. Independent of ROS and of threads.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vla_ros.motion.orientation import (
    Vector,
    inverse,
    normalized,
    product,
    quaternion_of,
    rotated,
    unit_quaternion,
    vector_of,
)
from vla_ros.reasons import Cause, Reason

_MAX_AHEAD_S = 0.1  # of a stamp
_KEPT = 1000  # poses in the span
# Further than this from one pose to the next is no motion of an arm.
_JUMP_M, _JUMP_M_S = 0.05, 3.0
_JUMP_RAD, _JUMP_RAD_S = 0.5, 10.0


@dataclass(frozen=True)
class Pose:
    """A position and an orientation.

    :param position: float64 [3], metres.
    :param quaternion: float64 [4], x, y, z, w, of norm 1.
    """

    position: Vector
    quaternion: Vector

    def moved(self, step: Vector, frame: str) -> Pose:
        """Return the pose after a displacement.

        :param step: float64 [6], metres and a rotation vector in radians.
        :param frame: whose axes ``step`` refers to, ``base`` or ``end_effector``.
        """
        turn = quaternion_of(step[3:])
        if frame == 'base':
            return Pose(self.position + step[:3], normalized(product(turn, self.quaternion)))
        position = self.position + rotated(self.quaternion, step[:3])
        return Pose(position, normalized(product(self.quaternion, turn)))

    def within(self, frame: Pose) -> Pose:
        """Return the pose in the frame that the pose of this one's frame refers to."""
        position = frame.position + rotated(frame.quaternion, self.position)
        return Pose(position, normalized(product(frame.quaternion, self.quaternion)))

    def step_to(self, goal: Pose, frame: str) -> Vector:
        """Return the displacement from here to the goal, float64 [6], as for :meth:`moved`."""
        back = inverse(self.quaternion)
        move = goal.position - self.position
        if frame == 'base':
            return np.concatenate([move, vector_of(product(goal.quaternion, back))])
        return np.concatenate([rotated(back, move), vector_of(product(back, goal.quaternion))])


class StampedPose(NamedTuple):
    """A pose at a moment."""

    stamp_ns: int
    pose: Pose


@dataclass
class PoseCounters:
    """The counters of the topic ``ee_pose``.

    :param poses_received: poses heard.
    :param poses_rejected: of these, poses that are not usable, or stamped before the one before.
    """

    poses_received: int = 0
    poses_rejected: int = 0


class PoseHistory:
    """The poses that were heard lately, at most some 1000.

    :ivar max_age_s: as for :meth:`__init__`.
    :ivar frame: the frame that the poses refer to; empty before the first one.
    """

    def __init__(self, span_s: float, max_age_s: float) -> None:
        """Begin without a pose.

        :param span_s: for how long a pose is kept.
        :param max_age_s: maximum age of the newest pose when it is used, and maximum time between
            two poses that are interpolated.
        """
        self.counters = PoseCounters()
        self.frame = ''
        self._span_ns = round(span_s * 1e9)
        self.max_age_s = max_age_s
        self._poses: list[StampedPose] = []  # by rising stamp
        self._fault: Cause | None = None  # of the last pose
        self._break: Cause | None = None  # why there is nothing before the first pose

    def hear(
        self,
        position: Sequence[float] | Vector,
        quaternion: Sequence[float] | Vector,
        frame: str,
        stamp_ns: int,
        now_ns: int,
    ) -> Cause | None:
        """Take a pose; return why a motion must not go on, or None if it may.

        :param position: x, y, z in metres.
        :param quaternion: x, y, z, w.
        """
        self.counters.poses_received += 1
        heard = Pose(np.array(position), np.array(quaternion))
        pose, self._fault = _checked(heard, stamp_ns, now_ns)
        if pose is None:
            self.counters.poses_rejected += 1
            return self._fault
        if self._poses and stamp_ns <= self._poses[-1].stamp_ns:
            self.counters.poses_rejected += 1  # late on its way, or twice: newer ones are known
            return None
        broken = self._why_broken(pose, frame, stamp_ns)
        if broken:
            self._poses, self._break = [], broken
        self.frame = frame
        self._keep(StampedPose(stamp_ns, pose))
        return broken

    def fail(self, cause: Cause) -> None:
        """Note why there is no pose, until the next one."""
        self._fault = cause

    def adjust(self, span_s: float, max_age_s: float) -> None:
        """Keep poses for another time, and use newer or older ones, from now on."""
        self._span_ns = round(span_s * 1e9)
        self.max_age_s = max_age_s

    def forget(self) -> None:
        """Forget all poses: the robot's clock has jumped."""
        self._poses, self._break, self._fault = [], None, None

    def newest(self, now_ns: int) -> StampedPose | Cause:
        """Return the newest pose, or why it must not be used."""
        if self._fault:
            return self._fault
        if not self._poses:
            text = 'no pose on ee_pose yet, which this motion needs; publish the pose of the tool'
            return Cause(Reason.MOTION_NO_POSE, text)
        age_s = (now_ns - self._poses[-1].stamp_ns) / 1e9
        if age_s > self.max_age_s:
            return Cause(
                Reason.MOTION_POSE_STALE,
                f'the newest pose on ee_pose is {age_s:.2f} s old; max_pose_age_s is '
                f'{self.max_age_s:g}',
            )
        return self._poses[-1]

    @property
    def last(self) -> Pose | None:
        """The newest pose, of whatever age."""
        return self._poses[-1].pose if self._poses else None

    def at(self, stamp_ns: int) -> Pose | Cause:
        """Return the pose at a moment, between the two poses around it, or why it is unknown."""
        after = bisect_left(self._poses, stamp_ns, key=lambda one: one.stamp_ns)
        if after < len(self._poses) and self._poses[after].stamp_ns == stamp_ns:
            return self._poses[after].pose
        if after == 0 and self._break:
            return self._break
        if not 0 < after < len(self._poses):
            when = 'before the first' if after == 0 else 'after the newest'
            return Cause(
                Reason.MOTION_POSE_UNCOVERED,
                f'the image is from {when} pose on ee_pose, so the pose in it is unknown',
            )
        earlier, later = self._poses[after - 1 : after + 1]
        gap_s = (later.stamp_ns - earlier.stamp_ns) / 1e9
        if gap_s > self.max_age_s:
            return Cause(
                Reason.MOTION_POSE_UNCOVERED,
                f'no pose came on ee_pose for {gap_s:.2f} s around the image, so the pose in it is '
                f'unknown; max_pose_age_s is {self.max_age_s:g}',
            )
        share = (stamp_ns - earlier.stamp_ns) / (later.stamp_ns - earlier.stamp_ns)
        return earlier.pose.moved(share * earlier.pose.step_to(later.pose, 'base'), 'base')

    def since(self, stamp_ns: int) -> list[StampedPose]:
        """Return the poses later than a moment, by rising stamp."""
        first = bisect_left(self._poses, stamp_ns + 1, key=lambda one: one.stamp_ns)
        return self._poses[first:]

    def _keep(self, one: StampedPose) -> None:
        """Append a pose; where they come very often, it replaces the one before."""
        poses = self._poses
        if len(poses) > 1 and one.stamp_ns - poses[-2].stamp_ns < self._span_ns // _KEPT:
            poses.pop()
        poses.append(one)
        if poses[0].stamp_ns < one.stamp_ns - 2 * self._span_ns:
            oldest_ns = one.stamp_ns - self._span_ns
            self._poses = [pose for pose in poses if pose.stamp_ns >= oldest_ns]
            self._break = None

    def _why_broken(self, pose: Pose, frame: str, stamp_ns: int) -> Cause | None:
        """Return why what was heard before does not belong to this pose; None if it does."""
        if not self._poses:
            return None
        if frame != self.frame:
            return Cause(
                Reason.MOTION_POSE_FRAME,
                f'the frame of ee_pose changed from {self.frame!r} to {frame!r}; there must be one '
                'publisher',
            )
        before = self._poses[-1]
        passed_s = (stamp_ns - before.stamp_ns) / 1e9
        metres = math.dist(before.pose.position, pose.position)
        cosine = abs(float(before.pose.quaternion @ pose.quaternion))
        radians = 2 * math.acos(min(cosine, 1.0))
        if metres > _JUMP_M + _JUMP_M_S * passed_s or radians > _JUMP_RAD + _JUMP_RAD_S * passed_s:
            return Cause(
                Reason.MOTION_POSE_JUMP,
                f'the pose on ee_pose jumped by {metres:.3f} m and {radians:.2f} rad within '
                f'{passed_s:.3f} s',
            )
        return None


def _checked(heard: Pose, stamp_ns: int, now_ns: int) -> tuple[Pose | None, Cause | None]:
    """Return the pose, or None and why there is none."""
    why, turn = '', heard.quaternion
    try:
        turn = unit_quaternion(turn)
    except ValueError as error:
        why = str(error)
    if not np.isfinite(heard.position).all():
        why = f'its position is {heard.position.tolist()}, which is not finite'
    elif not why and stamp_ns == 0:
        why = 'it has no stamp'
    elif not why and (ahead_s := (stamp_ns - now_ns) / 1e9) > _MAX_AHEAD_S:
        why = f"it is stamped {ahead_s:.2f} s in the future; its clock must agree with the node's"
    if why:
        return None, Cause(Reason.MOTION_POSE_INVALID, f'the pose on ee_pose is rejected: {why}')
    return Pose(heard.position, turn), None
