"""One robot's motion on the ROS graph: a stream of twists for MoveIt Servo or its like, a gripper.

Used by the executor's thread: a timer of its own sends what the motion is at that moment, whatever
the inference does. Refuses to know the node's states; it is told to stop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from geometry_msgs.msg import TwistStamped, Vector3
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Float64

from vla_ros.motion import ActionContract, Motion, MotionLimits, Twist
from vla_ros.ros.node_clock import NodeClock
from vla_ros.ros.parameters import Parameters
from vla_ros.ros.stamps import to_time
from vla_ros.types import Prediction

_ZERO_S = 0.2  # zero is repeated for so long before the silence: one message may get lost
_FLUSH_TIMEOUT_S = 0.2


class MotionOutput:
    """Silent until :meth:`execute`, and again some zeros after the motion has ended."""

    def __init__(
        self,
        node: LifecycleNode,
        clock: NodeClock,
        prefix: str,
        frame_id: str,
        parameters: Parameters,
        contracts: Mapping[str, ActionContract],
    ) -> None:
        """
        :param prefix: what the topics' names begin with.
        :param frame_id: the robot's own name of the contract's frame.
        """
        self.motion = Motion(
            contracts,
            MotionLimits(
                parameters.max_linear_speed_m_s,
                parameters.max_angular_speed_rad_s,
                parameters.max_linear_jerk_m_s3,
                parameters.max_angular_jerk_rad_s3,
            ),
            parameters.unnorm_key,
        )
        self._node = node
        self._clock = clock
        self._frame_id = frame_id
        self._most_zeros = math.ceil(_ZERO_S * parameters.control_rate_hz)
        self._zeros_left = 0  # to be sent when the motion is over
        self._twists = node.create_publisher(TwistStamped, f'{prefix}twist', 1)
        self._grippers = node.create_publisher(Float64, f'{prefix}gripper', 1)
        self._timer = node.create_timer(
            1 / parameters.control_rate_hz,
            self._tick,
            clock=Clock(clock_type=ClockType.STEADY_TIME),  # simulated time may stand still
        )

    def execute(self, prediction: Prediction, published_ns: int, valid_until_ns: int) -> None:
        """Begin the motion of an action that has been published just now.

        :param valid_until_ns: of the node's clock; the motion ramps down from then at the latest.
        """
        moves = self.motion.execute(
            prediction.action, prediction.unnorm_key, published_ns / 1e9, valid_until_ns / 1e9
        )
        if not moves:
            self.stop()
            return
        self._zeros_left = self._most_zeros
        if self.motion.gripper is not None:
            self._grippers.publish(Float64(data=self.motion.gripper))

    def stop(self) -> None:
        """Send zero, now and for a while, if the robot may be moving."""
        moved = self._zeros_left == self._most_zeros
        self.motion.stop()
        if moved and self._node.context.ok():
            self._tick()

    def close(self) -> None:
        """Stop, and give the topics back."""
        self.stop()
        self._node.destroy_timer(self._timer)
        for publisher in (self._twists, self._grippers):
            if self._node.context.ok():
                publisher.wait_for_all_acked(Duration(seconds=_FLUSH_TIMEOUT_S))
            self._node.destroy_publisher(publisher)

    def _tick(self) -> None:
        if not self._zeros_left:
            return
        now_ns = self._clock.now_ns()
        if self.motion.is_over(now_ns / 1e9):
            self._zeros_left -= 1
        message = TwistStamped()
        message.header.stamp = to_time(now_ns)
        message.header.frame_id = self._frame_id
        message.twist.linear, message.twist.angular = _vectors(self.motion.twist(now_ns / 1e9))
        self._twists.publish(message)


def _vectors(twist: Twist) -> list[Vector3]:
    return [Vector3(x=x, y=y, z=z) for x, y, z in twist.reshape(2, 3).tolist()]
