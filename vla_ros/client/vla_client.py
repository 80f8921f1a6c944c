# SPDX-License-Identifier: Apache-2.0
"""A client of the node: instruct a robot, wait for its state, receive its actions.

Results and reasons are values, as in nav2_simple_commander: a program decides by ``answer.reason``
and never by a text. No fault of the node raises an exception here.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from vla_ros.client.goal import GoalClient, OnFeedback, RunningGoal
from vla_ros.client.instruction import carried
from vla_ros.clock import Clock, SystemClock
from vla_ros.graph.executor import spinning
from vla_ros.graph.heard import cleaned
from vla_ros.graph.qos import latched
from vla_ros.graph.stamps import from_time
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.reasons import Reason, State
from vla_ros.text import is_blank, printable

_CHECK_S = 0.05  # between two calls of `check` during a wait
REPEAT_S = 0.2  # between two equal messages
_STATUS_S = 2.0  # the node sends its status once a second
_OFF = (Reason.STOPPED, Reason.DISABLED)


@dataclass(frozen=True)
class Answer:
    """The result of a request, with the robot's last status.

    :param ok: whether the request succeeded in time.
    :param state: state of the robot; UNKNOWN before the first status.
    :param reason: why the robot does not act; a plain number if this version does not know it.
    :param message: one line for people.
    """

    ok: bool
    state: State
    reason: Reason | int
    message: str


@dataclass(frozen=True)
class ReceivedAction:
    """An action and its arrival.

    :param message: with printable texts.
    :param actions: float64 [K, D], row by row.
    :param stamp_ns: capture time of its observation, nanoseconds.
    :param arrived_s: seconds of the client's monotonic clock.
    """

    message: VlaAction
    actions: NDArray[np.float64]
    stamp_ns: int
    arrived_s: float

    @property
    def action(self) -> NDArray[np.float64]:
        """The first row, [D]."""
        return self.actions[0]


class VlaClient:
    """A client of one robot of a node ``vla`` in another process.

    Call ``rclpy.init`` before. The client spins its node while it waits, so a program with one
    thread needs no executor. If ``threaded``, or if an executor of the caller has the node, it does
    not: then any thread may call the client, and callbacks run in the thread that spins.

    ``status`` is the last status and ``newest`` the last action. ``on_status`` and ``on_action``
    are called with each of them. ``check`` is called during waits; it may raise an exception to end
    a wait.

    :param namespace: namespace of the node ``vla``.
    :param robot: name of the robot in the parameter ``robots``; empty if there is only one.
    :param node: node to use; by default the client creates one. The caller destroys its own.
    :param clock: clock of all time-outs.
    :param threaded: whether a thread of the client spins the node.
    :param depth: number of messages of a topic that wait to be handled.
    """

    def __init__(
        self,
        namespace: str = '',
        robot: str = '',
        *,
        node: Node | None = None,
        clock: Clock = SystemClock(),
        threaded: bool = False,
        depth: int = 1,
    ) -> None:
        self.clock = clock
        self.changed = threading.Condition()  # held while a message is handled
        self.status: VlaStatus | None = None
        self.newest: ReceivedAction | None = None
        self.malformed = 0  # actions dropped because horizon x names is not their size
        self.on_status: Callable[[VlaStatus], object] = lambda status: None
        self.on_action: Callable[[ReceivedAction], object] = lambda action: None
        self.check: Callable[[], object] = lambda: None
        self._handled = 0
        self._returned: ReceivedAction | None = None
        self._depth = depth
        self._threaded = threaded
        self._cleanup = contextlib.ExitStack()
        self._prefix = f'{robot}/' if robot else ''
        # Our own node is in the namespace, so that names can be remapped like the node's.
        self._base = f'{namespace.rstrip("/")}/' if node is not None and namespace else ''
        self.node = self._own_node(namespace) if node is None else node
        self.node.create_subscription(
            VlaStatus, self.topic('status'), self._keep_status, latched(depth)
        )
        self.node.create_subscription(VlaAction, self.topic('action'), self._keep_action, depth)
        if threaded:
            self._cleanup.enter_context(spinning(self._executor, self.node.get_name()))

    @property
    def latest(self) -> VlaStatus:
        """The last status; an empty one with STATE_UNKNOWN before the first."""
        return VlaStatus() if self.status is None else self.status

    def is_in_force(self, text: str) -> bool:
        """Return whether the last status shows this instruction; '' is in force during a hold."""
        return self.status is not None and self.status.instruction == _shown(text)

    def was_rejected(self, before: VlaStatus) -> bool:
        """Return whether the node has rejected an instruction since that status."""
        counted = before.counters.instructions_rejected
        return self.latest.counters.instructions_rejected > counted

    def close(self) -> None:
        """End the thread, and destroy the node if the client created it."""
        self._cleanup.close()

    # -- requests ----------------------------------------------------------------------------------

    def instruct(self, text: str, timeout_s: float = 20.0) -> Answer:
        """Publish the instruction repeatedly until a newer status shows it.

        :param text: instruction; empty means hold.
        :returns: not ok if the node rejects it, is in ERROR, or does not answer in time.
        :raises InstructionError: if a message can't carry it, as one with a NUL.
        """
        ends_s = self.clock.monotonic_s() + timeout_s
        if not self.wait_until(lambda: self.status is not None, timeout_s):
            return self._late(timeout_s)
        before = self.latest  # older than this instruction

        def is_settled() -> bool:
            if self.latest is before:
                return False
            return self._has_failed() or self.is_in_force(text) or self.was_rejected(before)

        left_s = ends_s - self.clock.monotonic_s()
        if not self.repeat_until(lambda: self.say(text), is_settled, left_s):
            return self._late(timeout_s)
        return self._answer(self.is_in_force(text) and not self._has_failed())

    def say(self, text: str) -> None:
        """Publish the instruction once, without waiting.

        :raises InstructionError: if a message can't carry it, as one with a NUL.
        """
        self.instructions.publish(String(data=carried(text)))

    def stop(self, timeout_s: float = 10.0) -> Answer:
        """Hold until :meth:`reset` and :meth:`enable`."""
        return self._switch(
            'stop', Trigger, Trigger.Request(), lambda reason: reason == Reason.STOPPED, timeout_s
        )

    def reset(self, timeout_s: float = 10.0) -> Answer:
        """End a stop; the robot stays disabled."""
        return self._switch(
            'reset', Trigger, Trigger.Request(), lambda reason: reason != Reason.STOPPED, timeout_s
        )

    def enable(self, on: bool = True, timeout_s: float = 10.0) -> Answer:
        """Enable or disable the robot; rejected between a stop and its reset."""
        request = SetBool.Request(data=on)
        return self._switch(
            'enable', SetBool, request, lambda reason: (reason in _OFF) != on, timeout_s
        )

    # -- goals -------------------------------------------------------------------------------------

    def start(
        self,
        instruction: str,
        time_limit_s: float,
        on_feedback: OnFeedback = lambda feedback: None,
        timeout_s: float = 20.0,
    ) -> RunningGoal | None:
        """Send a goal to the action server ``~/execute``.

        :param on_feedback: called with each ExecuteInstruction.Feedback, by the thread that spins.
        :returns: the goal; None if the node rejects it (its log says why), or does not answer.
        """
        return self._goal_client.start(instruction, time_limit_s, on_feedback, timeout_s)

    def execute(
        self,
        instruction: str,
        time_limit_s: float,
        on_feedback: OnFeedback = lambda feedback: None,
        timeout_s: float = 20.0,
    ) -> Any | None:
        """Send a goal, and wait for its end.

        :returns: the ExecuteInstruction.Result; None if the node rejects the goal, or does not
            answer within ``timeout_s`` (after ``time_limit_s``, for the result).
        """
        goal = self.start(instruction, time_limit_s, on_feedback, timeout_s)
        return None if goal is None else goal.result(time_limit_s + timeout_s)

    @functools.cached_property
    def _goal_client(self) -> GoalClient:
        goals = GoalClient(self, f'{self._base}vla/{self._prefix}execute')
        self._cleanup.callback(goals.close)
        return goals

    # -- waits -------------------------------------------------------------------------------------

    def wait_for(self, *states: State, timeout_s: float) -> Answer:
        """Wait until the robot is in one of the states; ERROR also ends the wait."""
        ends = {*states, State.ERROR}
        self.repeat_until(lambda: None, lambda: self.latest.state in ends, timeout_s)
        if self.latest.state in ends:
            return self._answer(self.latest.state in states)
        return self._late(timeout_s)

    def next_status(self, timeout_s: float) -> VlaStatus | None:
        """Return the next status; None if none arrives in time."""
        before = self.status
        self.repeat_until(lambda: None, lambda: self.status is not before, timeout_s)
        return None if self.status is before else self.status

    def next_action(
        self, timeout_s: float, of_stamp_ns: int | None = None
    ) -> ReceivedAction | None:
        """Return the newest action that was not returned before, or wait for one.

        The action may be old: check ``message.valid_until``.

        :param of_stamp_ns: stamp of the observation whose action is wanted; None: any.
        :returns: None if none arrives in time, or the node is in ERROR.
        """

        def is_there() -> bool:
            if self.newest is None or self.newest is self._returned:
                return False
            return of_stamp_ns is None or self.newest.stamp_ns == of_stamp_ns

        self.wait_until(lambda: is_there() or self._has_failed(), timeout_s)
        if not is_there():
            return None
        self._returned = self.newest
        return self.newest

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition is true, and return whether it is in time.

        The condition is evaluated after every message.
        """
        ends_s = self.clock.monotonic_s() + timeout_s
        while True:
            handled = self._handled
            if condition():
                return True
            self.check()
            left_s = ends_s - self.clock.monotonic_s()
            if left_s <= 0:
                return False
            self._spin(min(left_s, _CHECK_S), handled)

    def repeat_until(
        self, act: Callable[[], object], condition: Callable[[], bool], timeout_s: float
    ) -> bool:
        """Act now and every 0.2 s until the condition is true, and return whether it is in time."""
        ends_s = self.clock.monotonic_s() + timeout_s
        while True:
            act()
            left_s = ends_s - self.clock.monotonic_s()
            if self.wait_until(condition, min(left_s, REPEAT_S)):
                return True
            if self.clock.monotonic_s() >= ends_s:
                return False

    def spin_once(self, timeout_s: float) -> None:
        """Handle one message; wait at most ``timeout_s`` for it."""
        self._spin(timeout_s, self._handled)

    # -- topics and services -----------------------------------------------------------------------

    def topic(self, name: str) -> str:
        """Return the name of one of the robot's topics, such as ``image``."""
        return f'{self._base}{self._prefix}{name}'

    @functools.cached_property
    def instructions(self) -> Publisher:
        """The publisher of instructions, created on first use.

        So a client that only listens does not count as a source of instructions.
        """
        return self.node.create_publisher(String, self.topic('instruction'), self._depth)

    @functools.cached_property
    def _executor(self) -> SingleThreadedExecutor:
        executor = SingleThreadedExecutor(context=self.node.context)
        executor.add_node(self.node)
        self._cleanup.callback(executor.shutdown)
        return executor

    def _own_node(self, namespace: str) -> Node:
        node = Node('vla_client', namespace=namespace)
        self._cleanup.callback(node.destroy_node)
        return node

    def _spin(self, timeout_s: float, handled: int) -> None:
        """Wait for a message.

        :param handled: number of messages that the caller has considered.
        """
        if self._spins_itself():
            self._executor.spin_once(timeout_sec=timeout_s)
            return
        with self.changed:
            self.changed.wait_for(lambda: self._handled != handled, timeout_s)

    def _spins_itself(self) -> bool:
        """Return whether no other executor has the node.

        Our executor, once created, takes the node from any other. So this only checks whether it
        exists, and does not create it.
        """
        executor = self.node.executor
        ours = vars(self).get('_executor')
        return not self._threaded and (executor is None or executor is ours)

    def _keep_status(self, message: VlaStatus) -> None:
        with self.changed:
            self.status = cleaned(message)
            self.on_status(self.status)
            self.wake()

    def _keep_action(self, message: VlaAction) -> None:
        with self.changed:
            columns = len(message.names)
            if len(message.actions) == message.horizon * columns > 0:
                self.newest = ReceivedAction(
                    cleaned(message),
                    np.array(message.actions).reshape(message.horizon, columns),
                    from_time(message.observation_stamp),
                    self.clock.monotonic_s(),
                )
                self.on_action(self.newest)
            else:
                self.malformed += 1
            self.wake()

    def wake(self) -> None:
        """End the current waits of all threads, so that they look again."""
        with self.changed:
            self._handled += 1
            self.changed.notify_all()

    def _has_failed(self) -> bool:
        return self.latest.state == State.ERROR

    def _switch(
        self,
        name: str,
        kind: Any,
        request: Any,
        is_done: Callable[[Reason | int], bool],
        timeout_s: float,
    ) -> Answer:
        """Call a service of the node, and wait until the status shows the effect."""
        response = self.call(kind, f'{self._base}vla/{self._prefix}{name}', request, timeout_s)
        if response is None:
            return self._answer(
                False, f'{name}: no answer within {timeout_s:g} s; {self.last_words()}'
            )
        if response.success:
            self.wait_until(lambda: is_done(self.latest.reason), _STATUS_S)
        return self._answer(response.success, printable(response.message))

    def call(self, kind: Any, name: str, request: Any, timeout_s: float) -> Any | None:
        """Return the response of a service; None if none arrives in time."""
        ends_s = self.clock.monotonic_s() + timeout_s
        service = self.node.create_client(kind, name)
        try:
            if not self.wait_until(service.service_is_ready, timeout_s):
                return None
            future = service.call_async(request)
            future.add_done_callback(lambda _: self.wake())
            self.wait_until(future.done, ends_s - self.clock.monotonic_s())
            return future.result() if future.done() else None
        finally:
            self.node.destroy_client(service)

    def _answer(self, ok: bool, message: str = '') -> Answer:
        status = self.latest
        return Answer(
            ok, _state(status.state), _reason(status.reason), message or str(status.message)
        )

    def _late(self, timeout_s: float) -> Answer:
        return self._answer(False, f'not within {timeout_s:g} s; {self.last_words()}')

    def last_words(self) -> str:
        """Return the node's last known state, and what to do."""
        if self.status is not None:
            return f'the last status was {self.status.message}'
        topic = self.node.resolve_topic_name(self.topic('status'))
        return (
            f'nothing was heard on {topic}: is the node running, in this namespace '
            '(--ros-args -r __ns:=/NAMESPACE) and ROS_DOMAIN_ID?'
        )


def _shown(instruction: str) -> str:
    """Return the instruction as a status shows it."""
    return '' if is_blank(instruction) else printable(instruction)


def _state(number: int) -> State:
    return State(number) if number in set(State) else State.UNKNOWN


def _reason(number: int) -> Reason | int:
    return Reason(number) if number in set(Reason) else number
