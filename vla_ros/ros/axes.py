# SPDX-License-Identifier: Apache-2.0
"""From the axes of a contract's frame to those of the commands of one robot.

Used by the executor's thread.
"""

from __future__ import annotations

import numpy as np

from vla_ros.motion.orientation import Vector, quaternion_of_rpy
from vla_ros.parameters.check import frame_rotation
from vla_ros.reasons import Cause, Reason
from vla_ros.ros.output import OutputSetup


class ContractAxes:
    """How the axes of a contract's frame lie to those of the commands: fixed, or as tf2 tells."""

    def __init__(self, setup: OutputSetup, leads: bool) -> None:
        """Start with what the parameters say, and listen to tf2 if they name a frame of it.

        :param leads: as for :class:`~vla_ros.ros.motion_output.MotionOutput`.
        """
        parameters, robot = setup.parameters, setup.source
        fixed = parameters.frame_rotations[robot]
        self._frames = setup.shared.frames
        self._fixed = quaternion_of_rpy(np.array(frame_rotation(fixed)))
        self._source = parameters.contract_frames[robot]
        self._tool_frame = parameters.tool_frames[robot] if leads else setup.frame_id
        self._max_age_s = parameters.max_pose_age_s
        self._names = setup.frame_id, self._source, fixed
        if self._source:
            self._frames.listen()

    def __str__(self) -> str:
        """Return the beginning of a sentence that ends in the contract's frame."""
        frame_id, source, fixed = self._names
        if source:
            return f'{source} has the axes of'
        return (
            f'{frame_id}, turned by {fixed}, has the axes of' if fixed else f'{frame_id} is to be'
        )

    def rotation(self, frame: str) -> Vector | Cause:
        """Return the quaternion that turns displacements, or why it is unknown.

        Displacements of a tool are along its own axes. So both frames have to be fixed to it.

        :param frame: of the contract, ``base`` or ``end_effector``.
        """
        if not self._source:
            return self._fixed
        target = self._names[0] if frame == 'base' else self._tool_frame
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
