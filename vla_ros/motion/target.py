# SPDX-License-Identifier: Apache-2.0
"""The pose that a controller is to bring the tool to: where a motion began, and its twists since.

Independent of ROS and of threads. Times are seconds of the clock that the motion runs by.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.motion.pose import Pose
from vla_ros.motion.profile import TwistProfile
from vla_ros.motion.route import Box

_PATIENCE_S = 0.1  # from one target to the next, before a controller halts: MoveIt Servo's time-out


@dataclass
class Target:
    """A target that never jumps while a controller follows it.

    It goes on from one motion to the next. What was not told to the controller in time is not made
    up for: after a gap the target goes on from where it was.

    :ivar pose: where the tool was commanded to be when the target was last moved.
    :ivar frame: that the pose refers to.
    :ivar at_s: when that was.
    """

    pose: Pose
    frame: str
    at_s: float

    def is_followed(self, now_s: float) -> bool:
        """Return whether a controller still follows it; otherwise the tool may be anywhere."""
        return 0.0 <= now_s - self.at_s <= _PATIENCE_S  # below: simulated time went back

    def advance(self, profile: TwistProfile, axes: str, box: Box | None, now_s: float) -> None:
        """Move the target by the integral of the twists since it was last moved.

        The integral is exact for the position, and for turns about one axis. While the axis changes
        it is that of the mean twist between two ticks.

        :param axes: that the twists refer to, ``base`` or ``end_effector``.
        :param box: what the target must not leave; one outside may only move inward or along.
        """
        since_s = max(self.at_s, now_s - _PATIENCE_S)
        moved = self.pose.moved(profile.displacement(since_s, now_s), axes)
        if box is not None:
            moved = Pose(box.bounded(moved.position, self.pose.position), moved.quaternion)
        self.pose, self.at_s = moved, now_s
