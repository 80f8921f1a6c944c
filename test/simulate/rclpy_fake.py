# SPDX-License-Identifier: Apache-2.0
"""What stands in for rclpy's extension module. All of rclpy's Python is the real one.

So lifecycle, parameters, services' and subscriptions' habits, executors' handlers and exceptions
are rclpy's own, with their faults; what is replaced are the objects below them, which belong to
rcl and the middleware: clocks, timers, guard conditions, publishers, subscriptions, services, the
lifecycle's state machine, the graph and the log. Names, QoS profiles, enumerations and exceptions
are those of the real module, which starts nothing by itself.

Not here: clients of the node's, serialisation, QoS events (a node is told that there are
none), wait sets (``executor.py`` waits). To make one is a TypeError.

It stands in for the modules of Jazzy and Kilted. What only Kilted's has says so.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from types import ModuleType
from typing import Any, ClassVar

from simulate.graph import RELIABLE, Endpoint, Graph, Header, Queue
from simulate.threads import Process

_WARNING = 30  # of rcutils; below it: info, debug

NAME = 'rclpy._rclpy_pybind11'
NO_CLIENT = 'Failed to send response: client will not receive response'


def _load_real() -> Any:
    """The extension module alone: importing rclpy would give its Python the real one."""
    package = importlib.util.find_spec('rclpy')
    assert package is not None and package.submodule_search_locations
    finder = FileFinder(
        package.submodule_search_locations[0], (ExtensionFileLoader, EXTENSION_SUFFIXES)
    )
    spec = finder.find_spec(NAME)
    assert spec is not None and spec.loader is not None
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    return extension


real = _load_real()
RCLError = real.RCLError
IS_JAZZY = not hasattr(real, 'TimerCancelledError')


class Destroyable:
    """A handle; using it after it was destroyed is an error."""

    is_destroyed = False

    def __class_getitem__(cls, _: Any) -> type:
        """Kilted's annotations name the types of messages."""
        return cls

    def __enter__(self) -> None:
        if self.is_destroyed:
            raise real.InvalidHandle('cannot use Destroyable because destruction was requested')

    def __exit__(self, *_: object) -> None:
        pass

    def destroy_when_not_in_use(self) -> None:
        if not self.is_destroyed:
            self.is_destroyed = True
            self._destroy()

    def _destroy(self) -> None:
        pass

    @property
    def pointer(self) -> int:
        return id(self)


class Context(Destroyable):
    """Knows which graph the process is on, and what is ready for its executor."""

    graph: ClassVar[Graph]  # of the simulation that runs

    def __init__(self, arguments: list[str], domain_id: int) -> None:
        self._is_ok = True

    def ok(self) -> bool:
        return self._is_ok

    def get_domain_id(self) -> int:
        return 0

    def shutdown(self) -> None:
        self._is_ok = False
        self.graph.wake()


# -- time ------------------------------------------------------------------------------------------


class Clock(Destroyable):
    def __init__(self, clock_type: Any) -> None:
        self._type = int(clock_type)
        self.is_steady = self._type == 3
        self._override_ns: int | None = None
        self._set_ns = 0

    def now_ns(self) -> int:
        if self.is_steady:
            return Process.scheduler.now_ns
        if self._override_ns is not None:
            return self._override_ns
        return Process.scheduler.system_ns()

    def get_now(self) -> Any:
        Process.scheduler.read_clock()
        return real.rcl_time_point_t(self.now_ns(), self._type)

    def get_ros_time_override_is_enabled(self) -> bool:
        return self._override_ns is not None

    def set_ros_time_override_is_enabled(self, enabled: bool) -> None:
        self._override_ns = self._set_ns if enabled else None

    def set_ros_time_override(self, time_point: Any) -> None:
        self._set_ns = time_point.nanoseconds
        if self._override_ns is not None:
            self._override_ns = self._set_ns


