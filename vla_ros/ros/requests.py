# SPDX-License-Identifier: Apache-2.0
"""The answers to the node's service requests.

Each request is counted as accepted or refused. A command that starts a robot is refused if it is
too old, or may have waited in a queue while the node did not run; a command that stops a robot and
a question are never refused for that. Used by the executor's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.service import Service
from std_srvs.srv import SetBool, Trigger

from vla_ros.ros.shared import Shared
from vla_ros.scheduling import failure_text
from vla_ros.text import is_blank, printable


class Requests:
    """The executor's guard."""

    def __init__(
        self,
        shared: Shared,
        before_callback: Callable[[], None],
        is_done: Callable[[str], bool],
    ) -> None:
        """Answer by the services' callbacks.

        :param is_done: of a lifecycle transition; whether nothing is left to do for it.
        """
        self.before_callback, self._is_done = before_callback, is_done
        self._counters, self._log, self._commands = shared.requests, shared.log, shared.commands

    def answer(self, service: Service, request: Any, sent_ns: int) -> Any:
        """Return the response of the service's callback, or a refusal that says why.

        :param sent_ns: the client's system time, nanoseconds; 0 if the middleware has none.
        """
        late = self._commands.why_not(sent_ns) if _sets_going(service, request) else ''
        if late:
            return self._refusal(service, request, f'too late: {late}')
        try:
            if isinstance(request, ChangeState.Request) and self._is_done(_transition(request)):
                response = ChangeState.Response(success=True)
            else:
                response = service.callback(request, service.srv_type.Response())
        except _rclpy.RCLError as error:  # such as a transition that this state does not have
            return self._refusal(service, request, f'not possible: {error}')
        except Exception as error:
            self._log.error(f'{service.srv_name}: {failure_text(error)}')
            return self._refusal(service, request, f'not possible: {error}')
        if _is_refusal(response):
            self._counters.requests_refused += 1
        else:
            self._counters.requests_accepted += 1
        return response

    def refuse(self, where: str, error: Exception) -> None:
        """Count and log a message that could not be handled."""
        self._counters.messages_refused += 1
        self._log.error(f'{where}: a message is refused: {failure_text(error)}', every_s=1.0)

    def _refusal(self, service: Service, request: Any, why: str) -> Any:
        self._counters.requests_refused += 1
        why = printable(why)
        self._log.warning(f'{service.srv_name}: a request is refused: {why}', every_s=0.1)
        response = service.srv_type.Response()
        if isinstance(response, (SetParameters.Response, SetParametersAtomically.Response)):
            result = SetParametersResult(successful=False, reason=why)
            if isinstance(response, SetParametersAtomically.Response):
                response.result = result
            else:
                response.results = [result] * len(request.parameters)
        elif hasattr(response, 'message'):
            response.message = why
        return response  # where there is a success, it is False


def _sets_going(service: Service, request: Any) -> bool:
    """Return whether a robot may begin to move by this request."""
    if isinstance(request, SetBool.Request):
        return bool(request.data)
    if isinstance(request, Trigger.Request):
        return service.srv_name.endswith('reset')
    if isinstance(request, ChangeState.Request):
        return _transition(request) == 'activate'
    if isinstance(request, (SetParameters.Request, SetParametersAtomically.Request)):
        return any(
            one.name == 'instruction' and not is_blank(one.value.string_value)
            for one in request.parameters
        )
    return False


def _transition(request: ChangeState.Request) -> str:
    """Return the label of the transition: where it is empty, that of the id; empty: another."""
    named = {
        Transition.TRANSITION_CONFIGURE: 'configure',
        Transition.TRANSITION_ACTIVATE: 'activate',
    }
    return str(request.transition.label or named.get(request.transition.id, ''))


def _is_refusal(response: Any) -> bool:
    results = getattr(response, 'results', None) or [getattr(response, 'result', response)]
    return any(
        getattr(one, 'success', True) is False or getattr(one, 'successful', True) is False
        for one in results
    )
