# SPDX-License-Identifier: Apache-2.0
"""The topic ``ee_pose``: the pose of one robot's tool, as its driver publishes it.

Used by the executor's thread.
"""

from __future__ import annotations

from collections.abc import Callable

from geometry_msgs.msg import PoseStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy

from vla_ros.clock import Clock
from vla_ros.graph.stamps import from_time
from vla_ros.motion import PoseHistory
from vla_ros.reasons import Cause

_WAITING = 50


class PoseInput:
    """Hears poses from its beginning to :meth:`close`, and keeps them in a history."""

    def __init__(
        self,
        node: LifecycleNode,
        clock: Clock,
        prefix: str,
        poses: PoseHistory,
        on_fault: Callable[[Cause], None],
    ) -> None:
        """Subscribe.

        :param prefix: prefix of the topic's name.
        :param on_fault: called with the reason why a motion must not go on.
        """
        self._node, self._clock = node, clock
        self._poses = poses
        self._on_fault = on_fault
        quality = QoSProfile(depth=_WAITING, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._subscription = node.create_subscription(
            PoseStamped, f'{prefix}ee_pose', self._on_pose, quality
        )

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def _on_pose(self, message: PoseStamped) -> None:
        position, orientation = message.pose.position, message.pose.orientation
        cause = self._poses.hear(
            (position.x, position.y, position.z),
            (orientation.x, orientation.y, orientation.z, orientation.w),
            message.header.frame_id,
            from_time(message.header.stamp),
            self._clock.now_ns(),
        )
        if cause:
            self._on_fault(cause)