class Timer(Destroyable):
    """As rcl's: a late call does not shift the calls after it, and missed ones are left out.

    After a leap of simulated time one of that clock may be called twice; the node has none.
    """

    def __init__(self, clock: Clock, context: Context, period_ns: int, autostart: bool) -> None:
        self._clock = clock
        self._period_ns = period_ns
        self._called_ns = clock.now_ns()
        self.next_ns = self._called_ns + period_ns
        self._is_canceled = not autostart

    def is_timer_ready(self) -> bool:
        return not self._is_canceled and self._clock.now_ns() >= self.next_ns

    def due_ns(self) -> int | None:
        """When the scheduler's time will reach the next call, as things are now."""
        if self._is_canceled:
            return None
        if self._clock.is_steady:
            return self.next_ns
        clock_ns = self._clock.now_ns()
        if clock_ns < self._called_ns:  # it was set back
            self._called_ns, self.next_ns = clock_ns, clock_ns + self._period_ns
        return Process.scheduler.now_ns + max(0, self.next_ns - clock_ns)

    def call_timer(self) -> None:
        if self._is_canceled:
            error = RCLError if IS_JAZZY else real.TimerCancelledError
            raise error('Failed to call timer: timer is canceled')
        self._called_ns = self._clock.now_ns()
        self.next_ns += self._period_ns
        ahead_ns = self._called_ns - self.next_ns
        if ahead_ns > 0:
            if self._period_ns:
                self.next_ns += (1 + (ahead_ns - 1) // self._period_ns) * self._period_ns
            else:
                self.next_ns = self._called_ns

    def call_timer_with_info(self) -> dict[str, int]:
        """Kilted's."""
        expected_ns = self.next_ns
        self.call_timer()
        return {'expected_call_time': expected_ns, 'actual_call_time': self._called_ns}

    def get_timer_period(self) -> int:
        return self._period_ns

    def change_timer_period(self, period_ns: int) -> None:
        self._period_ns = period_ns

    def is_timer_canceled(self) -> bool:
        return self._is_canceled

    def cancel_timer(self) -> None:
        self._is_canceled = True

    def reset_timer(self) -> None:
        self.next_ns = self._clock.now_ns() + self._period_ns
        self._is_canceled = False
        Context.graph.wake()

    def time_since_last_call(self) -> int:
        return self._clock.now_ns() - self._called_ns

    def time_until_next_call(self) -> int | None:
        return None if self._is_canceled else self.next_ns - self._clock.now_ns()


class GuardCondition(Destroyable):
    def __init__(self, context: Context) -> None:
        self.is_triggered = False

    def trigger_guard_condition(self) -> None:
        self.is_triggered = True
        Context.graph.wake()
        Process.scheduler.point()


# -- topics and services ---------------------------------------------------------------------------


class Node(Destroyable):
    def __init__(
        self,
        name: str,
        namespace: str,
        context: Context,
        cli_args: list[str] | None,
        use_global_arguments: bool,
        enable_rosout: bool,
        rosout_qos: Any = None,  # Kilted's
    ) -> None:
        self.name = name
        self.namespace = f'/{namespace.strip("/")}'
        self.context = context
        self.graph = context.graph
        self.graph.nodes.append((self.name, self.namespace))
        self.graph.own_nodes += 1

    def _destroy(self) -> None:
        self.graph.nodes.remove((self.name, self.namespace))
        self.graph.own_nodes -= 1

    def resolve(self, name: str) -> str:
        try:
            full_name = real.rclpy_expand_topic_name(name, self.name, self.namespace)
        except Exception as error:
            raise RCLError(f'failed to resolve name: {error}') from error
        problem = real.rclpy_get_validation_error_for_full_topic_name(full_name)
        if problem is not None:
            raise RCLError(f'failed to resolve name: {problem[0]}')
        return full_name

    def get_node_name(self) -> str:
        return self.name

    def get_namespace(self) -> str:
        return self.namespace

    def get_fully_qualified_name(self) -> str:
        return f'{self.namespace.rstrip("/")}/{self.name}'

    def logger_name(self) -> str:
        return self.get_fully_qualified_name().strip('/').replace('/', '.')

    def get_parameters(self, parameter_class: type) -> dict[str, Any]:
        return {}  # of the command line; a test gives them as overrides

    def get_node_names_and_namespaces(self) -> list[tuple[str, str]]:
        Process.scheduler.point()
        return list(self.graph.nodes)

    def get_count_publishers(self, topic: str) -> int:
        return self.graph.count(topic, True)

    def get_count_subscribers(self, topic: str) -> int:
        return self.graph.count(topic, False)


class Publisher(Destroyable):
    def __init__(self, node: Node, message_type: type, topic: str, qos: Any) -> None:
        self._node = node
        self._topic = node.resolve(topic)
        self._endpoint = node.graph.endpoint(
            self._topic, message_type, qos.to_dict(), (node.name, node.namespace), True
        )

    def _destroy(self) -> None:
        self._node.graph.remove(self._endpoint)

    def publish(self, message: Any) -> None:
        Process.scheduler.point()
        if not self._node.context.ok():
            raise RCLError("Failed to publish: publisher's context is invalid")
        _check_convertible(message)
        self._node.graph.observer.published(self._topic, message)
        Process.scheduler.point()

    def get_topic_name(self) -> str:
        return self._topic

    def get_logger_name(self) -> str:
        return self._node.logger_name()

    def get_subscription_count(self) -> int:
        return self._node.graph.count(self._topic, False)

    def wait_for_all_acked(self, timeout: Any) -> bool:
        scheduler = Process.scheduler
        is_reliable = self._endpoint.qos['reliability'] == RELIABLE
        if self._node.graph.deaf_subscribers and is_reliable:
            scheduler.sleep(timeout.nanoseconds / 1e9)
            return False
        scheduler.sleep(0.0005)
        return True


class Subscription(Destroyable):
    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        qos: Any,
        content_filter_options: None = None,  # Kilted's
    ) -> None:
        self._node = node
        self._topic = node.resolve(topic)
        profile = qos.to_dict()
        self.queue = Queue(profile)
        self._endpoint = node.graph.endpoint(
            self._topic, message_type, profile, (node.name, node.namespace), False
        )
        node.graph.listen(self._endpoint, self.queue)

    def _destroy(self) -> None:
        self._node.graph.remove(self._endpoint)

    def take_message(self, message_type: type, raw: bool) -> tuple[Any, dict[str, Any]] | None:
        Process.scheduler.point()
        if not self.queue.items:
            return None
        sample = self.queue.items.popleft()
        info = {
            'source_timestamp': sample.sent_ns,
            'received_timestamp': Process.scheduler.system_ns(),
            'publication_sequence_number': None,
            'reception_sequence_number': None,
        }
        if not IS_JAZZY:
            info['publisher_gid'] = None
        self._node.graph.observer.took(self._topic, sample.message, info)
        return sample.message, info

    def get_topic_name(self) -> str:
        return self._topic

    def get_publisher_count(self) -> int:
        return self._node.graph.count(self._topic, True)

    def get_logger_name(self) -> str:
        return self._node.logger_name()


