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

from vla_ros.graph.heard import cleaned
from vla_ros.graph.image_messages import image_message
from vla_ros.graph.stamps import from_time, to_time
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.reasons import State
from vla_ros.text import printable
from vla_ros.types import PolicyError

_PATIENCE_S = 20.0  # for what takes milliseconds, on a machine that is busy otherwise
_CHECK_S = 0.1  # so often is looked whether a wait is in vain
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

    ``black`` puts the cap on its camera. ``check`` is called while it waits, and raises to end a
    wait that is in vain.

    :param simulated_time: its clock moves as :meth:`let_time_pass` says, and is published on
        ``clock``; otherwise it is the wall's.
    """

    def __init__(
        self, namespace: str = '', simulated_time: bool = False, name: str = 'simulated_robot'
    ) -> None:
        super().__init__(name, namespace=namespace)
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
        self.status = cleaned(message)

    def _on_action(self, message: VlaAction) -> None:
        action, stamp_ns = np.array(message.action), from_time(message.observation_stamp)
        self.newest = HeardAction(action, stamp_ns, self.monotonic_s())

    # -- time ------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """Of the robot's clock."""
        if self._simulated_ns is not None:
            return self._simulated_ns
        now_ns: int = self.get_clock().now().nanoseconds
        return now_ns

    def monotonic_s(self) -> float:
        return time.monotonic()

    def let_time_pass(self, seconds: float) -> None:
        """Where the robot's clock is simulated; the wall's does by itself."""
        if self._simulated_ns is not None:
            assert self._clock_times is not None
            self._simulated_ns += round(seconds * 1e9)
            self._clock_times.publish(Clock(clock=to_time(self._simulated_ns)))

    def spin_until(self, at_s: float) -> None:
        """Hear what comes until that moment of the monotonic clock; at least what came already.

        :raises EvaluationError: if the node is in ERROR.
        """
        for _ in range(_LEAST_SPINS):
            self._executor.spin_once(0.0)
        self.wait_for(lambda: False, at_s - self.monotonic_s())

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether the condition comes true in time.

        :raises EvaluationError: if the node is in ERROR.
        """
        deadline_s = self.monotonic_s() + timeout_s
        while not condition():
            self.check()
            if self.status.state == State.ERROR:
                raise EvaluationError(f'the node is in {self.status.message}')
            left_s = deadline_s - self.monotonic_s()
            if left_s <= 0:
                return False
            self._executor.spin_once(min(left_s, _CHECK_S))
        return True

    # -- what the robot does ---------------------------------------------------------------------

    def show(self, image: NDArray[np.uint8], stamp_ns: int) -> NDArray[np.uint8]:
        """Send a picture.

        :param image: uint8 [H, W, 3] RGB.
        :returns: what the node is shown, of the same shape.
        """
        shown = np.zeros_like(image) if self.black else image
        message = image_message(shown, 'camera')
        message.header.stamp = to_time(stamp_ns)
        self._images.publish(message)
        return shown

    def instruct(self, instruction: str) -> None:
        """Until the node heeds it.

        :raises EvaluationError: if it does not.
        """

        def heeded() -> bool:
            is_in_force: bool = self.status.instruction == printable(instruction)
            if not is_in_force:
                self._instructions.publish(String(data=instruction))
            return is_in_force

        self._until(heeded, f'the node heeds the instruction {instruction!r}', _PATIENCE_S)

    def wait_until_ready(self, say: Callable[[str], None], timeout_s: float) -> None:
        """Until the node has a warm policy and waits for an instruction.

        :param say: hears of each new state.
        :raises EvaluationError: if the node can't, or not in time.
        """
        said = ''

        def ready() -> bool:
            nonlocal said
            if (state := self.status.message) != said:
                said = state
                say(state)
            return self.status.state in (State.HOLDING, State.RUNNING)

        self._until(ready, 'the policy is warm', timeout_s)

    def settled_status(self) -> VlaStatus:
        """One that was sent from now on: what it counts has happened.

        :raises EvaluationError: if none comes.
        """
        before = self.status
        self._until(lambda: self.status is not before, 'the node sends its status', _PATIENCE_S)
        return self.status

    def _until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Ask again and again, while time passes also where it is simulated."""
        deadline_s = self.monotonic_s() + timeout_s
        while not condition():
            if self.monotonic_s() > deadline_s:
                status = self.status
                raise EvaluationError(
                    f'it took more than {timeout_s:g} s until {what}; the last status was '
                    f'{status.message or "none"}'
                )
            before = self.status
            self.let_time_pass(_CHECK_S)
            self.wait_for(lambda: self.status is not before, _CHECK_S)  # noqa: B023
