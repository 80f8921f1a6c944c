# SPDX-License-Identifier: Apache-2.0
"""rclpy's wait for ready callbacks, in virtual time.

A rewrite of ``Executor._wait_for_ready_callbacks`` (Jazzy, Kilted), which makes a wait set of all
handles for every callback: the same callbacks in the same order, at a twentieth of the cost. What
was ready at the moment of the wait is yielded one by one (tasks, action servers, timers,
subscriptions, guard conditions, services, in the order in which the node has them) before the next
wait. ``rclpy_script.py`` compares it with the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rclpy import executors
from rclpy.executors import (
    ConditionReachedException,
    ExternalShutdownException,
    ShutdownException,
    TimeoutException,
)

from simulate.rclpy_fake import IS_JAZZY, Context, RCLError
from simulate.scheduler import NS
from simulate.threads import Process

_NO_CONTEXT = (
    'failed to initialize wait set: the given context is not valid, '
    'either rcl_init() was not called or rcl_shutdown() was called.'
)


class _Ready:
    """The handles that were ready at one moment, by kind."""

    def __init__(self) -> None:
        self.timers: set[Any] = set()
        self.subscriptions: set[Any] = set()
        self.guards: set[Any] = set()
        self.services: set[Any] = set()
        self.has_waitables = False

    def __bool__(self) -> bool:
        entities = self.timers or self.subscriptions or self.guards or self.services
        return bool(entities) or self.has_waitables


def _look(executor: Any, nodes: list[Any]) -> tuple[_Ready, int | None]:
    """What is ready, and when the next timer will be."""
    ready = _Ready()
    next_ns: int | None = None
    can_execute = executor.can_execute
    for node in nodes:
        for timer in node._timers:
            due_ns = timer.handle.due_ns()
            if due_ns is None or not can_execute(timer):
                continue
            if due_ns <= Process.scheduler.now_ns:
                ready.timers.add(timer.handle)
            elif next_ns is None or due_ns < next_ns:
                next_ns = due_ns
        for subscription in node._subscriptions:
            if subscription.handle.queue.items and can_execute(subscription):
                ready.subscriptions.add(subscription.handle)
        for guard in node._guards:
            is_triggered = guard.handle.is_triggered or guard._executor_triggered
            if is_triggered and can_execute(guard):
                guard.handle.is_triggered = False  # taken by the wait
                guard._executor_triggered = True  # until it is executed
                ready.guards.add(guard.handle)
        for service in node._services if Context.graph.waiting_requests else ():
            if service.handle.queue.items and can_execute(service):
                ready.services.add(service.handle)
        for waitable in node.waitables:
            ready.has_waitables |= waitable._handle.has_work() and can_execute(waitable)
    return ready, next_ns


def _wait(executor: Any, nodes: list[Any], deadline_ns: int | None) -> tuple[_Ready, bool]:
    """Block until something is ready, the time is up, or the context is shut down.

    :returns: what is ready, and whether the time is up.
    """
    scheduler, graph = Process.scheduler, Context.graph
    if not executor._context.ok():
        raise RCLError(_NO_CONTEXT)
    scheduler.point()
    waiter = scheduler.current
    while True:
        ready, next_ns = _look(executor, nodes)
        is_over = deadline_ns is not None and scheduler.now_ns >= deadline_ns
        if ready or is_over or executor._is_shutdown or not executor._context.ok():
            return ready, is_over
        moments_ns = [one for one in (next_ns, deadline_ns) if one is not None]
        graph.wake = lambda: scheduler.wake(waiter)
        scheduler.block(min(moments_ns, default=None), 'the wait set')
        graph.wake = lambda: None


def wait_for_ready_callbacks(
    self: Any,
    timeout_sec: Any = None,
    nodes: list[Any] | None = None,
    condition: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the handlers of callbacks that are ready, with their entities and nodes."""
    deadline_ns = None
    if timeout_sec is not None and timeout_sec >= 0:
        deadline_ns = Process.scheduler.now_ns + round(timeout_sec * NS)
    yielded_work = False
    while not yielded_work and not self._is_shutdown and not condition():
        nodes_to_use = self.get_nodes() if nodes is None else nodes
        # Jazzy's takes the newest task first.
        for task, entity, node in self._tasks[::-1] if IS_JAZZY else list(self._tasks):
            if not task.executing() and not task.done() and (node is None or node in nodes_to_use):
                yielded_work = True
                Context.graph.observer.callback_begins()
                yield task, entity, node
        self._tasks = [one for one in self._tasks if not one[0].done() and not one[0].cancelled()]

        # After a task rclpy only polls: its guard condition was triggered.
        ready, is_over = _wait(self, nodes_to_use, 0 if yielded_work else deadline_ns)
        if self._is_shutdown:
            raise ShutdownException
        if not self._context.ok():
            raise ExternalShutdownException
        observer = Context.graph.observer
        for node in nodes_to_use if ready.has_waitables else ():
            for waitable in list(node.waitables):
                is_ready = waitable._handle.has_work() and waitable.is_ready(None)
                if is_ready and waitable.callback_group.can_execute(waitable):
                    yielded_work = True
                    observer.callback_begins()
                    yield _Handler(self, waitable, self._take_waitable), waitable, node
        for node in nodes_to_use:
            for entities, handles, take in (
                (node._timers, ready.timers, self._take_timer),
                (node._subscriptions, ready.subscriptions, self._take_subscription),
                (node._guards, ready.guards, self._take_guard_condition),
                (node._services, ready.services, self._take_service),
            ):
                if not handles:
                    continue
                for entity in entities:
                    if entity.handle not in handles:
                        continue
                    if handles is ready.timers and not entity.handle.is_timer_ready():
                        continue
                    if entity.callback_group.can_execute(entity):
                        yielded_work = True
                        observer.callback_begins()
                        yield _Handler(self, entity, take), entity, node
        if is_over and deadline_ns is not None:
            raise TimeoutException
    if self._is_shutdown:
        raise ShutdownException
    if condition():
        raise ConditionReachedException


class _Handler:
    """As the task that rclpy makes of an entity's callback, without a coroutine around it."""

    def __init__(self, executor: Any, entity: Any, take: Callable[[Any], Any]) -> None:
        self._executor, self._entity, self._take = executor, entity, take
        self._exception: BaseException | None = None
        entity._executor_event = True

    def __call__(self) -> None:
        entity = self._entity
        try:
            if not entity.callback_group.beginning_execution(entity):
                entity._executor_event = False
                return
            execute = self._take(entity)  # what this raises keeps the group occupied
            entity._executor_event = False
            try:
                if execute is not None:
                    _run(execute())
            finally:
                entity.callback_group.ending_execution(entity)
        except Exception as error:
            self._exception = error

    def exception(self) -> BaseException | None:
        return self._exception

    def result(self) -> None:
        return None

    def done(self) -> bool:
        return True


def _run(coroutine: Any) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise NotImplementedError('a callback that waits')


def install() -> None:
    """Let all executors wait like this."""
    executors.Executor._wait_for_ready_callbacks = wait_for_ready_callbacks
