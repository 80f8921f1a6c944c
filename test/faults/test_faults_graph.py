# SPDX-License-Identifier: Apache-2.0
"""Others on the ROS graph, requests that can't be, and what the middleware is told.

Faults of docs/faults.md: a second node, a second publisher, impossible requests and messages.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.qos import LivelinessPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from support.commands import STOPPABLE
from support.fakes import FakePolicy
from support.graph import CameraThread, Robot, robot, running_node, spinning_node
from support.in_process import node_with, unstarted_node
from support.inputs import shows
from support.nodes import started
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.reasons import Reason, State
from vla_ros.ros.operator_view import OperatorViewPublisher
from vla_ros.ros.robot import RobotPort
from vla_ros.types import Policy, PolicyError

LEASE_S = 20.0  # after which Fast DDS forgets a process that was killed
TWIST = {
    'motion': 'twist',
    'frame_id': 'base',
    'unnorm_key': 'bridge_orig',
}


@contextlib.contextmanager
def another_node(name: str, namespace: str) -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node(name, context=context, namespace=namespace)
    with spinning_node(context, node):
        yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


# -- others in this node's place ---------------------------------------------------------------


@shows('Publishers', 'the node holds', 'two nodes with the name of this one')
def test_a_second_node_of_the_same_name() -> None:
    with running_node('model:=scripted') as running:
        stack = started(running.robot)
        with CameraThread(stack):
            with another_node('vla', stack.get_namespace()):
                stack.wait_for_state(
                    State.HOLDING, Reason.SECOND_NODE, message='2 nodes have the name'
                )
                time.sleep(0.3)
                count = len(stack.actions)
                time.sleep(1.0)
                assert len(stack.actions) == count
            stack.wait_for_state(State.RUNNING)


@shows(
    'Publishers',
    'the node holds, and the status names it',
    "another node publishes the robot's actions or twists",
)
@pytest.mark.parametrize(('kind', 'topic'), [(VlaAction, 'action'), (TwistStamped, 'twist')])
def test_a_second_publisher_of_what_moves_the_robot(kind: type, topic: str) -> None:
    with node_with(FakePolicy(), instruction='go', **TWIST) as (stack, _), CameraThread(stack):
        stack.wait_for_state(State.RUNNING)
        with another_node('teleoperation', stack.get_namespace()) as other:
            other.create_publisher(kind, topic, 1)
            name = f'{stack.get_namespace()}/teleoperation'  # heard after its publisher, at times
            stack.wait_for_state(State.HOLDING, Reason.SECOND_PUBLISHER, message=name)
            assert f'/{topic} is published' in stack.status.message
        stack.wait_for_state(State.RUNNING)


def test_a_node_that_is_started_again_gets_over_its_dead_twin() -> None:
    with running_node('model:=scripted', 'instruction:=go') as running:
        stack = started(running.robot)
        running.process.kill()
        running.ends()
        killed_s = time.monotonic()
        count = len(stack.actions)
        running.start()
        with CameraThread(stack):
            stack.wait_for(lambda: len(stack.actions) > count, timeout_s=LEASE_S + 30.0)
            print(f'acted {time.monotonic() - killed_s:.1f} s after its twin was killed')


# -- requests and messages that can't be -------------------------------------------------------


def change_state(stack: Robot, transition_id: int = 0, label: str = '') -> bool:
    request = ChangeState.Request()
    request.transition.id, request.transition.label = transition_id, label
    return stack.ask(ChangeState, 'vla/change_state', request).success


def refused(stack: Robot) -> int:
    return stack.status.counters.requests_refused


def test_transitions_that_are_not_possible_now() -> None:
    with running_node('model:=scripted') as running:
        stack = running.robot
        stack.wait_for_state(State.HOLDING)
        assert change_state(stack, Transition.TRANSITION_DEACTIVATE)
        assert change_state(stack, Transition.TRANSITION_ACTIVATE)
        started(stack)
        impossible = [
            Transition.TRANSITION_CONFIGURE,
            Transition.TRANSITION_CLEANUP,
            Transition.TRANSITION_ACTIVATE,
            Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
            Transition.TRANSITION_DESTROY,
            Transition.TRANSITION_ON_CONFIGURE_ERROR,
            99,
            255,
        ]
        for transition in impossible:
            assert not change_state(stack, transition)
        assert not change_state(stack, label='no such transition')
        stack.wait_for(lambda: refused(stack) == len(impossible) + 1)
        assert stack.lifecycle_state() == 'active'
        stack.recovers()
        assert change_state(stack, Transition.TRANSITION_DEACTIVATE)
        assert not change_state(stack, Transition.TRANSITION_DEACTIVATE)  # a second client's
    assert running.process.returncode == 0


def test_a_shutdown_after_an_error_is_told() -> None:
    """Whoever reads the status must not wait for a configuration to mend it."""

    def fail(*_: object) -> Policy:
        raise PolicyError('no such model')

    with unstarted_node(fail) as (stack, _):
        stack.wait_for_state(State.ERROR, Reason.LOADING_FAILED)
        assert change_state(stack, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
        stack.wait_for_state(State.UNCONFIGURED, Reason.SHUT_DOWN)


@pytest.mark.parametrize('slow', ['', ':slow=1@load'])
def test_a_managers_configure_beside_autostart(slow: str) -> None:
    """As nav2's: it sees each state that it asks for. The policy is loaded once."""
    with running_node(f'model:=scripted{slow}', 'instruction:=go') as running:
        stack = running.robot
        if not slow:
            stack.wait_for_state(State.HOLDING)
        assert change_state(stack, Transition.TRANSITION_ACTIVATE)
        assert stack.lifecycle_state() == 'active'
        assert change_state(stack, Transition.TRANSITION_CONFIGURE)
        assert stack.lifecycle_state() == 'inactive'
        assert not change_state(stack, Transition.TRANSITION_CONFIGURE)
        assert change_state(stack, Transition.TRANSITION_ACTIVATE)
        assert stack.lifecycle_state() == 'active'
        assert not change_state(stack, Transition.TRANSITION_CONFIGURE)
        stack.wait_for_state(State.HOLDING)
        stack.recovers()
    assert running.process.returncode == 0
    assert running.output.count(': loaded in ') == 1


