"""One robot's motion on the ROS graph: a stream of twists for MoveIt Servo or its like, a gripper.

Used by the executor's thread: a timer of its own sends what the motion is at that moment, whatever
the inference does. Refuses to know the node's states; it is told to stop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from geometry_msgs.msg import TwistStamped, Vector3
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Float64

from vla_ros.motion import ActionContract, Motion, Twist
from vla_ros.ros.node_clock import NodeClock
from vla_ros.ros.parameters import Parameters
from vla_ros.ros.stamps import to_time
from vla_ros.types import Prediction

_ZERO_S = 0.2  # zero is repeated for so long before the silence: one message may get lost
_FLUSH_TIMEOUT_S = 0.2
_STANDSTILL_S = 0.3  # of the node's clock: longer than between two ticks of a simulation's


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
        self.motion = Motion(contracts, parameters.motion_limits, parameters.unnorm_key)
        self._node = node
        self._clock = clock
        self._frame_id = frame_id
        self._most_zeros = math.ceil(_ZERO_S * parameters.control_rate_hz)
        self._zeros_left = 0  # to be sent when the motion is over
        self._period_s = 1 / parameters.control_rate_hz
        self._ticked_ns = 0  # the node's time at the last tick
        self._advanced_s = 0.0  # when that last changed, monotonic
        self._twists = node.create_publisher(TwistStamped, f'{prefix}twist', 1)
        self._grippers = node.create_publisher(Float64, f'{prefix}gripper', 1)
        self._timer = node.create_timer(
            self._period_s,
            self._tick,
            clock=Clock(clock_type=ClockType.STEADY_TIME),  # simulated time may stand still
        )
        self._say_what_it_means()

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

    def forget(self) -> None:
        """Stop, and know nothing of the gripper."""
        self.stop()
        self.motion.forget_gripper()

    def close(self) -> None:
        """Stop, say so to the end, and give the topics back."""
        self.stop()
        while self._zeros_left and self._node.context.ok():
            time.sleep(self._period_s)
            self._tick()
        self._node.destroy_timer(self._timer)
        for publisher in (self._twists, self._grippers):
            if self._node.context.ok():
                publisher.wait_for_all_acked(Duration(seconds=_FLUSH_TIMEOUT_S))
            self._node.destroy_publisher(publisher)

    def _say_what_it_means(self) -> None:
        contract, logger = self.motion.contract, self._node.get_logger()
        if self.motion.why_none:
            logger.warning(f'no motion: {self.motion.why_none}')
        elif contract is not None:
            logger.info(
                f'motion by {contract.unnorm_key}: {self._frame_id} is to be the {contract.frame} '
                f'of a {contract.robot}, {contract.rate_hz:.3g} actions a second'
            )

    def _tick(self) -> None:
        if not self._zeros_left:
            return
        now_ns, now_s = self._clock.now_ns(), self._clock.monotonic_s()
        if now_ns != self._ticked_ns:
            self._ticked_ns, self._advanced_s = now_ns, now_s
        elif now_s - self._advanced_s > _STANDSTILL_S:
            self.motion.stop()  # by that clock no motion would ever end
        if self.motion.is_over(now_ns / 1e9):
            self._zeros_left -= 1
        message = TwistStamped()
        message.header.stamp = to_time(now_ns)
        message.header.frame_id = self._frame_id
        message.twist.linear, message.twist.angular = _vectors(self.motion.twist(now_ns / 1e9))
        self._twists.publish(message)


def _vectors(twist: Twist) -> list[Vector3]:
    return [Vector3(x=x, y=y, z=z) for x, y, z in twist.reshape(2, 3).tolist()]
