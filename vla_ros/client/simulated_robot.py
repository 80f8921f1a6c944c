"""The robot's side of the ROS graph for a simulated robot, with its sensors and its clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock

from vla_ros.client.robot_side import RobotSide
from vla_ros.client.vla_client import REPEAT_S
from vla_ros.graph.stamps import to_time
from vla_ros.types import ONE_CAMERA, Observation, PolicySpec

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