class Service(Destroyable):
    def __init__(self, node: Node, service_type: type, name: str, qos: Any) -> None:
        self._node = node
        self.name = node.resolve(name)
        self.qos = qos if isinstance(qos, dict) else qos.to_dict()
        self.queue = Queue(self.qos)
        node.graph.services[self.name] = self.queue

    def _destroy(self) -> None:
        self._node.graph.waiting_requests -= len(self.queue.items)
        self._node.graph.services.pop(self.name, None)

    def service_take_request(self, request_type: type) -> tuple[Any, Any]:
        Process.scheduler.point()
        if not self.queue.items:
            return None, None
        request, header = self.queue.items.popleft()
        self._node.graph.waiting_requests -= 1
        self._node.graph.observer.took_request(self.name, request, header)
        return request, header

    def service_send_response(self, response: Any, header: Header) -> None:
        Process.scheduler.point()
        _check_convertible(response)
        self._node.graph.observer.answered(self.name, response, header)
        if header.client is None:
            Process.scheduler.sleep(0.1)  # so long rmw_fastrtps waits for one that is gone
        else:
            header.client(response)

    def get_logger_name(self) -> str:
        return self._node.logger_name()


def _service_profile() -> dict[str, Any]:
    from rclpy.qos import qos_profile_services_default

    return qos_profile_services_default.get_c_qos_profile().to_dict()


_checked_fields: dict[type, list[tuple[str, str]]] = {}