def test_an_operator_who_deactivates_beside_autostart() -> None:
    with running_node('model:=scripted', 'instruction:=go') as running:
        stack = running.robot
        assert change_state(stack, Transition.TRANSITION_DEACTIVATE)
        assert not change_state(stack, Transition.TRANSITION_CONFIGURE)
        assert stack.lifecycle_state() == 'inactive'
        stack.wait_for_state(State.READY)
    assert running.process.returncode == 0


def test_a_cleanup_after_an_error() -> None:
    with running_node('model:=scripted:explode') as running:
        stack = running.robot
        stack.wait_for_state(State.ERROR, Reason.LOADING_FAILED)
        assert not change_state(stack, Transition.TRANSITION_CLEANUP)
        assert stack.lifecycle_state() == 'unconfigured'
    assert running.process.returncode == 0


def parameter(name: str, **value: Any) -> Parameter:
    return Parameter(name=name, value=ParameterValue(**value))


UNUSABLE_PARAMETERS = [
    parameter('model', type=99),
    parameter('model', type=200, string_value='x'),
    parameter('', type=4, string_value='x'),
    parameter('no such parameter', type=4, string_value='x'),
    parameter('hang_timeout_s', type=4, string_value='ten'),
    parameter('hang_timeout_s', type=3, double_value=float('nan')),
    parameter('instruction', type=1, bool_value=True),
    parameter('instruction', type=4, string_value='a </s> b'),
    parameter('use_sim_time', type=4, string_value='perhaps'),
]


def test_parameters_that_can_not_be_set() -> None:
    with running_node('model:=scripted') as running:
        stack = started(running.robot)
        for one in UNUSABLE_PARAMETERS:
            request = SetParameters.Request(parameters=[one])
            [result] = stack.ask(SetParameters, 'vla/set_parameters', request).results
            assert not result.successful and result.reason, one
            together = SetParametersAtomically.Request(parameters=[one, one])
            answer = stack.ask(SetParametersAtomically, 'vla/set_parameters_atomically', together)
            assert not answer.result.successful, one
        stack.wait_for(lambda: refused(stack) == 2 * len(UNUSABLE_PARAMETERS))
        stack.recovers()
    assert running.process.returncode == 0


@pytest.mark.parametrize(
    ('sec', 'nanosec'),
    [(-1, 0), (-(2**31), 0), (2**31 - 1, 2**32 - 1), (0, 2**32 - 1)],
)
def test_a_simulated_time_that_can_not_be(sec: int, nanosec: int) -> None:
    limits = ('image_timeout_s:=60.0', 'use_sim_time:=true')
    with running_node('model:=scripted', 'instruction:=go', *limits) as running:
        stack = running.robot
        stack.wait_for_state(State.HOLDING, Reason.NO_SIMULATED_TIME)
        stack.wait_until_heard()
        clocks = stack.create_publisher(Clock, '/clock', 10)
        stack.wait_for(lambda: clocks.get_subscription_count() > 0)
        strange = Clock()
        strange.clock.sec, strange.clock.nanosec = sec, nanosec
        for _ in range(5):
            clocks.publish(strange)
            time.sleep(0.1)
        known = len(stack.statuses)
        stack.wait_for(lambda: len(stack.statuses) > known + 1)  # it lives
        if sec < 0:
            assert stack.status.counters.messages_refused > 0

        def acts() -> bool:
            now = time.monotonic_ns()
            message = Clock()
            message.clock.sec, message.clock.nanosec = divmod(now, 10**9)
            clocks.publish(message)
            time.sleep(0.02)
            stack.see(stamp_ns=now)
            return bool(stack.actions)

        stack.wait_for(acts)
    assert running.process.returncode == 0


