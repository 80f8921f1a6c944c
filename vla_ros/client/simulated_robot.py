"""The robot's side of the ROS graph, for one that is simulated: its camera and its clock."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock

from vla_ros.client.robot_side import RobotSide
from vla_ros.client.vla_client import REPEAT_S
from vla_ros.graph.stamps import to_time
from vla_ros.types import ONE_CAMERA

_LEAST_SPINS = 3  # a robot that is late handles an action and a status all the same


class SimulatedRobot(RobotSide):
    """A robot with one camera. Of one thread.

    ``black`` covers its camera. Its clock is the machine's, unless it is a ``SimulatedTimeRobot``.
    """

    def __init__(self, namespace: str = '', name: str = 'simulated_robot') -> None:
        node = Node(name, namespace=namespace)
        super().__init__(node=node)
        self._cleanup.callback(node.destroy_node)
        self.black = False

    def now_ns(self) -> int:
        """Return the time of the robot's clock, nanoseconds."""
        now_ns: int = self.node.get_clock().now().nanoseconds
        return now_ns

    def monotonic_s(self) -> float:
        return self.clock.monotonic_s()

    def let_time_pass(self, seconds: float) -> None:
        """Advance the robot's clock where it is simulated; the machine's advances by itself."""

    def spin_until(self, at_s: float) -> None:
        """Handle what comes until that moment of the monotonic clock, and what came already."""
        for _ in range(_LEAST_SPINS):
            self.spin_once(0.0)
        self.wait_until(lambda: False, at_s - self.monotonic_s())

    def show_image(self, image: NDArray[np.uint8], stamp_ns: int) -> NDArray[np.uint8]:
        """Publish an image of the one camera.

        :param image: uint8 [H, W, 3] RGB.
        :returns: what the node receives, of the same shape.
        """
        shown = np.zeros_like(image) if self.black else image
        self.show({ONE_CAMERA: shown}, stamp_ns)
        return shown


class SimulatedTimeRobot(SimulatedRobot):
    """A simulated robot whose clock moves as it is told to, and is published on ``clock``."""

    def __init__(self, namespace: str = '', name: str = 'simulated_robot') -> None:
        super().__init__(namespace, name)
        self._now_ns = 10**9
        self._times: Publisher = self.node.create_publisher(Clock, 'clock', 1)

    def now_ns(self) -> int:
        return self._now_ns

    def let_time_pass(self, seconds: float) -> None:
        self._now_ns += round(seconds * 1e9)
        self._times.publish(Clock(clock=to_time(self._now_ns)))

    def repeat_until(
        self, act: Callable[[], object], condition: Callable[[], bool], timeout_s: float
    ) -> bool:
        """As of any client, while time passes."""

        def act_later() -> None:
            self.let_time_pass(REPEAT_S)
            act()

        return super().repeat_until(act_later, condition, timeout_s)
