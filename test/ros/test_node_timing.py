# SPDX-License-Identifier: Apache-2.0
"""The node around a policy whose time the test decides: accounts, time-outs, quality of service.

The node runs in this process, in a thread and a ROS context of its own.
"""

from __future__ import annotations

import threading
import time

import pytest
from lifecycle_msgs.msg import Transition
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image

from support.fakes import FakePolicy, Gate, a_prediction
from support.graph import CameraThread, Robot
from support.in_process import NodeTime, node_with, sleeping, unstarted_node
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Reason, State
from vla_ros.ros.cameras import TRANSPORTS, Cameras
from vla_ros.ros.node import VlaNode
from vla_ros.ros.robot_session import RobotSession
from vla_ros.scheduling import InferenceWorker
from vla_ros.scheduling.accounts import unaccounted
from vla_ros.types import (
    Cancel,
    InferenceCancelled,
    InstructionError,
    Invalid,
    InvalidReason,
    Prediction,
    WarmupTimes,
)


class PatientCamera(CameraThread):
    """Shows an image when the node has received the one before: its queue keeps only one."""

    def __init__(self, stack: Robot, node: VlaNode) -> None:
        super().__init__(stack)
        self._received = lambda: cameras_of(node).counters.received

    def show(self) -> bool:
        return self._received() == self.shown and super().show()


def cameras_of(node: VlaNode) -> Cameras:
    assert node._configuration
    return node._configuration.sessions[0].observations.cameras


def test_every_picture_is_accounted_for() -> None:
    policy = sleeping(0.15)
    with node_with(policy, instruction='go') as (stack, node):
        with PatientCamera(stack, node) as camera:
            stack.wait_for(lambda: len(stack.actions) >= 20)
            stack.say('')
            stack.wait_for(lambda: stack.status.counters.idle >= 5)
            stack.say('go on')
            stack.wait_for(lambda: len(stack.actions) >= 25)
        # At every moment in between, and at the end.
        assert not [status for status in stack.statuses if unaccounted(status.counters)]
        stack.wait_for(lambda: stack.status.counters.received == camera.shown)
        stack.wait_for(
            lambda: stack.status.counters.in_flight == stack.status.counters.waiting == 0
        )
        status = stack.status
        assert not unaccounted(status.counters)
        assert status.counters.taken == len(policy.calls)
        assert status.counters.published == len(stack.actions)
        assert status.counters.superseded > 2 * status.counters.taken
        assert status.counters.idle >= 5
        assert (
            status.latencies.image_to_action.p95_s >= status.latencies.image_to_action.p50_s >= 0.15
        )
        assert status.latencies.inference.p50_s >= 0.15


def test_an_error_in_a_transition_gives_back_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = sleeping(0.01)
    with node_with(policy, instruction='go') as (stack, _):
        assert stack.transition(Transition.TRANSITION_DEACTIVATE)

        def planted(_: RobotSession) -> None:
            raise RuntimeError('planted')

        with monkeypatch.context() as patch:
            patch.setattr(RobotSession, 'activate', planted)
            assert not stack.transition(Transition.TRANSITION_ACTIVATE)
            stack.wait_for_state(State.ERROR, Reason.TRANSITION_FAILED)
            assert policy.closed
            assert stack.lifecycle_state() == 'unconfigured'
            # The same error when the policy of an active node is warm.
            assert stack.transition(Transition.TRANSITION_CONFIGURE)
            stack.transition(Transition.TRANSITION_ACTIVATE)
            stack.wait_for_state(State.ERROR, Reason.TRANSITION_FAILED)
            stack.wait_for(lambda: stack.lifecycle_state() == 'unconfigured')
        assert stack.transition(Transition.TRANSITION_CONFIGURE)
        stack.wait_for_state(State.READY)
        assert stack.transition(Transition.TRANSITION_ACTIVATE)
        stack.wait_until_heard()
        stack.recovers()


def test_the_newest_picture_is_the_one_that_is_acted_on() -> None:
    gate = Gate()
    limits = {'max_image_age_s': 9.0, 'inference_timeout_s': 9.0, 'max_action_age_s': 9.0}
    with node_with(FakePolicy(gate), instruction='go', **limits) as (stack, node):
        heard = cameras_of(node)
        for received in range(1, 5):
            stack.see()
            stack.wait_for(lambda count=received: heard.counters.received == count)
            assert received > 1 or gate.entered.acquire(timeout=10)
        stack.wait_for(lambda: stack.status.counters.superseded == 2)
        newest = max(stack.stamps)
        gate.open()
        gate.open()
        stack.wait_for(lambda: len(stack.actions) == 2)
        stamp = stack.actions[-1].observation_stamp
        assert (stamp.sec, stamp.nanosec) == newest


