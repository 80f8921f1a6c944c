# SPDX-License-Identifier: Apache-2.0
"""The heartbeat that nav2's lifecycle manager expects of an active node.

nav2 calls it a bond: messages of the package ``bond`` on the topic ``bond``. Without that package
there is no heartbeat. Used by the executor's thread, so an executor that is stuck gives none.
"""

from __future__ import annotations

import importlib
import uuid
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

_PERIOD_S = 0.1  # as nav2's own nodes
_TIMEOUT_S = 4.0  # nav2's default; the manager's parameter bond_timeout decides
_QUEUE_DEPTH = 10


class Bond:
    """A heartbeat between :meth:`begin` and :meth:`end`, named like the node."""

    def __init__(self, node: Node) -> None:
        """Create the publisher, if the package ``bond`` is installed."""
        self._node = node
        self._instance = str(uuid.uuid4())
        self._timer: Any = None
        try:
            self._type: Any = importlib.import_module('bond.msg').Status
        except (ImportError, AttributeError):
            self._type = None
            return
        self._publisher = node.create_publisher(self._type, 'bond', _QUEUE_DEPTH)

    def begin(self) -> None:
        """Send the first heartbeat, and go on."""
        if self._type is None or self._timer is not None:
            return
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stop
        self._timer = self._node.create_timer(_PERIOD_S, self._beat, clock=steady)
        self._beat()

    def end(self) -> None:
        """Tell the manager that the node is no longer active."""
        if self._timer is None:
            return
        self._node.destroy_timer(self._timer)
        self._timer = None
        self._send(active=False)

    def _beat(self) -> None:
        self._send(active=True)

    def _send(self, active: bool) -> None:
        message = self._type(
            id=self._node.get_name(),
            instance_id=self._instance,
            active=active,
            heartbeat_timeout=_TIMEOUT_S,
            heartbeat_period=_PERIOD_S,
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
