# SPDX-License-Identifier: Apache-2.0
"""The client against a node that does as the test says, in one thread, by a manual clock."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from vla_ros.client import Answer, ReceivedAction, RobotSide, VlaClient
from vla_ros.client.lease import Lease
from vla_ros.clock import ManualClock
from vla_ros.graph.executor import spinning
from vla_ros.graph.qos import latched
from vla_ros.graph.stamps import from_time, to_time
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.reasons import Reason, State
from vla_ros.types import InstructionError

_namespaces = (f'/client_{number}' for number in itertools.count())
IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


class FakeVla:
    """The topics and services of a node ``vla``; ``obeys`` says what it does with instructions."""

    def __init__(self, node: Node, prefix: str = '') -> None:
        self.node = node
        self.status = VlaStatus(
            state=State.HOLDING, reason=Reason.NO_INSTRUCTION, message='HOLDING'
        )
        self.said: list[str] = []
        self.obeys: Callable[[str], object] = self.obey
        self.refusal = ''
        self._statuses = node.create_publisher(VlaStatus, f'{prefix}status', latched())
        self._actions = node.create_publisher(VlaAction, f'{prefix}action', 10)
        node.create_subscription(String, f'{prefix}instruction', self._on_instruction, 10)
        node.create_service(Trigger, f'vla/{prefix}stop', self._on_stop)
        node.create_service(Trigger, f'vla/{prefix}reset', self._on_reset)
        node.create_service(SetBool, f'vla/{prefix}enable', self._on_enable)

    def tell(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.status, name, value)
        self._statuses.publish(self.status)

    def obey(self, instruction: str) -> None:
        self.tell(state=State.RUNNING, reason=Reason.NONE, instruction=instruction)

    def act(self, stamp_ns: int = 7, rows: int = 1, **changes: Any) -> None:
        action = VlaAction(
            names=['x', 'y'],
            horizon=rows,
            actions=np.arange(2.0 * rows).tolist(),
            action=[0.0, 1.0],
        )
        action.observation_stamp = to_time(stamp_ns)
        for name, value in changes.items():
            setattr(action, name, value)
        self._actions.publish(action)

    def _on_instruction(self, message: String) -> None:
        self.said.append(message.data)
        self.obeys(message.data)

    def _on_stop(self, _: Any, response: Any) -> Any:
        return self._switched(response, state=State.HOLDING, reason=Reason.STOPPED)

    def _on_reset(self, _: Any, response: Any) -> Any:
        return self._switched(response, reason=Reason.DISABLED)

    def _on_enable(self, request: Any, response: Any) -> Any:
        return self._switched(response, reason=Reason.NONE if request.data else Reason.DISABLED)

    def _switched(self, response: Any, **changes: Any) -> Any:
        response.success, response.message = not self.refusal, self.refusal or 'done\x07'
        if response.success:
            self.tell(**changes)
        return response


@contextlib.contextmanager
def graph() -> Iterator[Node]:
    """A node that is both sides: what one of them publishes, the other hears."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node('both', context=context, namespace=next(_namespaces))
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.fixture
def both() -> Iterator[tuple[FakeVla, VlaClient, ManualClock]]:
    """A fake node, its client, and the client's clock, which moves when the test says so."""
    clock = ManualClock()
    with graph() as node:
        vla = FakeVla(node)
        with contextlib.closing(VlaClient(node=node, clock=clock)) as client:
            yield vla, client, clock


def passing(vla: FakeVla, clock: ManualClock) -> None:
    """Time goes on while the client waits: half a second, again and again."""
    vla.node.create_timer(0.01, lambda: clock.advance(0.5))


Both = tuple[FakeVla, VlaClient, ManualClock]


def test_a_state_is_waited_for(both: Both) -> None:
    vla, client, _ = both
    assert client.status is None and client.latest.state == State.UNKNOWN
    vla.tell(message='HOLDING: no instruction\x1b[2J')
    answer = client.wait_for(State.HOLDING, State.RUNNING, timeout_s=20.0)
    assert answer == Answer(
        True, State.HOLDING, Reason.NO_INSTRUCTION, 'HOLDING: no instruction\\x1b[2J'
    )
    assert isinstance(answer.reason, Reason)


def test_an_error_ends_a_wait(both: Both) -> None:
    vla, client, _ = both
    vla.tell(state=State.ERROR, reason=Reason.LOADING_FAILED, message='ERROR: no such folder')
    vla.obeys = lambda text: vla.tell()
    for answer in (client.wait_for(State.HOLDING, timeout_s=20.0), client.instruct('go')):
        assert answer == Answer(False, State.ERROR, Reason.LOADING_FAILED, 'ERROR: no such folder')
    assert client.next_action(20.0) is None