def test_a_cause_whose_text_changes_drops_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = NodeTime()
    with node_with(FakePolicy(), clock=clock, instruction='go') as (stack, node):
        clock.let_pass(Parameters().first_image_timeout_s + 1)
        stack.wait_for_state(State.HOLDING, Reason.NO_FIRST_IMAGE, 'publishers there: 1')
        resets: list[int | None] = []
        reset = InferenceWorker.reset

        def record(worker: InferenceWorker, source: int | None = None) -> None:
            resets.append(source)
            reset(worker, source)

        monkeypatch.setattr(InferenceWorker, 'reset', record)
        for publishers in (2, 3):
            stack.create_publisher(Image, stack.images.topic_name, 1)
            stack.wait_for(
                lambda count=publishers: node.count_publishers(stack.images.topic_name) == count
            )
            clock.let_pass(1.1)  # the node looks once a second
            stack.wait_for_state(
                State.HOLDING, Reason.NO_FIRST_IMAGE, f'publishers there: {publishers}'
            )
        assert not resets
        stack.say('another')
        stack.wait_for(lambda: bool(resets))


def test_an_overrun_holds_at_once_and_recovers() -> None:
    gate = Gate()
    with node_with(FakePolicy(gate), instruction='go', inference_timeout_s=0.3) as (stack, _):
        stack.see()
        gate.open()
        stack.wait_for_state(State.RUNNING)
        assert gate.entered.acquire(timeout=10)
        stack.see()
        assert gate.entered.acquire(timeout=10)
        stack.wait_for_state(State.HOLDING, 'overrun')
        stack.wait_for(lambda: stack.status.counters.overrun == 1)
        assert len(stack.actions) == 1
        stack.see()
        gate.open()
        stack.wait_for(lambda: len(stack.actions) == 2)
        stack.wait_for_state(State.RUNNING)


def test_an_action_that_is_too_old_is_not_published() -> None:
    limits = {'max_image_age_s': 5.0, 'max_action_age_s': 1.0, 'inference_timeout_s': 0.9}
    with node_with(FakePolicy(), instruction='go', **limits) as (stack, _):
        stack.see(age_s=2.0)
        stack.wait_for_state(State.HOLDING, 'max_action_age_s is 1')
        stack.wait_for(lambda: stack.status.counters.overrun == 1)
        assert not stack.actions


def test_a_new_instruction_drops_the_action_under_way() -> None:
    gate = Gate()
    policy = FakePolicy(gate)
    with node_with(policy, instruction='go left') as (stack, _):
        stack.see()
        assert gate.entered.acquire(timeout=10)
        stack.say('go right')
        stack.wait_for(lambda: stack.status.counters.cancelled == 1)
        stack.see()
        gate.open()
        stack.wait_for(lambda: len(stack.actions) == 1)
        assert stack.actions[0].instruction == 'go right'


def test_the_same_instruction_again_changes_nothing() -> None:
    gate = Gate()
    with node_with(FakePolicy(gate), instruction='go') as (stack, _):
        stack.see()
        assert gate.entered.acquire(timeout=10)
        stack.say('go')
        time.sleep(0.2)
        gate.open()
        stack.wait_for(lambda: len(stack.actions) == 1)
        stack.wait_for_state(State.RUNNING)
        assert stack.status.counters.cancelled == 0


def test_an_invalid_action_holds() -> None:
    answers = [a_prediction(invalid=InvalidReason(Invalid.TOKEN, 2, 1234)), a_prediction()]
    with node_with(FakePolicy(lambda cancel: answers.pop(0)), instruction='go') as (stack, _):
        stack.see()
        stack.wait_for_state(State.HOLDING, 'token 1234 at step 2')
        assert not stack.actions
        stack.see()
        stack.wait_for_state(State.RUNNING)
        assert (stack.status.counters.invalid, stack.status.counters.published) == (1, 1)


