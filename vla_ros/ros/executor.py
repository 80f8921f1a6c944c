# SPDX-License-Identifier: Apache-2.0
"""The executor that runs the node: no message and no request ends the process.

An error that a subscription's or a service's callback raises is a refusal: it is counted, logged,
and answered if a client waits. An error of a timer or a guard condition is a mistake of the node,
and is raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from rclpy.action.server import ActionServer
from rclpy.executors import ShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.task import Future


class CallbackGuard(Protocol):
    """A judge of messages and requests. Called by the executor's thread."""

    def before_callback(self) -> None:
        """Prepare for a callback of any kind; called before each."""

    def answer(self, service: Service, request: Any, sent_ns: int) -> Any:
        """Return the response: of the service's own callback, or a refusal.

        :param sent_ns: the client's system time, nanoseconds; 0 if the middleware has none.
        """

    def refuse(self, where: str, error: Exception) -> None:
        """Count and log a message that could not be handled, or an answer that could not be sent.

        :param where: name of the topic or the service.
        """


class GuardedExecutor(SingleThreadedExecutor):
    """One thread; one callback at a time."""

    def __init__(self, guard: CallbackGuard, **options: Any) -> None:
        super().__init__(**options)
        self._callback_guard = guard

    def spin_once(self, timeout_sec: float | None = None) -> None:
        try:
            handler, entity, _ = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
        except (ShutdownException, TimeoutException):
            return
        self._callback_guard.before_callback()
        handler()
        error = handler.exception()
        if error is None:
            return
        if not isinstance(error, Exception) or not self.context.ok():
            raise error
        if isinstance(entity, Subscription):
            self._callback_guard.refuse(entity.topic_name, error)
        elif isinstance(entity, Service):
            self._callback_guard.refuse(entity.srv_name, error)
        elif isinstance(entity, ActionServer):
            self._callback_guard.refuse('an action server', error)
        else:
            raise error

    def spin_once_until_future_complete(
        self, future: Future, timeout_sec: float | None = None
    ) -> None:
        raise NotImplementedError('the node spins once at a time')

    # An error while a message is taken would occupy rclpy's callback group without limit.

    def _take_subscription(self, subscription: Subscription) -> Any:
        try:
            return super()._take_subscription(subscription)
        except Exception as error:
            self._callback_guard.refuse(subscription.topic_name, error)
            return None

    def _take_service(self, service: Service) -> Callable[[], Awaitable[None]] | None:
        """Take a request with its header, which rclpy drops: it has the time stamp."""
        try:
            with service.handle:
                request, header = service.handle.service_take_request(service.srv_type.Request)
        except Exception as error:
            self._callback_guard.refuse(service.srv_name, error)
            return None
        if header is None:
            return None

        async def execute() -> None:
            response = self._callback_guard.answer(service, request, header.source_timestamp)
            service.send_response(response, header)

        return execute

    async def _execute_service(
        self, _: Service, execute: Callable[[], Awaitable[None]] | None
    ) -> None:
        """Execute what was taken, for Humble; Jazzy and later do so by themselves."""
        if execute is not None:
            await execute()
