"""An independent ear on the graph, for ``vla_bench --pipeline``: keeps what it hears, and when."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vla_ros.clock import Clock, SystemClock
from vla_ros.graph.executor import spinning
from vla_ros.graph.heard import cleaned
from vla_ros.msg import VlaAction, VlaStatus


class Listener(Node):
    """Keeps what it hears. Written by the thread that spins it, read under ``changed``."""

    def __init__(
        self, context: rclpy.Context, namespace: str, clock: Clock = SystemClock()
    ) -> None:
        super().__init__('listener', context=context, namespace=namespace)
        self._clock = clock
        self.changed = threading.Condition()
        self.status = VlaStatus()
        self.actions: list[VlaAction] = []
        self.frames_s: list[float] = []  # when each came, monotonic
        self.after_action: Callable[[], None] | None = None
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(VlaStatus, 'status', self._on_status, latched)
        self.create_subscription(VlaAction, 'action', self._on_action, 100)
        self.create_subscription(Image, 'image', self._on_frame, 100, raw=True)
        self.instructions = self.create_publisher(String, 'instruction', 1)

    def _on_status(self, message: VlaStatus) -> None:
        with self.changed:
            self.status = cleaned(message)
            self.changed.notify_all()

    def _on_action(self, message: VlaAction) -> None:
        with self.changed:
            self.actions.append(cleaned(message))
            if self.after_action is not None:
                self.after_action()
            self.changed.notify_all()

    def _on_frame(self, message: bytes) -> None:
        with self.changed:
            self.frames_s.append(self._clock.monotonic_s())
            self.changed.notify_all()


@contextlib.contextmanager
def listening(namespace: str) -> Iterator[Listener]:
    """A listener, spun by a thread of its own."""
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    listener = Listener(context, namespace)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(listener)
    try:
        with spinning(executor, 'listener'):
            yield listener
    finally:
        listener.destroy_node()
        rclpy.shutdown(context=context)
