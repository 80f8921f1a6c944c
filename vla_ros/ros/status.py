# SPDX-License-Identifier: Apache-2.0
"""Reports the state of the node for one robot: in its status and in the log.

Used by the executor's thread.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile

from vla_ros.clock import Clock
from vla_ros.graph.stamps import to_time
from vla_ros.msg import VlaStatus
from vla_ros.reasons import State
from vla_ros.ros.log import Log
from vla_ros.ros.situation import Situation

_LOG_PERIOD_S = 1.0  # state and reason may change with every image
_CHANGE_PERIOD_S = 0.1
_PROGRESS_PERIOD_S = 5.0
_LEASE_S = 3.0  # a node without a status for this time is dead or stuck
_IN_PROGRESS = (State.LOADING, State.WARMING_UP)
_MAY_FLAP = (State.RUNNING, State.HOLDING)


class StatusReporter:
    """Compares the situation often, and publishes what ``describe`` gives where it has changed.

    The topic's quality of service tells a listener that the node has died: it offers a deadline
    and a liveliness lease, which a subscription may request.
    """

    def __init__(
        self,
        node: Node,
        clock: Clock,
        log: Log,
        robot: str,
        prefix: str,
        situation: Callable[[], Situation],
        describe: Callable[[], VlaStatus],
        on_published: Callable[[VlaStatus], None],
    ) -> None:
        """Create the publisher.

        :param robot: its name, for the log; empty if it needs none.
        :param prefix: prefix of the topic's name.
        :param situation: returns the robot's state now.
        :param describe: returns the whole status now, without stamp and ``elapsed_s``.
        :param on_published: called with each status after it was published.
        """
        self._clock = clock
        self._log = log
        self._robot = robot
        self._situation = situation
        self._describe, self._on_published = describe, on_published
        self._shown = Situation(State.UNKNOWN)  # as published
        self._shown_s = 0.0
        self._logged = Situation(State.UNKNOWN)
        self._logged_s = 0.0
        self._since_s = clock.monotonic_s()
        quality = QoSProfile(
            depth=1,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
            deadline=Duration(seconds=_LEASE_S),
            liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
            liveliness_lease_duration=Duration(seconds=_LEASE_S),
        )
        self._statuses = node.create_publisher(VlaStatus, f'{prefix}status', quality)

    def show_change(self) -> None:
        """Publish and log what has changed; call this often.

        A new state is published immediately, a new reason at most ten times a second. Progress can
        wait for :meth:`report`.
        """
        situation = self._situation()
        now_s = self._clock.monotonic_s()
        may_wait = situation.state in _IN_PROGRESS or now_s - self._shown_s < _CHANGE_PERIOD_S
        if situation.state != self._shown.state:
            self._since_s = now_s
            may_wait = False
        if situation != self._shown and not may_wait:
            self._shown, self._shown_s = situation, now_s
            self._publish(self._describe())
        self._log_change(now_s)

    def report(self) -> VlaStatus:
        """Publish the status, changed or not, and return it."""
        self.show_change()
        status = self._describe()
        if status.state in _IN_PROGRESS and self._elapsed_s() > _PROGRESS_PERIOD_S:
            # All robots are in it then, and one line is enough.
            self._log.info(
                f'{status.message}, {self._elapsed_s():.0f} s so far',
                every_s=_PROGRESS_PERIOD_S,
            )
        self._publish(status)
        return status

    @property
    def topic(self) -> str:
        """The full name of the topic."""
        return str(self._statuses.topic_name)

    def flush(self, timeout_s: float) -> None:
        """Wait until all listeners have the last status.

        :raises RCLError: if the context has been shut down.
        """
        self._statuses.wait_for_all_acked(Duration(seconds=timeout_s))

    def _elapsed_s(self) -> float:
        return self._clock.monotonic_s() - self._since_s

    def _publish(self, status: VlaStatus) -> None:
        status.header.stamp = to_time(self._clock.now_ns())
        status.elapsed_s = self._elapsed_s()
        self._statuses.publish(status)
        self._on_published(status)

    def _log_change(self, now_s: float) -> None:
        """Log a changed state; one that alternates at most once a second."""
        shown = self._shown
        flaps = shown.state in _MAY_FLAP and self._logged.state in _MAY_FLAP
        if shown == self._logged or (flaps and now_s - self._logged_s < _LOG_PERIOD_S):
            return
        self._logged, self._logged_s = shown, now_s
        text = f'{self._robot}: {shown.text}' if self._robot else shown.text
        if shown.state is State.ERROR:
            self._log.error(text)
        else:
            self._log.info(text)
