"""Tells what the node is doing for one robot: status and log on every change, status regularly.

Used by the executor's thread. Refuses to know how the state comes about.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from vla_ros.msg import VlaStatus

_LOG_PERIOD_S = 1.0  # state and reason may change with every picture
_CHANGE_PERIOD_S = 0.1
_PROGRESS_PERIOD_S = 5.0
_FLUSH_TIMEOUT_S = 0.5
_IN_PROGRESS = (VlaStatus.LOADING, VlaStatus.WARMING_UP)
_MAY_FLAP = (VlaStatus.RUNNING, VlaStatus.HOLDING)


class StatusReporter:
    """Compares ``state`` often, and publishes what ``describe`` gives where it has changed."""

    def __init__(
        self,
        node: Node,
        robot: str,
        prefix: str,
        state: Callable[[], tuple[str, str]],
        describe: Callable[[], VlaStatus],
    ) -> None:
        """
        :param robot: its name, for the log; empty if it needs none.
        :param prefix: what the topic's name begins with.
        :param state: the state now, and why.
        :param describe: the whole status now, but for stamp and ``elapsed_s``.
        """
        self._node = node
        self._robot = robot
        self._state = state
        self._describe = describe
        self._shown = ('', '')  # state and why, as published
        self._shown_s = 0.0
        self._logged = ('', '')
        self._logged_s = 0.0
        self._since_s = time.monotonic()
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._statuses = node.create_publisher(VlaStatus, f'{prefix}status', latched)

    def show_change(self) -> None:
        """Publish and log what has changed; call this often.

        A new state is published at once, a new reason at most ten times a second. Progress can
        wait for :meth:`report`.
        """
        state, why = self._state()
        now_s = time.monotonic()
        may_wait = state in _IN_PROGRESS or now_s - self._shown_s < _CHANGE_PERIOD_S
        if state != self._shown[0]:
            self._since_s = now_s
            may_wait = False
        if (state, why) != self._shown and not may_wait:
            self._shown, self._shown_s = (state, why), now_s
            self._publish(self._describe())
        self._log_change(now_s)

    def report(self) -> VlaStatus:
        """Publish the status, changed or not; what it was."""
        self.show_change()
        status = self._describe()
        if status.state in _IN_PROGRESS:  # so are all robots then, and one line is enough
            elapsed_s = time.monotonic() - self._since_s
            self._node.get_logger().info(
                f'{status.state}: {status.why}, {elapsed_s:.0f} s so far',
                throttle_duration_sec=_PROGRESS_PERIOD_S,
                skip_first=True,
            )
        self._publish(status)
        return status

    def flush(self) -> None:
        """Wait, not for long, until all that listen have the last status: the process ends.

        :raises RCLError: if the context has been shut down.
        """
        self._statuses.wait_for_all_acked(Duration(seconds=_FLUSH_TIMEOUT_S))

    def _publish(self, status: VlaStatus) -> None:
        status.header.stamp = self._node.get_clock().now().to_msg()
        status.elapsed_s = time.monotonic() - self._since_s
        self._statuses.publish(status)

    def _log_change(self, now_s: float) -> None:
        """What flaps is logged once a second: the log ends with what is."""
        state, why = self._shown
        flaps = state in _MAY_FLAP and self._logged[0] in _MAY_FLAP
        if self._shown == self._logged or (flaps and now_s - self._logged_s < _LOG_PERIOD_S):
            return
        self._logged, self._logged_s = self._shown, now_s
        text = f'{self._robot}: {state}' if self._robot else state
        text = f'{text}: {why}' if why else text
        if state == VlaStatus.ERROR:
            self._node.get_logger().error(text)
        else:  # rclpy wants one severity per line of code
            self._node.get_logger().info(text)
