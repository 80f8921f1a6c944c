# SPDX-License-Identifier: Apache-2.0
"""How the axes of a contract's frame lie to those of one robot: for its commands and its state.

Used by the executor's thread.
"""

from __future__ import annotations

import numpy as np

from vla_ros.motion import Pose
from vla_ros.motion.orientation import (
    Vector,
    inverse,
    normalized,
    product,
    quaternion_of_rpy,
    rotated,
    unit_quaternion,
)
from vla_ros.parameters.check import frame_rotation
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, Reason
from vla_ros.ros.frames import Frames


class ContractAxes:
    """How the axes of a contract's frame lie to the robot's: fixed, or as tf2 tells.

    :ivar names: what decides about it: ``frame_id``, ``contract_frame``, the fixed rotation, and
        the frame of the tool.
    """

    def __init__(self, frames: Frames, parameters: Parameters, robot: int) -> None:
        """Start with what the parameters say, and listen to tf2 if they name a frame of it.

        :param robot: its number.
        """
        fixed, frame_id = parameters.frame_rotations[robot], parameters.frame_ids[robot]
        leads = parameters.motion == 'pose'  # a target, and not twists along the axes of frame_id
        tool_frame = parameters.tool_frames[robot] if leads else frame_id
        self._frames = frames
        self._fixed = quaternion_of_rpy(np.array(frame_rotation(fixed)))
        self._source = parameters.contract_frames[robot]
        self._tool_frame = tool_frame
        self._max_age_s = parameters.max_pose_age_s
        self.names = frame_id, self._source, fixed, tool_frame
        if self._source:
            self._frames.listen()

    def __str__(self) -> str:
        """Return the name of the frame that has the contract's axes, for people."""
        frame_id, source, fixed, _ = self.names
        return source or (f'{frame_id}, turned by {fixed}' if fixed else frame_id)

    def rotation(self, frame: str) -> Vector | Cause:
        """Return the quaternion that turns displacements, or why it is unknown.

        Displacements of a tool are along its own axes. So both frames have to be fixed to it.

        :param frame: of the contract, ``base`` or ``end_effector``.
        """
        if not self._source:
            return self._fixed
        target = self.names[0] if frame == 'base' else self._tool_frame
        if not target:
            return Cause(
                Reason.MOTION_NO_TRANSFORM,
                'contract_frame is set, and the displacements are along the axes of the tool; set '
                'tool_frame to the frame whose pose is the target',
            )
        found = self._frames.find(target, self._source, self._max_age_s)
        if isinstance(found, Cause):
            return found
        if frame == 'end_effector' and found.stamp_ns:
            return Cause(
                Reason.MOTION_NO_TRANSFORM,
                f'{self._source!r} moves in {target!r}, and the displacements are along the axes '
                'of the tool, so both must be fixed to it',
            )
        return found.pose.quaternion

    def told(self, pose: Pose, pose_frame: str, frame: str) -> Pose | Cause:
        """Return the tool's pose as the contract's data have it, or why that is unknown.

        By a contract of the base it is the pose in the contract's frame. tf2 tells the origin of
        that frame, too; a fixed rotation is about the origin of ``pose_frame``. By a contract of
        the end effector the orientation is that of the contract's axes, which are fixed to the
        tool, and the position stays that of the tool.

        :param pose: as it was heard, not checked.
        :param pose_frame: frame that it refers to.
        :param frame: of the contract, ``base`` or ``end_effector``.
        :raises ValueError: if its quaternion has not the norm 1.
        """
        if not (self._source or self.names[2]):
            return pose
        at, turn = pose.position, unit_quaternion(pose.quaternion)
        if frame == 'end_effector':
            axes = self.rotation(frame)
            return axes if isinstance(axes, Cause) else Pose(at, normalized(product(turn, axes)))
        if not self._source:
            back = inverse(self._fixed)
            return Pose(rotated(back, at), normalized(product(back, turn)))
        found = self._frames.find(self._source, pose_frame, self._max_age_s)
        return found if isinstance(found, Cause) else Pose(at, turn).within(found.pose)
