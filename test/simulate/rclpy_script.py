# SPDX-License-Identifier: Apache-2.0
"""One script for rclpy as it is and for rclpy on the fake extension module: what both observe.

``python -m simulate.rclpy_script real`` (or ``fake``) prints it as JSON. The test compares them.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

_SETTLE_S = 0.45  # so long messages may be on their way


class Driver(Protocol):
    """The other side of the graph."""

    def connect(self, topic: str, reliable: bool = True, latched: bool = False) -> Any:
        """Make a publisher of texts, and wait until it is known."""

    def publish(self, publisher: Any, text: str) -> None: ...

    def request(self, service: str) -> None:
        """Ask a Trigger service, and do not wait."""

    def ask(self, kind: type, service: str, request: Any) -> Callable[[], Any]:
        """Ask any service, and do not wait; the result returns the answer, or None."""

    def pass_time(self, seconds: float) -> None: ...

    def tick(self, seconds: float) -> None:
        """Publish a time on /clock."""


class RealDriver:
    def __init__(self) -> None:
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        rclpy.init()
        context = rclpy.Context()  # in the scripts' one, Kilted's shutdown misses the second node
        rclpy.init(context=context)
        self._node = rclpy.create_node('driver', context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self._clients: list[Any] = []
        self._clock: Any = None

    def connect(self, topic: str, reliable: bool = True, latched: bool = False) -> Any:
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
        from std_msgs.msg import String

        quality = QoSProfile(
            depth=10,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        publisher = self._node.create_publisher(String, topic, quality)
        self.pass_time(_SETTLE_S)
        return publisher

    def publish(self, publisher: Any, text: str) -> None:
        from std_msgs.msg import String

        publisher.publish(String(data=text))

    def request(self, service: str) -> None:
        from std_srvs.srv import Trigger

        self.ask(Trigger, service, Trigger.Request())

    def ask(self, kind: type, service: str, request: Any) -> Callable[[], Any]:
        client = self._node.create_client(kind, service)
        assert client.wait_for_service(5.0)
        self._clients.append(client)
        future = client.call_async(request)

        def answer() -> Any:
            ends_s = time.monotonic() + _SETTLE_S
            while not future.done() and time.monotonic() < ends_s:
                self._executor.spin_once(timeout_sec=0.05)
            return future.result()

        return answer

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)

    def tick(self, seconds: float) -> None:
        from builtin_interfaces.msg import Time
        from rosgraph_msgs.msg import Clock

        if self._clock is None:
            self._clock = self._node.create_publisher(Clock, '/clock', 1)
            self.pass_time(_SETTLE_S)
        self._clock.publish(Clock(clock=Time(sec=int(seconds), nanosec=0)))
        self.pass_time(_SETTLE_S)


class _Deaf:
    """Observes nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class FakeDriver:
    def __init__(self) -> None:
        from simulate import imports

        imports.install()
        import rclpy

        from simulate.graph import Graph
        from simulate.rclpy_fake import Context
        from simulate.scheduler import Scheduler
        from simulate.threads import Process

        self._scheduler = Scheduler(Random(0), 10**12, 17 * 10**17)
        Process.begin(self._scheduler, print, lambda: None)
        observer: Any = _Deaf()
        self._graph = Context.graph = Graph(self._scheduler, observer)
        self._graph.nodes.append(('driver', '/'))
        self._clock: Any = None
        rclpy.init()

    def _publisher(
        self, topic: str, kind: type, reliable: bool = True, latched: bool = False
    ) -> Any:
        from simulate import graph

        return graph.RemotePublisher(
            self._graph,
            topic,
            kind,
            ('driver', '/'),
            graph.RELIABLE if reliable else graph.BEST_EFFORT,
            graph.TRANSIENT_LOCAL if latched else graph.VOLATILE,
        )

    def connect(self, topic: str, reliable: bool = True, latched: bool = False) -> Any:
        from std_msgs.msg import String

        publisher = self._publisher(topic, String, reliable, latched)
        self.pass_time(_SETTLE_S)
        return publisher

    def publish(self, publisher: Any, text: str) -> None:
        from std_msgs.msg import String

        publisher.publish(String(data=text))

    def request(self, service: str) -> None:
        from std_srvs.srv import Trigger

        self.ask(Trigger, service, Trigger.Request())

    def ask(self, kind: type, service: str, request: Any) -> Callable[[], Any]:
        answers: list[Any] = []
        self._graph.request(service, request, answers.append, self._scheduler.now_ns)
        return lambda: answers[-1] if answers else None

    def pass_time(self, seconds: float) -> None:
        self._scheduler.run_until(self._scheduler.now_ns + round(seconds * 1e9))

    def tick(self, seconds: float) -> None:
        from builtin_interfaces.msg import Time
        from rosgraph_msgs.msg import Clock

        self._clock = self._clock or self._publisher('/clock', Clock)
        self.pass_time(_SETTLE_S)
        self._clock.publish(Clock(clock=Time(sec=int(seconds), nanosec=0)))
        self.pass_time(_SETTLE_S)


