# SPDX-License-Identifier: Apache-2.0
"""What the outputs of displacements have in common: one robot's motion, and its gripper.

Used by the executor's thread.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from vla_ros.motion import Box, Capture, Guide, Motion, Pose, PoseHistory
from vla_ros.parameters.check import motion_limits, workspace
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause
from vla_ros.ros.axes import ContractAxes
from vla_ros.ros.gripper_output import GripperCounters, make_gripper
from vla_ros.ros.log import Log
from vla_ros.ros.node_clock import Moment
from vla_ros.ros.output import Admitted, OutputSetup
from vla_ros.ros.stream import Stream


class MotionOutput(Stream):
    """A stream of commands that make displacements."""

    def __init__(self, setup: OutputSetup, kind: type, topic: str, leads: bool) -> None:
        """Create the publishers, and listen to the pose of the tool if the motions need it.

        :param leads: whether a controller follows a target, and not the twists.
        """
        super().__init__(setup, kind, topic)
        parameters = setup.parameters
        self._leads = leads
        self._poses = PoseHistory(_span_s(parameters), parameters.max_pose_age_s)
        self._guide = guide = self._guide_by(setup)
        self._axes = ContractAxes(setup.shared.frames, parameters, setup.source)
        self.motion = Motion(
            setup.contracts,
            motion_limits(parameters),
            parameters.unnorm_key,
            guide,
            self._axes.rotation,
        )
        self._first_camera = setup.first_camera
        self._frame_id, self._way, self._tool = setup.frame_id, _way(setup), setup.tool
        grippers = GripperCounters()
        self._gripper = make_gripper(setup, grippers)
        self.counters: tuple[Any, ...] = (self.motion.counters, self._poses.counters, grippers)
        self._hear_poses()
        self._log_contract(setup.shared.log)

    def _hear_poses(self) -> None:
        """Hear the pose of the tool while the motions need it."""
        if self._guide is not None:
            self._tool.add(self)
        else:
            self._tool.remove(self)
            self._poses.forget()

    @property
    def cause(self) -> Cause | None:
        """Why the last action moved nothing, or the next will not; None if it does."""
        return self.motion.cause

    @property
    def limited(self) -> str:
        """The workspace, if the last motion would have left it."""
        return 'workspace_m' if self.motion.leaves_workspace else ''

    def forget_stamps(self) -> None:
        """Forget the poses, and what the gripper did by a simulated time."""
        self._poses.forget()
        if self._simulated:
            self.motion.forget_gripper()

    def adjust(self, setup: OutputSetup) -> None:
        """Apply limits and contracts from now on.

        A motion in another frame or workspace, or by another meaning of a chunk, ends immediately.
        """
        super().adjust(setup)
        self._poses.adjust(_span_s(setup.parameters), setup.parameters.max_pose_age_s)
        self._guide = self._guide_by(setup)
        if _way(setup) != self._way:
            self.hold()
            self._frame_id, self._way = setup.frame_id, _way(setup)
        self._axes = ContractAxes(setup.shared.frames, setup.parameters, setup.source)
        self.motion.adjust(
            setup.contracts, motion_limits(setup.parameters), self._guide, self._axes.rotation
        )
        self._hear_poses()

    def forget(self) -> None:
        """Stop, and forget the state of the gripper."""
        self.hold()
        self.motion.forget_gripper()
        self._gripper.forget()

    def close(self, flush_s: float) -> None:
        """Destroy timer, subscription and publishers, once all listeners have the last twist."""
        self._tool.remove(self)
        super().close(flush_s)
        self._gripper.close()

    def _guide_by(self, setup: OutputSetup) -> Guide | None:
        """Return what the motions must know of the tool; None if they need no pose."""
        from_image = setup.parameters.chunk_timing == 'from_pose'
        numbers = workspace(setup.workspace)
        if not (from_image or numbers or self._leads):
            return None
        box = Box.of(numbers) if numbers else None
        max_lead_m = setup.parameters.max_lead_m if self._leads else None
        return Guide(self._poses, setup.frame_id, from_image, box, max_lead_m)

    def _log_contract(self, log: Log) -> None:
        contract = self.motion.contract
        if self.motion.cause:
            log.warning(f'no motion: {self.motion.cause.message}')
        elif contract is not None:
            log.info(
                f'motion by {contract.unnorm_key} ({contract.robot}): the axes of {self._axes} '
                f'must lie as those of its {contract.frame.replace("_", " ")}; '
                f'{contract.rate_hz:.3g} actions a second'
            )

    def _begin(self, admitted: Admitted, now_s: float) -> bool:
        prediction, published = admitted.result.predicted(), admitted.published
        remaining_s = (admitted.valid_until_ns - published.node_ns) / 1e9
        return self.motion.execute(
            prediction.actions,
            prediction.unnorm_key,
            now_s,
            now_s + remaining_s,
            admitted.description.action_space,
            admitted.description.period_s,
            due_s=now_s - (published.node_ns - admitted.due_ns) / 1e9,
            capture=Capture(
                admitted.result.observation.stamps_ns[self._first_camera], published.node_ns
            ),
        )

    def _stop(self) -> None:
        self.motion.stop()

    def _is_over(self, now_s: float) -> bool:
        return self.motion.is_over(now_s)

    @abstractmethod
    def _message(self, now: Moment, now_s: float) -> Any:
        """Return the message of the moment, of a motion that the tool's pose supports."""

    def _command(self, now: Moment, now_s: float) -> Any:
        if not self.motion.is_over(now_s) and (lost := self.motion.why_lost(now.node_ns)):
            self.motion.interrupt(lost)
        return self._message(now, now_s)

    def _turn_grippers(self, now_s: float) -> None:
        if self.motion.begin_rows(now_s):
            self._gripper.send(self.motion.gripper)
        elif not self.motion.is_over(now_s):
            self._gripper.retry()

    def _give_up_grippers(self) -> None:
        self._gripper.give_up()

    @property
    def pose_frame(self) -> str:
        contract = self.motion.contract
        is_tool = not self._leads and contract is not None and contract.frame == 'end_effector'
        return '' if is_tool else self._frame_id

    def on_pose(self, pose: Pose, frame: str, stamp_ns: int) -> None:
        now_ns = self._clock.now_ns()
        cause = self._poses.hear(pose.position, pose.quaternion, frame, stamp_ns, now_ns)
        if cause:
            self._interrupt(cause)

    def on_no_pose(self, cause: Cause) -> None:
        self._poses.fail(cause)
        self._interrupt(cause)

    def _interrupt(self, cause: Cause) -> None:
        """Stop the motion that the tool's pose no longer supports."""
        if not self.motion.is_over(self._now_s()):
            self.motion.interrupt(cause)
            self.hold()


def _way(setup: OutputSetup) -> tuple[object, ...]:
    """Return what a motion keeps from its beginning to its end."""
    parameters = setup.parameters
    return (
        setup.frame_id,
        setup.workspace,
        parameters.chunk_timing == 'from_pose',
        parameters.contract_frames[setup.source],
        parameters.frame_rotations[setup.source],
    )


def _span_s(parameters: Parameters) -> float:
    """Return for how long poses are kept: until no chunk can be of an image before them."""
    return parameters.max_action_age_s + 2 * parameters.max_pose_age_s
