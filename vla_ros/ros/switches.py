"""What a person switches by services: enable, stop and reset, of one robot or of all.

Used by the executor's thread. Refuses to know what a robot does meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger


class Switch:
    """Whether a person lets one robot act.

    A stop stays until it is reset. A reset does not set the robot going again, it only allows
    that (ISO 13850, 4.1.4): afterwards the robot has to be enabled.
    """

    def __init__(self, prefix: str, enabled: bool, on_switched: Callable[[], None]) -> None:
        """
        :param prefix: what the names of the robot's services begin with, after ``~/``.
        :param enabled: at first.
        :param on_switched: called after every one of the three, but not if an enabled robot is
            enabled: what it does goes on.
        """
        self._services = f'~/{prefix}'
        self._on_switched = on_switched
        self._enabled = enabled
        self._stopped = False

    @property
    def why_off(self) -> str:
        """Empty if the robot may act."""
        if self._stopped:
            return f'stopped by {self._services}stop; {self._services}reset ends that'
        if not self._enabled:
            return f'disabled; {self._services}enable ends that'
        return ''

    def why_not(self, enabled: bool) -> str:
        """Why it can't be switched so now; empty if it can."""
        return self.why_off if enabled and self._stopped else ''

    def enable(self, enabled: bool) -> None:
        """Ask :meth:`why_not` before."""
        if enabled and self._enabled:
            return
        self._enabled = enabled
        self._on_switched()

    def stop(self) -> None:
        self._stopped, self._enabled = True, False
        self._on_switched()

    def reset(self) -> None:
        self._stopped = False
        self._on_switched()


class SwitchServices:
    """``~/enable`` (SetBool), ``~/stop`` and ``~/reset`` (Trigger), for some switches at once."""

    def __init__(self, node: Node, prefix: str, switches: Sequence[Switch]) -> None:
        """
        :param prefix: what the services' names begin with, after ``~/``.
        """
        self._switches = switches
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
        response.message = 'enabled' if request.data else 'disabled'
        return response

    def _stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        for switch in self._switches:
            switch.stop()
        response.success, response.message = True, 'stopped until reset'
        return response

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        for switch in self._switches:
            switch.reset()
        off = [switch.why_off for switch in self._switches if switch.why_off]
        response.success = True
        response.message = f'reset; {"; ".join(off)}' if off else 'reset'
        return response