def test_a_policy_that_raises_holds() -> None:
    failures = [RuntimeError('out of memory')]

    def act(cancel: Cancel) -> Prediction:
        if failures:
            raise failures.pop()
        return a_prediction()

    with node_with(FakePolicy(act), instruction='go') as (stack, _):
        stack.see()
        stack.wait_for_state(State.HOLDING, 'out of memory')
        assert stack.status.counters.failed == 1
        stack.see()
        stack.wait_for_state(State.RUNNING)


def test_a_picture_that_does_not_fit_into_memory_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def to_rgb(message: object) -> None:
        raise MemoryError('no room for 200 MB')

    raw = TRANSPORTS['raw']._replace(to_rgb=to_rgb)
    monkeypatch.setitem(TRANSPORTS, 'raw', raw)
    with node_with(FakePolicy(), instruction='go') as (stack, _):
        stack.see()
        stack.wait_for_state(State.HOLDING, 'image rejected: no room for 200 MB')
        assert stack.status.counters.rejected == 1


def test_a_person_who_takes_over_is_not_overridden_by_autostart() -> None:
    proceed = threading.Event()

    class Patient(FakePolicy):
        def warmup(self, progress: object = None, cancel: Cancel | None = None) -> WarmupTimes:
            while not proceed.wait(0.005):
                if cancel is not None and cancel.is_set():
                    raise InferenceCancelled
            return WarmupTimes(0.0, 0.0, 0.0)

    with unstarted_node(lambda *_: Patient(), instruction='go') as (stack, node):
        stack.wait_for_state(State.WARMING_UP)
        assert stack.transition(Transition.TRANSITION_DEACTIVATE)
        assert stack.transition(Transition.TRANSITION_CLEANUP)
        stack.wait_for_state(State.UNCONFIGURED)
        assert stack.transition(Transition.TRANSITION_CONFIGURE)
        proceed.set()
        stack.wait_for_state(State.READY)
        time.sleep(0.2)
        assert stack.lifecycle_state() == 'inactive'
        assert stack.transition(Transition.TRANSITION_ACTIVATE)
        stack.wait_for_state(State.HOLDING)
        assert not node.exit_code.done()


def test_an_error_about_the_last_instruction_does_not_end_the_new_one() -> None:
    gate = Gate(listens_to_cancel=False)
    asked: list[str] = []

    def act(cancel: Cancel) -> Prediction:
        asked.append('')
        if len(asked) == 1:
            gate(cancel)
            raise InstructionError('too many tokens')
        return a_prediction()

    with node_with(FakePolicy(act), instruction='first') as (stack, _):
        stack.see()
        assert gate.entered.acquire(timeout=10)
        stack.say('second')
        stack.wait_for(lambda: stack.status.instruction == 'second')
        gate.open()
        stack.wait_for(lambda: stack.status.counters.cancelled == 1)
        stack.see()
        stack.wait_for(lambda: len(stack.actions) == 1)
        assert stack.status.instruction == 'second'
        assert stack.actions[0].instruction == 'second'


def test_two_bad_parameters_can_be_mended_one_by_one() -> None:
    bad = {'image_transport': 'smoke', 'image_reliability': 'perhaps'}
    with unstarted_node(lambda *_: FakePolicy(), **bad) as (stack, _):
        stack.wait_for_state(State.ERROR, "'smoke'")
        assert stack.set_parameter_of_node('image_transport', 'raw').successful
        assert not stack.set_parameter_of_node('image_reliability', 'maybe').successful
        assert stack.set_parameter_of_node('image_reliability', 'auto').successful
        assert stack.transition(Transition.TRANSITION_CONFIGURE)
        stack.wait_for_state(State.READY)


@pytest.mark.parametrize('reliable', [True, False])
def test_the_subscription_follows_the_publisher(reliable: bool) -> None:
    wanted = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    with node_with(FakePolicy(), reliable=reliable, instruction='go') as (stack, _):
        topic = stack.images.topic_name

        def offer() -> list[ReliabilityPolicy]:
            infos = stack.get_subscriptions_info_by_topic(topic)
            return [info.qos_profile.reliability for info in infos]

        stack.wait_for(lambda: offer() == [wanted])
        stack.see()
        stack.wait_for(lambda: len(stack.actions) == 1)


def test_several_nodes_live_in_namespaces() -> None:
    with (
        node_with(FakePolicy(), instruction='go') as (left, _),
        node_with(FakePolicy(), instruction='go') as (right, _),
    ):
        left.see()
        left.wait_for(lambda: len(left.actions) == 1)
        time.sleep(0.2)
        assert not right.actions