def test_numbers_of_a_later_version_stay_numbers(both: Both) -> None:
    vla, client, _ = both
    vla.tell(state=200, reason=201)
    assert client.next_status(20.0) is not None
    answer = client.wait_for(State.HOLDING, timeout_s=0.0)
    assert (answer.ok, answer.state, answer.reason) == (False, State.UNKNOWN, 201)


def test_nothing_is_heard(both: Both) -> None:
    vla, client, clock = both
    passing(vla, clock)
    answer = client.wait_for(State.HOLDING, timeout_s=30.0)
    assert (answer.ok, answer.state) == (False, State.UNKNOWN)
    topic = f'{vla.node.get_namespace()}/status'
    assert answer.message.startswith(f'not within 30 s; nothing was heard on {topic}: ')
    assert client.instruct('go', 5.0).message.startswith('not within 5 s; nothing was heard')
    assert vla.said == []
    assert client.next_status(5.0) is None and client.next_action(5.0) is None
    assert clock.monotonic_s() >= 45.0


def test_it_instructs(both: Both) -> None:
    vla, client, _ = both
    vla.tell()
    assert client.instruct('pick up the cup') == Answer(True, State.RUNNING, Reason.NONE, 'HOLDING')
    assert set(vla.said) == {'pick up the cup'}
    assert client.is_in_force('pick up the cup') and not client.is_in_force('')
    assert client.instruct('').ok and client.is_in_force('') and client.is_in_force(' ')


def test_an_instruction_is_said_until_the_node_shows_it(both: Both) -> None:
    vla, client, clock = both
    vla.tell()
    passing(vla, clock)
    vla.obeys = lambda text: vla.obey(text) if len(vla.said) == 3 else None
    assert client.instruct('go', 60.0).ok
    assert vla.said[:3] == ['go'] * 3


def test_a_status_from_before_tells_nothing_of_an_instruction(both: Both) -> None:
    """The node may have dropped the instruction since; only a new status shows that."""
    vla, client, clock = both
    vla.tell(instruction='go', state=State.RUNNING)
    assert client.next_status(20.0) is not None
    vla.obeys = lambda text: None
    passing(vla, clock)
    answer = client.instruct('go', 20.0)
    assert not answer.ok and answer.message.startswith('not within 20 s; the last status was')


def test_an_instruction_that_is_rejected(both: Both) -> None:
    vla, client, _ = both

    def reject(text: str) -> None:
        vla.status.counters.instructions_rejected += 1
        vla.tell(reason=Reason.INSTRUCTION_REJECTED, message="HOLDING: special token '</s>'")

    vla.tell()
    vla.obeys = reject
    assert client.instruct('a </s> b') == Answer(
        False, State.HOLDING, Reason.INSTRUCTION_REJECTED, "HOLDING: special token '</s>'"
    )


@pytest.mark.parametrize('text', ['pick\0 nothing', 'pick\ud800'])
def test_an_instruction_that_a_message_would_cut_off_is_not_said(both: Both, text: str) -> None:
    vla, client, _ = both
    vla.tell()
    for act in (client.say, client.instruct, lambda one: client.start(one, 1.0)):
        with pytest.raises(InstructionError):
            act(text)


def heard(client: VlaClient, act: Callable[[], object]) -> ReceivedAction:
    """The action that the node publishes now."""
    client.repeat_until(act, lambda: client.newest is not None, 20.0)
    assert client.newest is not None
    return client.newest


def test_an_action_is_returned_once(both: Both) -> None:
    vla, client, clock = both
    vla.tell()
    clock.advance(3.0)
    vla.act(stamp_ns=12, rows=3, unnorm_key='a\x1bb')
    received = client.next_action(20.0)
    assert received is not None
    assert received.actions.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert received.action.tolist() == [0.0, 1.0]
    assert (received.stamp_ns, received.arrived_s) == (12, 3.0)
    assert received.message.unnorm_key == 'a\\x1bb'
    passing(vla, clock)
    assert client.next_action(5.0) is None


def test_an_action_of_one_observation(both: Both) -> None:
    vla, client, clock = both
    for stamp_ns in (1, 2, 3):
        vla.act(stamp_ns)
        heard(client, lambda: None)
    found = client.next_action(20.0, of_stamp_ns=3)
    assert found is not None and found.stamp_ns == 3
    passing(vla, clock)
    assert client.next_action(5.0, of_stamp_ns=2) is None


def test_an_action_of_another_size_is_dropped_and_counted(both: Both) -> None:
    vla, client, clock = both
    passing(vla, clock)
    vla.act(horizon=2)
    vla.act(actions=[])
    assert client.wait_until(lambda: client.malformed > 0, 1000.0)
    assert client.newest is None and client.next_action(5.0) is None


def test_the_operator_s_switches(both: Both) -> None:
    vla, client, _ = both
    vla.tell()
    assert client.stop() == Answer(True, State.HOLDING, Reason.STOPPED, 'done\\x07')
    assert client.reset().reason is Reason.DISABLED
    assert client.enable().reason is Reason.NONE
    assert client.enable(False).reason is Reason.DISABLED
    vla.refusal = 'nothing is enabled: stopped by ~/stop'
    answer = client.enable()
    assert (answer.ok, answer.message) == (False, 'nothing is enabled: stopped by ~/stop')


