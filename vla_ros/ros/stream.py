# SPDX-License-Identifier: Apache-2.0
"""A stream of commands to a controller: many while the robot moves, some that end it, then silence.

Used by the executor's thread. A timer sends the command of the moment, whatever the inference does.
A hold stops the robot immediately.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.qos import QoSProfile

from vla_ros.ros.node_clock import Moment
from vla_ros.ros.output import Admitted, Output, OutputSetup

_ENDING_S = 0.2  # the last command is repeated before the silence: one message may get lost
_STANDSTILL_S = 0.3  # of simulated time: longer than between two ticks of a simulation's
_LIFESPAN_S = 0.1  # of a command: two periods at the lowest rate; MoveIt Servo ignores older ones
_MAX_DELAY_S = 0.02  # from a command's stamp to its sending; more means the process was stopped


class Stream(Output):
    """Commands at ``control_rate_hz`` from :meth:`publish` to a moment after the motion's end.

    A motion runs by the monotonic clock: a system clock that is set back moves no robot further.
    With simulated time it runs by that, as the simulation does. A subclass knows the motion:
    ``now_s`` is always a time by that clock.
    """

    def __init__(self, setup: OutputSetup, kind: type, *topics: str) -> None:
        """Create the publishers and the timer.

        :param kind: type of the messages.
        :param topics: names of the topics, without the robot's prefix.
        """
        self._node = node = setup.node
        self._clock = clock = setup.shared.clock
        self._ending_left = 0  # commands to be sent when the motion is over
        self._simulated = clock.is_simulated
        self._sent_s = 0.0  # when the last command was, monotonic
        self._ticked_ns = 0  # the node's time at the last tick
        self._advanced_s = 0.0  # when that last changed, monotonic
        quality = QoSProfile(depth=1, lifespan=Duration(seconds=_LIFESPAN_S))
        self._publishers = [
            node.create_publisher(kind, f'{setup.prefix}{topic}', quality) for topic in topics
        ]
        self.topics = tuple(publisher.topic_name for publisher in self._publishers)
        self._keep_time(setup.parameters.control_rate_hz)

    def _keep_time(self, rate_hz: float) -> None:
        """Make the timer."""
        self._period_s = 1 / rate_hz
        self._most_ending = math.ceil(_ENDING_S * rate_hz)
        self._timer = self._node.create_timer(
            self._period_s,
            self._on_timer,
            clock=Clock(clock_type=ClockType.STEADY_TIME),  # simulated time may stop
        )

    # -- of the subclass ---------------------------------------------------------------------------

    @abstractmethod
    def _begin(self, admitted: Admitted, now_s: float) -> bool:
        """Begin the motion of a chunk in place of the one before; return whether it is one."""

    @abstractmethod
    def _stop(self) -> None:
        """End the motion immediately."""

    @abstractmethod
    def _is_over(self, now_s: float) -> bool:
        """Return whether the command stays as it is until the next chunk."""

    @abstractmethod
    def _command(self, now: Moment, now_s: float) -> Any:
        """Return the message of the moment; once the motion is over, one that stops the robot."""

    def _send(self, command: Any) -> None:
        """Publish what :meth:`_command` has returned."""
        self._publishers[0].publish(command)

    def _turn_grippers(self, now_s: float) -> None:
        """Send the openings that are due: of the rows that the robot begins."""
        return

    def _give_up_grippers(self) -> None:
        """Send no opening of an earlier row again."""
        return

    # -- an output ---------------------------------------------------------------------------------

    def publish(self, admitted: Admitted) -> None:
        """Begin the motion of a chunk."""
        self._follow_clock()
        now_s = self._motion_s(admitted.published)
        self._give_up_grippers()
        if self._begin(admitted, now_s):
            self._ending_left = self._most_ending
            self._turn_grippers(now_s)
        else:
            self.hold()

    def adjust(self, setup: OutputSetup) -> None:
        """Send at another rate from the next command on."""
        rate_hz = setup.parameters.control_rate_hz
        if self._period_s == 1 / rate_hz:
            return
        left = self._ending_left / self._most_ending
        self._node.destroy_timer(self._timer)
        self._keep_time(rate_hz)
        self._ending_left = math.ceil(left * self._most_ending)

    def hold(self) -> None:
        """Send a command that stops the robot, now and for a while, if it may be moving."""
        moved = self._ending_left == self._most_ending
        self._give_up_grippers()
        self._stop()
        if moved and self._node.context.ok():
            self._tick()

    def catch_up(self) -> None:
        """Send the command that is due, if other callbacks have delayed the timer."""
        if self._clock.monotonic_s() - self._sent_s >= self._period_s:
            self._tick()

    @property
    def rest_s(self) -> float:
        """Time between two commands that end a motion [s]; 0: all were sent, or cannot be."""
        return self._period_s if self._ending_left > 0 and self._node.context.ok() else 0.0

    def say_end(self) -> None:
        """Send the next of the commands that end a motion."""
        self._tick()

    def close(self, flush_s: float) -> None:
        """Destroy timer and publishers, once all listeners have the last command."""
        self._node.destroy_timer(self._timer)
        for publisher in self._publishers:
            if self._node.context.ok():
                publisher.wait_for_all_acked(Duration(seconds=flush_s))
            self._node.destroy_publisher(publisher)

    # -- time --------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        # After a late tick or a stop the timer may be due again immediately.
        if self._clock.monotonic_s() - self._sent_s >= self._period_s / 2:
            self._tick()

    def _tick(self) -> None:
        if not self._ending_left:
            return
        self._follow_clock()
        now = self._clock.now()
        if self._simulated:
            self._stop_at_standstill(now)
        now_s = self._motion_s(now)
        message = self._command(now, now_s)
        if self._clock.monotonic_s() - now.monotonic_s > _MAX_DELAY_S:
            return  # it was right a while ago; the timer sends what is right by now
        self._send(message)
        self._turn_grippers(now_s)
        self._sent_s = now.monotonic_s
        self._ending_left -= self._is_over(now_s)

    def _now_s(self) -> float:
        """Return the time by the clock that the motion runs by."""
        return self._motion_s(self._clock.now())

    def _motion_s(self, moment: Moment) -> float:
        """Return the moment by the clock that the motion runs by."""
        return moment.node_ns / 1e9 if self._simulated else moment.monotonic_s

    def _follow_clock(self) -> None:
        """Stop if the clock has changed: a motion ends with the clock that it runs by."""
        if self._clock.is_simulated != self._simulated:
            self._simulated = self._clock.is_simulated
            self._stop()

    def _stop_at_standstill(self, now: Moment) -> None:
        if now.node_ns != self._ticked_ns:
            self._ticked_ns, self._advanced_s = now.node_ns, now.monotonic_s
        elif now.monotonic_s - self._advanced_s > _STANDSTILL_S:
            self._stop()  # by that clock no motion would ever end
