"""Tells what the node is doing: status and log on every change, status and diagnostics regularly.

Used by the executor's thread. Refuses to know how the state comes about.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from vla_ros.msg import VlaStatus
from vla_ros.ros.messages import diagnostics_message

_LOG_PERIOD_S = 1.0  # reasons may change with every picture
_IN_PROGRESS = (VlaStatus.LOADING, VlaStatus.WARMING_UP)


class StatusReporter:
    """Publishes what ``describe`` gives."""

    def __init__(self, node: Node, describe: Callable[[], VlaStatus]) -> None:
        """
        :param describe: the status now, but for stamp and ``elapsed_s``.
        """
        self._node = node
        self._describe = describe
        self._state, self._why = '', ''
        self._since_s = time.monotonic()
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._statuses = node.create_publisher(VlaStatus, 'status', latched)
        self._diagnostics = node.create_publisher(DiagnosticArray, '/diagnostics', 1)

    def show_change(self) -> None:
        """Log a new state, publish a new state or reason. How far loading has come can wait."""
        status = self._describe()
        if status.state != self._state:
            self._since_s = time.monotonic()
            self._log(status)
        elif status.why == self._why or status.state in _IN_PROGRESS:
            return
        else:
            text = f'{status.state}: {status.why}'
            self._node.get_logger().info(text, throttle_duration_sec=_LOG_PERIOD_S)
        self._state, self._why = status.state, status.why
        self._publish(status)

    def report(self) -> None:
        """Publish status and diagnostics, changed or not."""
        self.show_change()
        status = self._describe()
        self._publish(status)
        name = self._node.get_fully_qualified_name().lstrip('/')
        self._diagnostics.publish(diagnostics_message(status, name))

    def _publish(self, status: VlaStatus) -> None:
        status.header.stamp = self._node.get_clock().now().to_msg()
        status.elapsed_s = time.monotonic() - self._since_s
        self._statuses.publish(status)

    def _log(self, status: VlaStatus) -> None:
        text = f'{status.state}: {status.why}' if status.why else status.state
        if status.state == VlaStatus.ERROR:
            self._node.get_logger().error(text)
        else:  # rclpy wants one severity per line of code
            self._node.get_logger().info(text)