def _check_convertible(message: Any) -> None:
    """Fail where rclpy fails to make of a message what C can hold.

    That is: a text that can't be encoded, an unsigned number below zero, in the message or in one
    that is part of it. (A number that is too large is cut short there without a word; here it stays
    as it is. Sequences are not looked through.)
    """
    fields = _checked_fields.get(type(message))
    if fields is None:
        kinds = message.get_fields_and_field_types()
        fields = _checked_fields[type(message)] = [
            (name, kind)
            for name, kind in kinds.items()
            if kind == 'string' or re.fullmatch(r'uint\d+|\w+/\w+', kind)
        ]
    for name, kind in fields:
        value = getattr(message, name)
        if '/' in kind:
            _check_convertible(value)
        elif kind == 'string':
            value.encode()
        elif value < 0:
            raise SystemError(f'{name} is {value}: returned a result with an exception set')


class TypeDescriptionService(Destroyable):
    def __init__(self, node: Node) -> None:
        self.impl = Service(node, object, '~/get_type_description', _service_profile())

    def handle_request(self, request: Any, response_type: type, node: Node) -> Any:
        return response_type(successful=False, failure_reason='not simulated')


class ActionServer(Destroyable):
    """Three services, and the goals that were accepted, by their identifier.

    :ivar goals: also those that have ended, until they expire.
    """

    def __init__(
        self,
        node: Node,
        clock: Clock,
        action_type: type,
        name: str,
        goal_qos: Any,
        result_qos: Any,
        cancel_qos: Any,
        feedback_qos: Any,
        status_qos: Any,
        result_timeout_s: float,
    ) -> None:
        self._node, self._clock = node, clock
        self._name = node.resolve(name)
        self._services = [
            Service(node, object, f'{self._name}/_action/{kind}', qos)
            for kind, qos in (
                ('send_goal', goal_qos),
                ('cancel_goal', cancel_qos),
                ('get_result', result_qos),
            )
        ]
        self._kept_ns = round(result_timeout_s * 1e9)
        self.goals: dict[bytes, ActionGoalHandle] = {}

    def _destroy(self) -> None:
        for service in self._services:
            service.destroy_when_not_in_use()

    def _use(self) -> None:
        Process.scheduler.point()
        if self.is_destroyed:
            raise RCLError('action server pointer is invalid')

    def is_ready(self, wait_set: Any) -> tuple[bool, ...]:
        """Whether a goal, a cancel or a result is requested, or a goal has expired."""
        waiting = [bool(service.queue.items) for service in self._services]
        return (*waiting, bool(self._expired()))

    def has_work(self) -> bool:
        return not self.is_destroyed and any(self.is_ready(None))

    def _expired(self) -> list[bytes]:
        before_ns = self._clock.now_ns() - self._kept_ns
        return [one for one, goal in self.goals.items() if goal.ended_ns < before_ns]

    def expire_goals(self, most: int) -> list[Any]:
        return [self.goals.pop(one).info for one in self._expired()]

    def notify_goal_done(self) -> None:
        pass

    def take_goal_request(self, request_type: type) -> tuple[Any, Any]:
        return self._services[0].service_take_request(request_type)[::-1]

    def take_cancel_request(self, request_type: type) -> tuple[Any, Any]:
        return self._services[1].service_take_request(request_type)[::-1]

    def take_result_request(self, request_type: type) -> tuple[Any, Any]:
        return self._services[2].service_take_request(request_type)[::-1]

    def send_goal_response(self, header: Header, response: Any) -> None:
        self._send(0, header, response)

    def send_cancel_response(self, header: Header, response: Any) -> None:
        self._send(1, header, response)

    def send_result_response(self, header: Header, response: Any) -> None:
        self._send(2, header, response)

    def _send(self, service: int, header: Header, response: Any) -> None:
        self._use()
        self._services[service].service_send_response(response, header)
        if header.client is None:
            raise RCLError(NO_CLIENT)

    def goal_exists(self, info: Any) -> bool:
        return bytes(info.goal_id.uuid) in self.goals

    def process_cancel_request(self, request: Any, response_type: type) -> Any:
        """As rcl's: all goals, those up to a moment, or one of them; or one and those."""
        goal = bytes(request.goal_info.goal_id.uuid)
        until_ns = _time_ns(request.goal_info.stamp)
        is_one = any(goal)
        response = response_type()
        for key, one in self.goals.items():
            is_meant = (not is_one and not until_ns) or _time_ns(one.info.stamp) <= until_ns
            if one.is_cancelable() and (is_meant or key == goal):
                response.goals_canceling.append(one.info)
        if not response.goals_canceling:
            response.return_code = 1  # rejected
            if is_one:
                response.return_code = 3 if goal in self.goals else 2  # has ended, is unknown
        return response

    def publish_status(self) -> None:
        from action_msgs.msg import GoalStatus, GoalStatusArray

        self._use()
        message = GoalStatusArray()
        for goal in self.goals.values():
            message.status_list.append(GoalStatus(goal_info=goal.info, status=goal.state))
        self._node.graph.observer.published(f'{self._name}/_action/status', message)

    def publish_feedback(self, message: Any) -> None:
        self._use()
        _check_convertible(message)
        self._node.graph.observer.published(f'{self._name}/_action/feedback', message)


