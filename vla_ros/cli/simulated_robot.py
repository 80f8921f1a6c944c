"""The robot's side of the ROS graph, for one that is simulated: its camera, and what it hears."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vla_ros.cli.picture_messages import image_message
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.ros.stamps import from_time, to_time
from vla_ros.types import PolicyError

_PATIENCE_S = 20.0  # for what takes milliseconds, on a machine that is busy otherwise
_LEAST_SPINS = 3  # a robot that is late hears an action and a status all the same


class EvaluationError(PolicyError):
    """There is no action to be had, and so nothing to judge."""


@dataclass(frozen=True)
class HeardAction:
    """An action, and when it came.

    :param action: float64 [7].
    :param stamp_ns: of its picture.
    :param at_s: of the monotonic clock.
    """

    action: NDArray[np.float64]
    stamp_ns: int
    at_s: float


class SimulatedRobot(Node):
    """Spins itself while it waits. Of one thread.

    ``black`` puts the cap on its camera. ``check`` is called in every wait, and raises to end one
    that is in vain.

    :param simulated_time: its clock moves as :meth:`let_time_pass` says, and is published on
        ``clock``; otherwise it is the wall's.
    """

    def __init__(self, namespace: str, simulated_time: bool = False) -> None:
        super().__init__('simulated_robot', namespace=namespace)
        self.status = VlaStatus()
        self.newest: HeardAction | None = None
        self.black = False
        self.check: Callable[[], None] = lambda: None
        self._simulated_ns = 10**9 if simulated_time else None
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._images = self.create_publisher(Image, 'image', 1)
        self._instructions = self.create_publisher(String, 'instruction', 1)
        self._clock_times = self.create_publisher(Clock, 'clock', 1) if simulated_time else None
        self.create_subscription(VlaStatus, 'status', self._on_status, latched)
        self.create_subscription(VlaAction, 'action', self._on_action, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def _on_status(self, message: VlaStatus) -> None:
        self.status = message

    def _on_action(self, message: VlaAction) -> None:
        action, stamp_ns = np.array(message.action), from_time(message.observation_stamp)
        self.newest = HeardAction(action, stamp_ns, time.monotonic())

    # -- time ------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """Of the robot's clock."""
        if self._simulated_ns is not None:
            return self._simulated_ns
        now_ns: int = self.get_clock().now().nanoseconds
        return now_ns

    def let_time_pass(self, seconds: float) -> None:
        """Where the robot's clock is simulated; the wall's does by itself."""
        if self._simulated_ns is not None:
            assert self._clock_times is not None
            self._simulated_ns += round(seconds * 1e9)
            self._clock_times.publish(Clock(clock=to_time(self._simulated_ns)))

    def spin_until(self, at_s: float) -> None:
        """Hear what comes until that moment of the monotonic clock; at least what came already."""
        for _ in range(_LEAST_SPINS):
            self._executor.spin_once(0.0)
        self.wait_for(lambda: False, at_s - time.monotonic())

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether the condition comes true in time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            self._executor.spin_once(left_s)
        return True

    # -- what the robot does ---------------------------------------------------------------------

    def show(self, image: NDArray[np.uint8], stamp_ns: int) -> None:
        """Send a picture.

        :param image: uint8 [H, W, 3] RGB.
        """
        message = image_message(np.zeros_like(image) if self.black else image, 'camera')
        message.header.stamp = to_time(stamp_ns)
        self._images.publish(message)

    def instruct(self, instruction: str) -> None:
        """Until the node heeds it.

        :raises EvaluationError: if it does not.
        """
        deadline_s = time.monotonic() + _PATIENCE_S
        while self.status.instruction != instruction:
            self._instructions.publish(String(data=instruction))
            self.wait_for(lambda: self.status.instruction == instruction, 0.5)
            self._check(deadline_s, f'the node heeds the instruction {instruction!r}')

    def wait_until_ready(self, say: Callable[[str], None], timeout_s: float) -> None:
        """Until the node has a warm policy and waits for an instruction.

        :param say: hears of each new state.
        :raises EvaluationError: if the node can't, or not in time.
        """
        said, deadline_s = '', time.monotonic() + timeout_s
        while self.status.state not in (VlaStatus.HOLDING, VlaStatus.RUNNING):
            self.let_time_pass(0.1)
            self._executor.spin_once(0.1)
            self._check(deadline_s, 'the policy is warm')
            if (state := f'{self.status.state} {self.status.why}'.strip()) != said:
                said = state
                say(state)

    def settled_status(self) -> VlaStatus:
        """One that was sent from now on: what it counts has happened.

        :raises EvaluationError: if none comes.
        """
        before, deadline_s = self.status, time.monotonic() + _PATIENCE_S
        while self.status is before:
            self.let_time_pass(0.1)
            self.wait_for(lambda: self.status is not before, 0.1)
            self._check(deadline_s, 'the node sends its status')
        return self.status

    def _check(self, deadline_s: float, what: str) -> None:
        self.check()
        status = self.status
        if status.state == VlaStatus.ERROR:
            raise EvaluationError(f'the node is in ERROR: {status.why}')
        if time.monotonic() > deadline_s:
            raise EvaluationError(
                f'it took too long until {what}; the last status was {status.state or "none"}: '
                f'{status.why}'
            )
