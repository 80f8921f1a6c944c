# SPDX-License-Identifier: Apache-2.0
"""The robot's side of the ROS graph for a simulated robot, with its sensors and its clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Float64

from vla_ros.client.robot_side import RobotSide
from vla_ros.client.vla_client import REPEAT_S
from vla_ros.graph.stamps import from_time, to_time
from vla_ros.simulation.arm import quaternion
from vla_ros.types import ONE_CAMERA, Observation, PolicySpec

BASE = 'base'  # frame of the twists and of the pose
_TWISTS_WAITING = 10
_LEAST_SPINS = 3  # so that a robot that is late still handles an action and a status


class SimulatedRobot(RobotSide):
    """A robot of one thread.

    ``black`` covers its cameras. Its clock is the machine's; that of a ``SimulatedTimeRobot`` is
    simulated.
    """

    def __init__(
        self,
        namespace: str = '',
        name: str = 'simulated_robot',
        spec: PolicySpec | None = None,
    ) -> None:
        """Make the robot's node, and offer what the policy needs.

        :param spec: spec of the policy; None: it needs one camera and no state.
        """
        node = Node(name, namespace=namespace)
        super().__init__(node=node, cameras=(ONE_CAMERA,) if spec is None else spec.cameras)
        if spec is not None and spec.state_dim:
            _ = self._states  # made now, so that the node knows it before the first state
        self._cleanup.callback(node.destroy_node)
        self.black = False
        self._poses: Publisher | None = None
        self._twist = TwistStamped()
        self.gripper_is_open = True
        self.zeros = 0  # twists of zero in a row

    def now_ns(self) -> int:
        """Return the time of the robot's clock, nanoseconds."""
        now_ns: int = self.node.get_clock().now().nanoseconds
        return now_ns

    def monotonic_s(self) -> float:
        """Return the time of a clock that never jumps [s]."""
        return self.clock.monotonic_s()

    def let_time_pass(self, seconds: float) -> None:
        """Advance the robot's clock where it is simulated; the machine's advances by itself."""

    def spin_until(self, at_s: float) -> None:
        """Handle messages until a time of the monotonic clock, and those that wait already."""
        for _ in range(_LEAST_SPINS):
            self.spin_once(0.0)
        self.wait_until(lambda: False, at_s - self.monotonic_s())

    def seen(self, observation: Observation) -> Observation:
        """Return the observation as the cameras give it: with black images if they are covered."""
        if not self.black:
            return observation
        images = {name: np.zeros_like(image) for name, image in observation.images.items()}
        return replace(observation, images=images)

    def send(self, seen: Observation, stamp_ns: int) -> None:
        """Publish the images and the state of an observation.

        :param stamp_ns: capture time by the robot's clock, nanoseconds.
        """
        self.show(seen.images, stamp_ns, seen.state)

    # -- the node's motion -------------------------------------------------------------------------

    def follow_twists(self) -> None:
        """Listen to the node's twists and gripper from now on; publish the tool's pose."""
        self.gripper_is_open, self.zeros = True, 0
        if self._poses is not None:
            return
        node = self.node
        self._poses = node.create_publisher(PoseStamped, self.topic('ee_pose'), 10)
        node.create_subscription(
            TwistStamped, self.topic('twist'), self._keep_twist, _TWISTS_WAITING
        )
        node.create_subscription(Float64, self.topic('gripper'), self._keep_gripper, 10)

    def tell_pose(self, pose: Any) -> None:
        """Publish the current pose of the tool.

        :param pose: with a position, float64 [3], and a rotation, float64 [3, 3].
        """
        if self._poses is None:
            return
        message = PoseStamped()
        message.header.frame_id = BASE
        message.header.stamp = to_time(self.now_ns())
        place, turn = message.pose.position, message.pose.orientation
        place.x, place.y, place.z = pose.position.tolist()
        turn.x, turn.y, turn.z, turn.w = quaternion(pose.rotation).tolist()
        self._poses.publish(message)

    def twist_of(self, timeout_s: float) -> NDArray[np.float64] | None:
        """Return the node's twist of this moment, float64 [6]; None if none comes in time."""
        self.spin_once(0.0)
        if not self.wait_until(self._has_twist, timeout_s):
            return None
        linear, angular = self._twist.twist.linear, self._twist.twist.angular
        return np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])

    def _has_twist(self) -> bool:
        return from_time(self._twist.header.stamp) >= self.now_ns()

    def _keep_twist(self, message: TwistStamped) -> None:
        with self.changed:
            self._twist = message
            parts = (message.twist.linear, message.twist.angular)
            is_zero = not any(value for one in parts for value in (one.x, one.y, one.z))
            self.zeros = self.zeros + 1 if is_zero else 0
            self.wake()

    def _keep_gripper(self, message: Float64) -> None:
        with self.changed:
            self.gripper_is_open = message.data > 0.5
            self.wake()


class SimulatedTimeRobot(SimulatedRobot):
    """A simulated robot whose clock advances on request, and is published on ``clock``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Begin at one second; the arguments are those of SimulatedRobot."""
        super().__init__(*arguments, **options)
        self._now_ns = 10**9
        self._times: Publisher = self.node.create_publisher(Clock, 'clock', 1)

    def now_ns(self) -> int:
        """Return the simulated time, nanoseconds."""
        return self._now_ns

    def let_time_pass(self, seconds: float) -> None:
        """Advance the clock, and publish its time."""
        self._now_ns += round(seconds * 1e9)
        self._times.publish(Clock(clock=to_time(self._now_ns)))

    def repeat_until(
        self, act: Callable[[], object], condition: Callable[[], bool], timeout_s: float
    ) -> bool:
        """Repeat as any client does, and advance the clock each time."""

        def act_later() -> None:
            self.let_time_pass(REPEAT_S)
            act()

        return super().repeat_until(act_later, condition, timeout_s)
