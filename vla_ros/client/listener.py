# SPDX-License-Identifier: Apache-2.0
"""A subscriber for ``vla_bench --pipeline`` that keeps messages and their arrival times."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from vla_ros.client.vla_client import ReceivedAction, VlaClient
from vla_ros.msg import VlaAction

_DEPTH = 100  # so that no message is lost here


class Listener(VlaClient):
    """A client that keeps all actions and the arrival times of all images.

    Written by the thread that spins it, read under ``changed``.
    """

    def __init__(self, node: Node, threaded: bool = False) -> None:
        super().__init__(node=node, threaded=threaded, depth=_DEPTH)
        self.actions: list[VlaAction] = []
        self.frames_s: list[float] = []  # arrival time of each image, monotonic
        self.after_action: Callable[[], None] | None = None
        self.on_action = self._keep
        node.create_subscription(Image, self.topic('image'), self._on_frame, _DEPTH, raw=True)

    def _keep(self, received: ReceivedAction) -> None:
        self.actions.append(received.message)
        if self.after_action is not None:
            self.after_action()

    def _on_frame(self, message: bytes) -> None:
        with self.changed:
            self.frames_s.append(self.clock.monotonic_s())
            self.wake()


@contextlib.contextmanager
def listening(namespace: str) -> Iterator[Listener]:
    """Provide a listener that its own thread spins."""
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = Node('listener', context=context, namespace=namespace)
    try:
        with contextlib.closing(Listener(node, threaded=True)) as listener:
            yield listener
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