class Spinner:
    """An executor with one node, and the list of what its callbacks say."""

    def __init__(self, node: Any) -> None:
        from rclpy.executors import SingleThreadedExecutor

        self.executor = SingleThreadedExecutor()
        self.executor.add_node(node)
        self.heard: list[str] = []

    def says(self, text: str) -> Callable[..., Any]:
        """A callback of any kind."""

        def callback(message: Any = None, response: Any = None) -> Any:
            self.heard.append(f'{text} {message.data}' if hasattr(message, 'data') else text)
            return response

        return callback

    def spin(self, count: int) -> list[str]:
        """Spin once so many times at most; what was said, each time as one text."""
        spins = []
        for _ in range(count):
            self.heard.clear()
            self.executor.spin_once(0.0)
            spins.append(', '.join(self.heard))
        return spins


def _with_node(**overrides: Any) -> Callable[[Callable[..., Any]], Callable[[Driver], Any]]:
    """Give a script a node of its name, and its executor; destroy the node afterwards.

    :param overrides: parameters of the node.
    """

    def decorate(script: Callable[..., Any]) -> Callable[[Driver], Any]:
        @functools.wraps(script)
        def run(driver: Driver) -> Any:
            import rclpy
            from rclpy.parameter import Parameter

            values = [Parameter(name, value=value) for name, value in overrides.items()]
            node = rclpy.create_node(script.__name__, parameter_overrides=values)
            told = script(driver, node, Spinner(node))
            node.destroy_node()
            return told

        return run

    return decorate


def _error_of(action: Callable[[], Any]) -> str:
    try:
        action()
    except Exception as error:
        return f'{type(error).__name__}: {str(error).partition(", at ")[0]}'
    return 'none'


@_with_node()
def order_of_callbacks(driver: Driver, node: Any, spinner: Spinner) -> Any:
    """Everything is ready at once; one callback for each spin, all before it waits again."""
    from std_msgs.msg import String
    from std_srvs.srv import Trigger

    node.create_service(Trigger, 'serve', spinner.says('service'))
    guard = node.create_guard_condition(spinner.says('guard'))
    node.create_subscription(String, 'first', lambda m: spinner.says('first')(m), 10)
    node.create_subscription(String, 'second', lambda m: spinner.says('second')(m), 1)
    publishers = [driver.connect('/first'), driver.connect('/second')]
    spinner.spin(5)
    node.create_timer(0.1, spinner.says('timer'))
    for text in ('1', '2', '3'):
        for publisher in publishers:
            driver.publish(publisher, text)
    driver.request('/serve')
    guard.trigger()
    guard.trigger()
    driver.pass_time(_SETTLE_S)
    heard = spinner.spin(9)
    return heard


@_with_node()
def destroyed_in_a_callback(driver: Driver, node: Any, spinner: Spinner) -> Any:
    """Who is destroyed by the callback before is not called."""
    from std_msgs.msg import String

    subscriptions: list[Any] = []

    def hear(message: Any) -> None:
        spinner.heard.append('first')
        node.destroy_subscription(subscriptions[1])

    subscriptions.append(node.create_subscription(String, 'a', hear, 10))
    for topic in ('b', 'c'):
        subscriptions.append(
            node.create_subscription(String, topic, lambda m, t=topic: spinner.says(t)(m), 10)
        )
    publishers = [driver.connect(f'/{topic}') for topic in 'abc']
    spinner.spin(5)
    for publisher in publishers:
        driver.publish(publisher, 'x')
    driver.pass_time(_SETTLE_S)
    heard = spinner.spin(4)
    return heard