# Of rcl_action's state machine: status and event give the next status.
_GOAL_STATES = {
    (1, 'EXECUTE'): 2,
    (1, 'CANCEL_GOAL'): 3,
    (2, 'CANCEL_GOAL'): 3,
    (2, 'SUCCEED'): 4,
    (2, 'ABORT'): 6,
    (3, 'SUCCEED'): 4,
    (3, 'ABORT'): 6,
    (3, 'CANCELED'): 5,
}


class ActionGoalHandle(Destroyable):
    """A goal that was accepted."""

    def __init__(self, server: ActionServer, info: Any) -> None:
        self.info = info
        self.state = 1
        self.ended_ns = sys.maxsize
        self._clock = server._clock
        if server.goal_exists(info):
            raise RCLError('Failed to accept new goal')
        server.goals[bytes(info.goal_id.uuid)] = self

    def get_status(self) -> int:
        return self.state

    def is_active(self) -> bool:
        return self.state < 4

    def is_cancelable(self) -> bool:
        return (self.state, 'CANCEL_GOAL') in _GOAL_STATES

    def update_goal_state(self, event: Any) -> None:
        state = _GOAL_STATES.get((self.state, event.name))
        if state is None:
            raise RCLError('Failed to update goal state with event')
        self.state = state
        if state >= 4:
            self.ended_ns = self._clock.now_ns()


def _time_ns(time: Any) -> int:
    nanoseconds: int = time.sec * 10**9 + time.nanosec
    return nanoseconds


class EventHandle(Destroyable):
    def __init__(self, parent: Any, event_type: Any) -> None:
        raise real.UnsupportedEventTypeError('not simulated')


# -- lifecycle -------------------------------------------------------------------------------------

_STATES = {
    0: 'unknown',
    1: 'unconfigured',
    2: 'inactive',
    3: 'active',
    4: 'finalized',
    10: 'configuring',
    11: 'cleaningup',
    12: 'shuttingdown',
    13: 'activating',
    14: 'deactivating',
    15: 'errorprocessing',
}
_OUTCOMES = ('transition_success', 'transition_failure', 'transition_error')
# Of rcl_lifecycle's default state machine: number, label, start, goal.
_TRANSITIONS = [
    (1, 'configure', 1, 10),
    *zip((10, 11, 12), _OUTCOMES, (10,) * 3, (2, 1, 15), strict=True),
    (2, 'cleanup', 2, 11),
    *zip((20, 21, 22), _OUTCOMES, (11,) * 3, (1, 2, 15), strict=True),
    (3, 'activate', 2, 13),
    *zip((30, 31, 32), _OUTCOMES, (13,) * 3, (3, 2, 15), strict=True),
    (4, 'deactivate', 3, 14),
    *zip((40, 41, 42), _OUTCOMES, (14,) * 3, (2, 3, 15), strict=True),
    (5, 'shutdown', 1, 12),
    (6, 'shutdown', 2, 12),
    (7, 'shutdown', 3, 12),
    *zip((50, 51, 52), _OUTCOMES, (12,) * 3, (4, 4, 15), strict=True),
    *zip((60, 61, 62), _OUTCOMES, (15,) * 3, (1, 4, 4), strict=True),
]