def test_an_error_in_a_transition_is_in_the_log_and_can_be_got_over(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def planted(*_: object) -> None:
        raise RuntimeError('planted')

    with unstarted_node(lambda *_: FakePolicy(), robots=['a', 'b'], autostart=False) as (stack, _):
        namespace = stack.get_namespace()
        with robot(f'{namespace}/a') as a:
            with monkeypatch.context() as patch:
                patch.setattr(RobotPort, 'configure', planted)
                assert not stack.transition(Transition.TRANSITION_CONFIGURE)
            a.wait_for_state(State.ERROR, Reason.TRANSITION_FAILED, message='planted')
            assert stack.lifecycle_state() == 'unconfigured'
            assert stack.transition(Transition.TRANSITION_CONFIGURE)
            a.wait_for_state(State.READY)
    logged = capfd.readouterr().err
    assert 'Traceback' in logged and 'RuntimeError: planted' in logged


def test_an_error_that_can_not_be_got_over_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def planted(*_: object) -> None:
        raise RuntimeError('planted')

    with node_with(FakePolicy()) as (stack, node):
        with monkeypatch.context() as patch:
            patch.setattr(RobotPort, 'release', planted)
            assert stack.transition(Transition.TRANSITION_DEACTIVATE)
            assert not stack.transition(Transition.TRANSITION_CLEANUP)
            stack.wait_for(node.exit_code.done)
        assert node.exit_code.result() == 70
        node.exit_code = rclpy.task.Future()  # so that the fixture may close it as usual


def test_every_request_is_counted_once() -> None:
    with node_with(FakePolicy()) as (stack, _):
        before = stack.status.counters.requests_accepted + stack.status.counters.requests_refused
        for _ in range(5):
            stack.lifecycle_state()
            change_state(stack, 99)
            stack.set_parameter_of_node('instruction', 'go')
        stack.wait_for(
            lambda: (
                stack.status.counters.requests_accepted + stack.status.counters.requests_refused
                == before + 15
            )
        )
        assert refused(stack) == 5


# -- what the middleware is told ---------------------------------------------------------------


def test_listeners_can_tell_that_the_node_has_died() -> None:
    options = {'max_action_age_s': 2.5, **TWIST}
    with node_with(FakePolicy(), **options) as (stack, _):

        def offered(topic: str) -> Any:
            [info] = stack.get_publishers_info_by_topic(f'{stack.get_namespace()}/{topic}')
            return info.qos_profile

        status = offered('status')
        assert status.deadline.nanoseconds == status.liveliness_lease_duration.nanoseconds == 3e9
        assert status.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC
        assert offered('action').lifespan.nanoseconds == 2.5e9
        assert offered('twist').lifespan.nanoseconds == 1e8


def test_a_killed_node_is_told_by_its_liveliness() -> None:
    from rclpy.duration import Duration
    from rclpy.event_handler import SubscriptionEventCallbacks
    from rclpy.qos import QoSProfile

    with running_node('model:=scripted', environment=STOPPABLE) as running:
        stack = running.robot
        alive: list[int] = []
        quality = QoSProfile(
            depth=1,
            liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
            liveliness_lease_duration=Duration(seconds=3.0),
        )
        events = SubscriptionEventCallbacks(
            liveliness=lambda change: alive.append(change.alive_count)
        )
        stack.create_subscription(
            VlaStatus, 'status', lambda _: None, quality, event_callbacks=events
        )
        stack.wait_for(lambda: alive[-1:] == [1])
        running.process.send_signal(signal.SIGSTOP)  # neither alive nor gone
        stack.wait_for(lambda: alive[-1:] == [0])
        running.process.send_signal(signal.SIGCONT)
        stack.wait_for(lambda: alive[-1:] == [1])
        running.process.kill()
        stack.wait_for(lambda: alive[-1:] == [0])


def test_one_view_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    robots = ['a', 'b', 'c', 'd']
    drawn: list[int] = []  # between two looks at the time-outs
    with unstarted_node(lambda *_: FakePolicy(), robots=robots) as (_, node):
        show = OperatorViewPublisher.show_if_due
        look = node._show_one_view

        def counted(view: OperatorViewPublisher) -> bool:
            shown = show(view)
            drawn[-1] += shown
            return shown

        def looks() -> None:
            drawn.append(0)
            look()

        with another_node('viewer', node.get_namespace()) as viewer:
            heard: dict[str, int] = dict.fromkeys(robots, 0)

            def keep(name: str, _: Image) -> None:
                heard[name] += 1

            monkeypatch.setattr(OperatorViewPublisher, 'show_if_due', counted)
            monkeypatch.setattr(node, '_show_one_view', looks)
            for name in robots:
                viewer.create_subscription(
                    Image, f'{name}/debug_image', functools.partial(keep, name), 10
                )
            ends_s = time.monotonic() + 30.0
            while min(heard.values()) < 3:
                assert time.monotonic() < ends_s, heard
                time.sleep(0.01)
    assert max(drawn) == 1
