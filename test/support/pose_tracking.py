# SPDX-License-Identifier: Apache-2.0
"""An arm behind MoveIt Servo's pose tracking, in the test's own time.

The rules are those of ``processPoseCommand`` and ``jointDeltaFromPose`` of moveit_servo: a command
that is 0.1 s old makes the arm halt; one whose frame is unknown, that is not finite or has no
rotation is invalid; and the arm makes for the newest one no faster than ``scale`` allows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from geometry_msgs.msg import PoseStamped

from vla_ros.graph.stamps import from_time
from vla_ros.motion import MotionLimits, Pose

TIMEOUT_S = 0.1  # incoming_command_timeout
_EPSILON = 1e-9


@dataclass
class PoseTracking:
    """Follows the targets that it hears, and complains.

    :param limits: speeds of the targets; from one to the next they are no further apart.
    :param scale: of Servo, linear [m/s] and rotational [rad/s].
    :param lag_s: time constant with which the arm comes to where it is sent.
    """

    limits: MotionLimits
    frame: str = 'base'
    scale: tuple[float, float] = (0.4, 2.0)
    lag_s: float = 0.03
    pose: Pose = field(
        default_factory=lambda: Pose(np.array([0.3, 0.0, 0.2]), np.array([0.0, 0.0, 0.0, 1.0]))
    )
    complaints: list[str] = field(default_factory=list)
    heard: list[tuple[float, Pose]] = field(default_factory=list)
    follows: bool = True
    _stamp_ns: int = -(10**18)

    def hear(self, message: PoseStamped, now_ns: int, now_s: float) -> None:
        """
        :param now_s: monotonic.
        """
        point, turn = message.pose.position, message.pose.orientation
        pose = Pose(
            np.array([point.x, point.y, point.z]), np.array([turn.x, turn.y, turn.z, turn.w])
        )
        stamp_ns = from_time(message.header.stamp)
        if message.header.frame_id != self.frame:
            self.complaints.append(f'{now_s}: frame {message.header.frame_id!r}')
        if not np.isfinite([*pose.position, *pose.quaternion]).all():
            self.complaints.append(f'{now_s}: not finite')
        if abs(np.linalg.norm(pose.quaternion) - 1) > _EPSILON:
            self.complaints.append(f'{now_s}: no rotation')
        if not 0 <= now_ns - stamp_ns < TIMEOUT_S * 1e9:
            self.complaints.append(f'{now_s}: {(now_ns - stamp_ns) / 1e9} s old')
        self._look_for_jump(pose, now_s)
        self.heard.append((now_s, pose))
        self._stamp_ns = stamp_ns

    def _look_for_jump(self, pose: Pose, now_s: float) -> None:
        """A target may not be further from the one before than the limits allow in that time.

        After a time-out the arm has halted, and the target must begin near it.
        """
        before_s, before = self.heard[-1] if self.heard else (-np.inf, self.pose)
        if now_s - before_s > 2 * TIMEOUT_S:
            if np.linalg.norm(pose.position - self.pose.position) > 0.11:
                self.complaints.append(f'{now_s}: it begins far from the arm')
            return
        step = before.step_to(pose, 'base')
        lasts_s = min(now_s - before_s, TIMEOUT_S) + _EPSILON
        for part, limit in (
            (step[:3], self.limits.linear_m_s),
            (step[3:], self.limits.angular_rad_s),
        ):
            if (size := float(np.linalg.norm(part))) > limit * lasts_s + _EPSILON:
                self.complaints.append(f'{now_s}: a jump of {size} in {lasts_s} s')

    def moves(self, seconds: float, now_ns: int) -> None:
        """Let the arm move for a while."""
        is_stale = now_ns - self._stamp_ns >= TIMEOUT_S * 1e9
        if is_stale or not self.heard or not self.follows:
            return
        step = self.pose.step_to(self.heard[-1][1], 'base') * seconds / (self.lag_s + seconds)
        for part, speed in ((slice(0, 3), self.scale[0]), (slice(3, 6), self.scale[1])):
            size = float(np.linalg.norm(step[part]))
            step[part] *= min(1.0, speed * seconds / max(size, 1e-12))
        self.pose = self.pose.moved(step, 'base')