class LifecycleStateMachine(Destroyable):
    initialized = True

    def __init__(self, node: Node, enable_communication_interface: bool) -> None:
        self._graph = node.graph
        self._state = 1
        qos = {**_service_profile(), 'liveliness': 0}

        def service(name: str) -> Service:
            return Service(node, object, f'~/{name}', qos)

        self.service_change_state = service('change_state')
        self.service_get_state = service('get_state')
        self.service_get_available_states = service('get_available_states')
        self.service_get_available_transitions = service('get_available_transitions')
        self.service_get_transition_graph = service('get_transition_graph')

    @property
    def current_state(self) -> tuple[int, str]:
        return self._state, _STATES[self._state]

    @property
    def available_states(self) -> list[tuple[int, str]]:
        return list(_STATES.items())

    @property
    def transition_graph(self) -> list[tuple[int, str, int, str, int, str]]:
        return [
            (number, label, start, _STATES[start], goal, _STATES[goal])
            for number, label, start, goal in _TRANSITIONS
        ]

    @property
    def available_transitions(self) -> list[tuple[int, str, int, str, int, str]]:
        return [one for one in self.transition_graph if one[2] == self._state]

    def trigger_transition_by_id(self, number: int, publish: bool) -> None:
        self._trigger(0, number)

    def trigger_transition_by_label(self, label: str, publish: bool) -> None:
        self._trigger(1, label)

    def get_transition_by_label(self, label: str) -> int:
        for number, name, start, _ in _TRANSITIONS:
            if (start, name) == (self._state, label):
                return number
        raise RCLError('Failed to get transition from label: error not set')

    def _trigger(self, column: int, key: int | str) -> None:
        for transition in _TRANSITIONS:
            if transition[2] == self._state and transition[column] == key:
                self._state = transition[3]
                self._graph.observer.changed_state(_STATES[self._state], transition[1])
                Process.scheduler.point()
                return
        raise RCLError(
            'Failed to trigger lifecycle state machine transition: Transition is not registered., '
            'at ./src/rcl_lifecycle.c:355'
        )


# -- the module ------------------------------------------------------------------------------------


def _infos(ends: Callable[[Graph], list[Endpoint]]) -> Callable[..., list[dict[str, Any]]]:
    def infos(node: Node, topic: str, no_mangle: bool) -> list[dict[str, Any]]:
        Process.scheduler.point()
        return [one.info() for one in ends(node.graph) if one.topic == topic]

    return infos


def _log(severity: Any, name: str, text: str, function: str, file: str, line: int) -> None:
    Context.graph.observer.logged(int(severity), text)
    Process.scheduler.point()


def module() -> ModuleType:
    """The stand-in, to be put in the real one's place."""
    fake = ModuleType(NAME)
    fake.__dict__.update(real.__dict__)
    for one in (
        ActionGoalHandle,
        ActionServer,
        Clock,
        Context,
        EventHandle,
        GuardCondition,
        LifecycleStateMachine,
        Node,
        Publisher,
        Service,
        Subscription,
        Timer,
        TypeDescriptionService,
    ):
        setattr(fake, one.__name__, one)
    for name in ('ActionClient', 'Client', 'EventsExecutor', 'WaitSet'):
        setattr(fake, name, type(name, (), {}))  # named in annotations
    fake.__dict__.update(
        rmw_service_info_t=Header,
        install_signal_handlers=lambda options: None,
        uninstall_signal_handlers=lambda: None,
        register_sigint_guard_condition=lambda guard: None,
        unregister_sigint_guard_condition=lambda guard: None,
        rclpy_resolve_name=lambda node, name, only_expand, is_service: node.resolve(name),
        rclpy_remap_topic_name=lambda node, name: name,
        rclpy_get_publishers_info_by_topic=_infos(lambda graph: graph.publishers),
        rclpy_get_subscriptions_info_by_topic=_infos(lambda graph: graph.subscriptions),
        rclpy_assert_liveliness=lambda publisher: None,
        rclpy_logging_configure=lambda context: None,
        rclpy_logging_fini=lambda: None,
        rclpy_logging_initialize=lambda: None,
        rclpy_logging_shutdown=lambda: None,
        rclpy_logging_rcutils_log=_log,
        rclpy_logging_rosout_add_sublogger=lambda name, child: False,
        rclpy_logging_rosout_remove_sublogger=lambda name, child: None,
        rclpy_logging_logger_is_enabled_for=lambda name, severity: int(severity) >= 20,
    )
    return fake
