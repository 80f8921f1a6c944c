# SPDX-License-Identifier: Apache-2.0
"""The topics ``joint_states`` and ``robot_description``, for the motions of one robot's joints.

Used by the executor's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from vla_ros.clock import Clock
from vla_ros.graph.stamps import from_time
from vla_ros.motion.joint_limits import JointLimit
from vla_ros.motion.joint_states import JointsHeard
from vla_ros.motion.state import JOINT_STATES, JointPositions
from vla_ros.motion.urdf import URDFError, read_urdf
from vla_ros.reasons import Cause, Reason
from vla_ros.ros.log import Log

ROBOT_DESCRIPTION = 'robot_description'  # topic
_WAITING = 50


class JointInput:
    """Hears joint states from its beginning to :meth:`close`, and keeps the newest positions."""

    def __init__(
        self,
        node: LifecycleNode,
        clock: Clock,
        prefix: str,
        heard: JointsHeard,
        on_fault: Callable[[Cause], None],
    ) -> None:
        """Subscribe.

        :param prefix: prefix of the topic's name.
        :param on_fault: called with the reason why a motion must not go on.
        """
        self._node, self._clock = node, clock
        self._heard = heard
        self._on_fault = on_fault
        quality = QoSProfile(depth=_WAITING, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._subscription = node.create_subscription(
            JointState, f'{prefix}{JOINT_STATES}', self._on_joints, quality
        )

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def _on_joints(self, message: JointState) -> None:
        cause = self._heard.hear(
            JointPositions(message.name, message.position),
            from_time(message.header.stamp),
            self._clock.now_ns(),
        )
        if cause:
            self._on_fault(cause)


class DescriptionInput:
    """Hears the robot description from its beginning to :meth:`close`."""

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        log: Log,
        on_limits: Callable[[Mapping[str, JointLimit] | Cause], None],
    ) -> None:
        """Subscribe.

        :param prefix: prefix of the topic's name.
        :param on_limits: called with the limits by joint, or why there are none; also now.
        """
        self._node, self._log, self._on_limits = node, log, on_limits
        quality = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._topic = f'{prefix}{ROBOT_DESCRIPTION}'
        self._subscription = node.create_subscription(
            String, self._topic, self._on_description, quality
        )
        on_limits(
            Cause(
                Reason.MOTION_JOINT_LIMITS,
                f'no robot description came on {self._topic} yet, and the '
                'parameter robot_description is topic; start robot_state_publisher, or name a file',
            )
        )

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def _on_description(self, message: String) -> None:
        try:
            limits = read_urdf(message.data, f'the text on {self._topic}')
        except URDFError as error:
            self._log.error(str(error))
            self._on_limits(Cause(Reason.MOTION_JOINT_LIMITS, str(error)))
        else:
            self._on_limits(limits)
