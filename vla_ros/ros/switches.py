# SPDX-License-Identifier: Apache-2.0
"""The operator's services: enable, stop and reset, of one robot or of all.

Used by the executor's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from vla_ros.reasons import Cause, Reason
from vla_ros.ros.latch import Latches


class Switch:
    """The operator's switch of one robot.

    A stop lasts until it is reset, also beyond the process: the caller saves the latches after a
    switch. A reset does not start the robot, it only permits that (ISO 13850, 4.1.4): afterwards
    the robot must be enabled.
    """

    def __init__(
        self,
        robot: str,
        prefix: str,
        enabled: bool,
        latches: Latches,
        on_switched: Callable[[], None],
    ) -> None:
        """Begin as the latch says.

        :param robot: its name in ``latches``.
        :param prefix: prefix of the names of the robot's services, after ``~/``.
        :param enabled: at first, unless the operator decided otherwise before.
        :param on_switched: called after every switch, but not if an enabled robot is enabled: its
            motion continues.
        """
        self._robot = robot
        self._services = f'~/{prefix}'
        self._latches = latches
        self._on_switched = on_switched
        latch = latches[robot]
        self._enabled = enabled and not latch.disabled
        self._stopped = latch.stopped

    @property
    def cause(self) -> Cause | None:
        """The reason why the robot must not act; None if it may."""
        if self._stopped:
            message = f'stopped by {self._services}stop; {self._services}reset ends that'
            return Cause(Reason.STOPPED, self._with_problem(message))
        if not self._enabled:
            return Cause(Reason.DISABLED, f'disabled; {self._services}enable ends that')
        return None

    def why_not(self, enabled: bool) -> str:
        """Return why the robot cannot be switched like that now; empty if it can."""
        cause = self.cause
        return cause.message if enabled and self._stopped and cause else ''

    def enable(self, enabled: bool) -> None:
        """Enable or disable the robot; ask :meth:`why_not` before."""
        if enabled and self._enabled:
            return
        self._switch(enabled, self._stopped)

    def stop(self) -> None:
        """Stop the robot until it is reset and enabled."""
        self._switch(False, True)

    def reset(self) -> None:
        """End a stop; the robot stays disabled."""
        self._switch(self._enabled, False)

    def _switch(self, enabled: bool, stopped: bool) -> None:
        self._enabled, self._stopped = enabled, stopped
        self._latches.set(self._robot, stopped=stopped, disabled=not enabled)
        self._on_switched()

    def _with_problem(self, message: str) -> str:
        problem = self._latches.problem
        return f'{message}; {problem}' if problem else message


class SwitchServices:
    """The services of some switches: ``~/enable`` (SetBool), ``~/stop``, ``~/reset`` (Trigger)."""

    def __init__(
        self, node: Node, prefix: str, switches: Sequence[Switch], latches: Latches
    ) -> None:
        """Create the services.

        :param prefix: prefix of their names, after ``~/``.
        """
        self._switches = switches
        self._latches = latches
        node.create_service(SetBool, f'~/{prefix}enable', self._enable)
        node.create_service(Trigger, f'~/{prefix}stop', self._stop)
        node.create_service(Trigger, f'~/{prefix}reset', self._reset)

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        refusals = [why for one in self._switches if (why := one.why_not(request.data))]
        response.success = not refusals
        if refusals:
            response.message = f'nothing is enabled: {"; ".join(refusals)}'
            return response
        for switch in self._switches:
            switch.enable(request.data)
        response.message = self._told('enabled' if request.data else 'disabled')
        return response

    def _stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        for switch in self._switches:
            switch.stop()
        response.success, response.message = True, self._told('stopped until reset')
        return response

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        for switch in self._switches:
            switch.reset()
        off = [cause.message for switch in self._switches if (cause := switch.cause)]
        response.success = True
        response.message = self._told(f'reset; {"; ".join(off)}' if off else 'reset')
        return response

    def _told(self, message: str) -> str:
        """Return the answer. The robots have obeyed first; now the disk is written."""
        self._latches.save()
        problem = self._latches.problem
        return f'{message}; but {problem}' if problem else message
