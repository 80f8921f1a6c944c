# SPDX-License-Identifier: Apache-2.0
"""The pose of one robot's tool: on the topic ``ee_pose``, or looked up in tf2.

Used by the executor's thread.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy

from vla_ros.graph.stamps import from_time
from vla_ros.motion import Pose
from vla_ros.motion.orientation import unit_quaternion
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, Reason
from vla_ros.ros.frames import Found, Frames

_WAITING = 50


class PoseListener(Protocol):
    """An object that needs the pose of the tool."""

    @property
    def pose_frame(self) -> str:
        """The frame in which it needs poses; empty: as they come."""

    def on_pose(self, pose: Pose, frame: str, stamp_ns: int) -> None:
        """Take a pose, as it was heard: not checked."""

    def on_no_pose(self, cause: Cause) -> None:
        """Take the reason why there is no pose."""


class PoseInput:
    """Hears poses while anybody listens, once for all, and tells each in the frame that it needs.

    A pose in another frame is turned into that one by tf2. Without tf2 it is told as it is, and
    refused by its listener.
    """

    def __init__(
        self,
        node: LifecycleNode,
        frames: Frames,
        prefix: str,
        parameters: Parameters,
        robot: int,
    ) -> None:
        """Start without a subscription.

        :param prefix: prefix of the topic's name.
        :param robot: number of the robot.
        """
        self._node, self._frames, self._prefix = node, frames, prefix
        self._robot = robot
        self._tool_frame = parameters.tool_frames[robot]
        self._period_s = 0.0  # of the looks at tf2
        self._listeners: list[PoseListener] = []
        self._subscription: Any = None
        self._timer: Any = None
        self._last: Found | Cause | None = None  # of the tool in tf2
        self.adjust(parameters)

    def adjust(self, parameters: Parameters) -> None:
        """Apply another frame, age and rate from now on."""
        self._frame_id = parameters.frame_ids[self._robot]
        self._max_age_s = parameters.max_pose_age_s
        before_s, self._period_s = self._period_s, 1 / parameters.control_rate_hz
        if self._timer is not None and before_s != self._period_s:
            self._end()
            self._begin()

    def add(self, listener: PoseListener) -> None:
        """Tell the listener each pose from now on."""
        if listener in self._listeners:
            return
        if not self._listeners:
            self._begin()
        self._listeners.append(listener)

    def remove(self, listener: PoseListener) -> None:
        """Tell the listener no more; the last one ends the subscription."""
        if listener not in self._listeners:
            return
        self._listeners.remove(listener)
        if not self._listeners:
            self._end()

    def forget(self) -> None:
        """Tell what tf2 says anew: the clock has jumped."""
        self._last = None

    def _begin(self) -> None:
        if self._tool_frame:
            self._last = None
            self._frames.listen()
            steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stop
            self._timer = self._node.create_timer(self._period_s, self._look, clock=steady)
            return
        quality = QoSProfile(depth=_WAITING, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._subscription = self._node.create_subscription(
            PoseStamped, f'{self._prefix}ee_pose', self._on_message, quality
        )

    def _end(self) -> None:
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._timer = self._subscription = None

    def _look(self) -> None:
        """Tell the tool's pose, if tf2 has a new one, or why it has none."""
        found = self._frames.find(self._frame_id, self._tool_frame, math.inf)
        if isinstance(found, Found) and not found.stamp_ns:
            found = Cause(
                Reason.MOTION_NO_TRANSFORM,
                f'tool_frame, {self._tool_frame!r}, does not move in frame_id, {self._frame_id!r}: '
                "set them to the tool's frame and one that the arm moves in",
            )
        before, self._last = self._last, found
        if isinstance(found, Cause):
            if not isinstance(before, Cause) or before.reason != found.reason:
                for listener in list(self._listeners):
                    listener.on_no_pose(found)
        elif not isinstance(before, Found) or before.stamp_ns != found.stamp_ns:
            for listener in list(self._listeners):
                listener.on_pose(found.pose, self._frame_id, found.stamp_ns)

    def _on_message(self, message: PoseStamped) -> None:
        point, turn = message.pose.position, message.pose.orientation
        pose = Pose(
            np.array([point.x, point.y, point.z]), np.array([turn.x, turn.y, turn.z, turn.w])
        )
        frame, stamp_ns = message.header.frame_id, from_time(message.header.stamp)
        for listener in list(self._listeners):
            self._tell(listener, pose, frame, stamp_ns)

    def _tell(self, listener: PoseListener, pose: Pose, frame: str, stamp_ns: int) -> None:
        wanted = listener.pose_frame
        if not wanted or frame.lstrip('/') == wanted.lstrip('/') or not self._frames.is_available:
            listener.on_pose(pose, frame, stamp_ns)
            return
        found = self._frames.find(wanted, frame, self._max_age_s)
        if isinstance(found, Cause):
            listener.on_no_pose(found)
            return
        try:  # the product of rotations would hide one that is none
            turn = unit_quaternion(pose.quaternion)
        except ValueError:
            listener.on_pose(pose, wanted, stamp_ns)  # which refuses it, and says why
        else:
            listener.on_pose(Pose(pose.position, turn).within(found.pose), wanted, stamp_ns)