@_with_node()
def late_timer(driver: Driver, node: Any, spinner: Spinner) -> Any:
    """Calls that were missed are left out, and the beat stays."""

    timer = node.create_timer(0.2, spinner.says('timer'))
    driver.pass_time(0.7)
    heard = spinner.spin(3)
    left_s = timer.time_until_next_call() / 1e9
    timer.cancel()
    driver.pass_time(0.3)
    heard += spinner.spin(2)
    is_canceled, is_ready = timer.is_canceled(), timer.is_ready()
    timer.reset()
    driver.pass_time(0.25)
    heard += spinner.spin(2)
    return [heard, 0.0 < left_s <= 0.11, is_canceled, is_ready]


@_with_node()
def matching(driver: Driver, node: Any, spinner: Spinner) -> Any:
    """Which qualities of service go together, and what is kept for whom."""
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from std_msgs.msg import String

    told: dict[str, Any] = {}
    offers = [
        (f'{"reliable" if reliable else "best"}_{"latched" if latched else "volatile"}', r, latched)
        for reliable, r in ((True, True), (False, False))
        for latched in (True, False)
    ]
    publishers = {name: driver.connect(f'/{name}', r, latched) for name, r, latched in offers}
    for publisher in publishers.values():
        driver.publish(publisher, 'early')
    for name in publishers:
        for reliability in (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT):
            for durability in (DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE):
                key = f'{name} for {reliability.name} {durability.name}'
                heard: list[str] = []
                quality = QoSProfile(depth=10, reliability=reliability, durability=durability)
                subscription = node.create_subscription(
                    String, name, lambda m, heard=heard: heard.append(m.data), quality
                )
                driver.pass_time(_SETTLE_S)
                driver.publish(publishers[name], 'late')
                driver.pass_time(_SETTLE_S / 2)
                spinner.spin(12)
                node.destroy_subscription(subscription)
                told[key] = [bool({'early'} & set(heard)), 'late' in heard[-1:]]
    info = node.get_publishers_info_by_topic('/best_latched')[0]
    quality = info.qos_profile
    told['info'] = [
        info.node_name,
        info.node_namespace,
        info.topic_type,
        quality.reliability.name,
        quality.durability.name,
        quality.history.name,
        len(node.get_publishers_info_by_topic('/best_latched')),
        node.count_publishers('/best_latched'),
        node.count_subscribers('/best_latched'),
        sorted(node.get_node_names_and_namespaces()),
        node.resolve_topic_name('~/x'),
    ]
    return told


@_with_node()
def message_info(driver: Driver, node: Any, spinner: Spinner) -> Any:
    from std_msgs.msg import String

    infos: list[Any] = []
    node.create_subscription(String, 'info', lambda message, info: infos.append(info), 10)
    publisher = driver.connect('/info')
    driver.publish(publisher, 'x')
    driver.pass_time(_SETTLE_S)
    spinner.spin(4)
    sent_s = (node.get_clock().now().nanoseconds - infos[0]['source_timestamp']) / 1e9
    return [sorted(infos[0]), 0.0 < sent_s < 5.0]


@_with_node()
def errors(driver: Driver, node: Any, spinner: Spinner) -> Any:
    """What a callback raises, and what a handle says that is gone."""
    from std_msgs.msg import String, UInt64
    from std_srvs.srv import Trigger

    def fail(*_: Any) -> None:
        raise ValueError('on purpose')

    node.create_service(Trigger, 'fail', fail)
    driver.request('/fail')
    driver.pass_time(_SETTLE_S)
    told = [_error_of(lambda: spinner.spin(4))]
    publisher = node.create_publisher(String, 'x', 1)
    told.append(_error_of(lambda: publisher.publish(String(data='\udc80'))))
    told.append(_error_of(lambda: publisher.publish('no message')))
    numbers = node.create_publisher(UInt64, 'numbers', 1)
    told.append(_error_of(lambda: numbers.publish(UInt64(data=-1))).partition(':')[0])
    node.destroy_publisher(publisher)
    told.append(_error_of(lambda: publisher.publish(String())))
    told.append(_error_of(lambda: node.create_publisher(String, 'x//y', 1)))
    timer = node.create_timer(1.0, fail)
    node.destroy_timer(timer)
    told.append(_error_of(timer.cancel))
    return told