def test_a_service_that_is_not_there() -> None:
    clock = ManualClock()
    with graph() as node, contextlib.closing(VlaClient(node=node, clock=clock)) as client:
        node.create_timer(0.01, lambda: clock.advance(0.5))
        answer = client.stop()
    assert not answer.ok
    assert answer.message.startswith('stop: no answer within 10 s; nothing was heard on ')


def test_a_wait_in_vain_is_ended_by_the_caller(both: Both) -> None:
    _, client, _ = both
    client.check = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        client.wait_for(State.HOLDING, timeout_s=1000.0)


def test_a_client_that_only_listens_is_no_source_of_instructions(both: Both) -> None:
    vla, client, _ = both
    vla.tell()
    client.wait_for(State.HOLDING, timeout_s=20.0)
    assert vla.node.count_publishers('instruction') == 0


def test_a_robot_of_several_in_another_namespace() -> None:
    with graph() as node:
        vla = FakeVla(node, 'left/')
        elsewhere = Node('elsewhere', context=node.context)
        client = VlaClient(node.get_namespace(), 'left', node=elsewhere, threaded=True)
        with contextlib.closing(client), contextlib.closing(VlaClient(node=node)) as own:
            assert client.topic('status') == f'{node.get_namespace()}/left/status'
            vla.tell(robot='left')
            own.wait_until(lambda: client.status is not None, 20.0)
            assert client.latest.robot == 'left'
        elsewhere.destroy_node()


def test_a_client_with_a_thread_and_a_node_of_its_own() -> None:
    rclpy.init()
    try:
        namespace = next(_namespaces)
        fake = Node('fake', namespace=namespace)
        vla = FakeVla(fake)
        with (
            contextlib.closing(VlaClient(node=fake, threaded=True)),
            contextlib.closing(VlaClient(namespace, threaded=True)) as client,
        ):
            vla.tell()
            assert client.instruct('go').ok
            vla.act(5)
            assert client.next_action(20.0) is not None
            assert client.stop().reason is Reason.STOPPED
        fake.destroy_node()
    finally:
        rclpy.shutdown()


def test_a_node_stays_with_the_executor_that_has_it() -> None:
    """The client only waits then: the timers of the node go on between its calls."""
    with graph() as node:
        vla = FakeVla(node)
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        with spinning(executor, 'caller'), contextlib.closing(VlaClient(node=node)) as client:
            threads: set[str] = set()
            client.on_status = lambda _: threads.add(threading.current_thread().name)
            vla.tell()
            assert client.wait_for(State.HOLDING, timeout_s=20.0).ok
            assert client.stop().ok
            assert node.executor is executor and threads == {'caller'}


def test_a_lease_is_over_when_a_later_status_says_so(both: Both) -> None:
    vla, client, clock = both
    lease = Lease(client, 'go')
    vla.tell()
    client.repeat_until(lease.renew, lambda: lease.is_in_force, 20.0)
    assert lease.is_in_force
    assert lease.take_back()
    assert vla.said[-1] == '' and not lease.is_in_force
    vla.obeys = lambda text: None
    vla.tell(instruction='go')
    client.wait_until(lambda: lease.is_in_force, 20.0)
    passing(vla, clock)
    assert not lease.take_back()


@pytest.mark.parametrize('cameras', [('image',), ('front', 'wrist')])
def test_a_robot_shows_images_and_its_state(cameras: tuple[str, ...]) -> None:
    with graph() as node:
        got = SimpleNamespace(raw={}, compressed={}, states=[])
        for name in cameras:
            topic = 'image' if len(cameras) == 1 else f'{name}/image'
            keep = lambda message, name=name: got.raw.update({name: message})  # noqa: E731
            node.create_subscription(Image, topic, keep, 1)
        compressed = lambda message: got.compressed.update({cameras[0]: message})  # noqa: E731
        node.create_subscription(CompressedImage, f'{topic}/compressed', compressed, 1)
        node.create_subscription(JointState, 'state', got.states.append, 1)
        with contextlib.closing(RobotSide(cameras=cameras, node=node)) as side:
            side.repeat_until(
                lambda: side.show(dict.fromkeys(cameras, IMAGE), 1_500_000_000, np.arange(3.0)),
                lambda: bool(len(got.raw) == len(cameras) and got.compressed and got.states),
                20.0,
            )
            assert len(side.subscribed()) == len(cameras) + 1
        assert set(got.raw) == set(cameras)
        for message in got.raw.values():
            assert bytes(message.data) == IMAGE.tobytes()
            assert from_time(message.header.stamp) == 1_500_000_000
        assert got.states[0].position.tolist() == [0.0, 1.0, 2.0]