def _lifecycle_node(told: list[Any], answers: dict[str, Any]) -> Any:
    """Make a node whose transitions are told, and end as the answers say; None: by an error."""
    from rclpy.lifecycle import LifecycleNode

    def answer() -> Any:
        told.append(node._state_machine.current_state[1])
        if answers['next'] is None:
            raise ValueError('on purpose')
        return answers['next']

    class Node(LifecycleNode):
        def on_configure(self, state: Any) -> Any:
            return answer()

        def on_activate(self, state: Any) -> Any:
            super().on_activate(state)
            return answer()

        def on_deactivate(self, state: Any) -> Any:
            super().on_deactivate(state)
            return answer()

        def on_cleanup(self, state: Any) -> Any:
            return answer()

        def on_shutdown(self, state: Any) -> Any:
            return answer()

        def on_error(self, state: Any) -> Any:
            told.append(f'error from {state.label}')
            return answers['error']

    node = Node('lifecycle')
    return node


def lifecycle(driver: Driver) -> Any:
    """Transitions that succeed, fail, raise, or are not possible."""
    from rclpy.lifecycle import TransitionCallbackReturn
    from std_msgs.msg import String

    told: list[Any] = []
    answers = {'next': TransitionCallbackReturn.SUCCESS, 'error': TransitionCallbackReturn.SUCCESS}
    node = _lifecycle_node(told, answers)
    publisher = node.create_lifecycle_publisher(String, 'x', 1)
    told.append([list(one) for one in node._state_machine.transition_graph])
    told.append([service.srv_name for service in node.services])
    success, failure = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
    error = TransitionCallbackReturn.ERROR
    for trigger, outcome in (
        (node.trigger_activate, success),
        (node.trigger_configure, failure),
        (node.trigger_configure, None),
        (node.trigger_configure, success),
        (node.trigger_configure, success),
        (node.trigger_activate, failure),
        (node.trigger_activate, success),
        (node.trigger_cleanup, success),
        (node.trigger_deactivate, failure),
        (node.trigger_deactivate, error),
        (node.trigger_configure, success),
        (node.trigger_cleanup, success),
        (node.trigger_shutdown, success),
        (node.trigger_configure, success),
    ):
        answers['next'] = outcome
        told.append(_error_of(lambda trigger=trigger: told.append(str(trigger()))))
        told.append([node._state_machine.current_state[1], publisher.is_activated])
    node.destroy_node()
    return told


@_with_node(given=3.0, odd=1)
def parameters(driver: Driver, node: Any, spinner: Spinner) -> Any:
    from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
    from rclpy.parameter import Parameter

    bounds = ParameterDescriptor(
        floating_point_range=[FloatingPointRange(from_value=0.0, to_value=5.0)]
    )
    fixed = ParameterDescriptor(read_only=True)
    told: list[Any] = [
        node.declare_parameter('given', 1.0, bounds).value,
        node.declare_parameter('fixed', 'x', fixed).value,
        _error_of(lambda: node.declare_parameter('odd', 'text')),
    ]
    for name, value in (('given', 9.0), ('given', 'x'), ('fixed', 'y'), ('given', 2.0)):
        result = node.set_parameters([Parameter(name, value=value)])[0]
        told.append([result.successful, result.reason])
    told.append(_error_of(lambda: node.set_parameters([Parameter('nonsense', value=1)])))
    return told


@_with_node(use_sim_time=True)
def simulated_time(driver: Driver, node: Any, spinner: Spinner) -> Any:
    from rclpy.parameter import Parameter

    told = [node.get_clock().now().nanoseconds, node.get_clock().ros_time_is_active]
    node.create_timer(1.0, spinner.says('timer'))
    driver.pass_time(_SETTLE_S)
    for seconds in (10, 11, 9, 20):
        driver.tick(seconds)
        told += ['timer' in spinner.spin(8), node.get_clock().now().nanoseconds]
    node.set_parameters([Parameter('use_sim_time', value=False)])
    told.append(node.get_clock().ros_time_is_active)
    return told


class _GoalServer:
    """An action server of goals that end when they are told to, as the node's do."""

    def __init__(self, node: Any, spinner: Spinner) -> None:
        from rclpy.action import server

        from vla_ros.action import ExecuteInstruction

        self.type = ExecuteInstruction
        self.handles: list[Any] = []
        self.server = server.ActionServer(
            node,
            ExecuteInstruction,
            'execute',
            execute_callback=lambda handle: None,
            goal_callback=self._judge,
            handle_accepted_callback=self._begin,
            cancel_callback=self._cancel,
        )
        self._event, self._spinner = server.GoalEvent.EXECUTE, spinner
        self._goal, self._cancels = server.GoalResponse, server.CancelResponse

    def _judge(self, goal: Any) -> Any:
        self._spinner.heard.append(f'judge {goal.instruction}')
        return self._goal.ACCEPT if goal.instruction else self._goal.REJECT

    def _begin(self, handle: Any) -> None:
        self._spinner.heard.append(f'begin {handle.status}')
        handle._update_state(self._event)
        self.handles.append(handle)

    def _cancel(self, handle: Any) -> Any:
        self._spinner.heard.append(f'cancel {handle.status}')
        return self._cancels.REJECT if handle.request.instruction == 'stay' else self.end(handle)

    def end(self, handle: Any, how: str = 'canceled') -> Any:
        def conclude(_: Any) -> Any:
            self._spinner.heard.append(f'conclude {handle.status}')
            getattr(handle, how)()
            return self.type.Result(message=how)

        self.server.notify_execute(handle, conclude)
        return self._cancels.ACCEPT


@_with_node()
def goals(driver: Driver, node: Any, spinner: Spinner) -> Any:
    """Accepted, rejected, canceled, succeeded, aborted; in vain, twice, and of unknown ones."""
    from action_msgs.srv import CancelGoal

    from vla_ros.action import ExecuteInstruction

    impl, server = ExecuteInstruction.Impl, _GoalServer(node, spinner)
    told: list[Any] = []

    def ask(kind: type, name: str, number: int, **fields: Any) -> Callable[[], Any]:
        request = kind.Request()
        goal_id = request.goal_info.goal_id if kind is CancelGoal else request.goal_id
        goal_id.uuid = [number] * 16
        for field, value in fields.items():
            setattr(request, field, value)
        answer = driver.ask(kind, f'/execute/_action/{name}', request)
        driver.pass_time(_SETTLE_S / 3)
        told.append([one for one in spinner.spin(8) if one])
        return answer

    def send(number: int, instruction: str) -> None:
        goal = ExecuteInstruction.Goal(instruction=instruction)
        told.append(ask(impl.SendGoalService, 'send_goal', number, goal=goal)().accepted)

    def cancel(number: int) -> None:
        response = ask(CancelGoal, 'cancel_goal', number)()
        canceling = [one.goal_id.uuid[0].item() for one in response.goals_canceling]
        told.append([response.return_code, canceling])

    def result(number: int) -> Callable[[], Any]:
        return ask(impl.GetResultService, 'get_result', number)

    def tell(answer: Callable[[], Any]) -> None:
        told.append([one for one in spinner.spin(8) if one])
        response = answer()
        told.append(response and [response.status, response.result.message])

    send(1, '')
    send(1, 'go')
    send(1, 'go')
    first = result(1)
    tell(first)
    cancel(1)
    tell(first)
    cancel(1)
    cancel(9)
    tell(result(9))
    tell(result(1))
    send(2, 'stay')
    cancel(2)
    send(3, 'go')
    server.end(server.handles[1], 'succeed')
    server.end(server.handles[2], 'abort')
    tell(result(2))
    tell(result(3))
    send(4, 'go')
    cancel(0)
    tell(result(4))
    send(5, 'go')
    server.end(server.handles[-1], 'canceled')  # which nobody asked for: it is aborted
    tell(result(5))
    server.server.destroy()
    told.append(_error_of(server.server._handle.publish_status).partition(':')[0])
    return told


def after_shutdown(driver: Driver) -> Any:
    """The last one: it ends the context."""
    import rclpy
    from std_msgs.msg import String

    node = rclpy.create_node('shutdown')
    spinner = Spinner(node)
    publisher = node.create_publisher(String, 'x', 1)
    rclpy.shutdown()
    return [
        _error_of(lambda: publisher.publish(String())),
        _error_of(lambda: spinner.spin(1)),
        _error_of(lambda: rclpy.create_node('late')),
    ]


SCRIPTS = (
    order_of_callbacks,
    destroyed_in_a_callback,
    late_timer,
    matching,
    message_info,
    errors,
    lifecycle,
    parameters,
    simulated_time,
    goals,
    after_shutdown,
)


def main(kind: str, patience: float) -> None:
    """Print what each script observes.

    :param patience: by how much longer than usual messages may be on their way.
    """
    global _SETTLE_S
    _SETTLE_S *= patience
    driver: Driver = RealDriver() if kind == 'real' else FakeDriver()
    print(json.dumps({script.__name__: script(driver) for script in SCRIPTS}))


if __name__ == '__main__':
    main(sys.argv[1], float(sys.argv[2]))
