# SPDX-License-Identifier: Apache-2.0
"""Parameters of a running node: what changes at once, together, or only with another policy."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, SetParametersResult
from rcl_interfaces.srv import GetParameters, ListParameters, SetParametersAtomically
from rclpy.parameter import Parameter

from support.fakes import FakePolicy
from support.graph import CameraThread, Robot, noise, running_node
from support.in_process import NodeTime, node_with, unstarted_node
from support.places import ROOT
from support.servo import PATIENT, Servo, moving_node, seconds, written
from vla_ros.parameters.definition import DEFINITIONS, Parameters
from vla_ros.reasons import Reason, State
from vla_ros.ros.node import VlaNode
from vla_ros.types import Cancel, InferenceCancelled, Prediction


@pytest.fixture
def fake() -> Iterator[tuple[Robot, VlaNode]]:
    with node_with(FakePolicy(), instruction='go') as (stack, node):
        yield stack, node


def set_together(stack: Robot, **values: object) -> SetParametersResult:
    return set_in_turn(stack, *values.items())


def set_in_turn(stack: Robot, *pairs: tuple[str, object]) -> SetParametersResult:
    messages = [Parameter(name, value=value).to_parameter_msg() for name, value in pairs]
    request = SetParametersAtomically.Request(parameters=messages)
    return stack.ask(SetParametersAtomically, 'vla/set_parameters_atomically', request).result


def value_of(stack: Robot, name: str) -> float:
    return float(stack.get_parameter_of_node(name).double_value)


def check_dump(stack: Robot) -> None:
    """As ``ros2 param dump`` asks: for all names in one request."""
    listed = stack.ask(ListParameters, 'vla/list_parameters', ListParameters.Request())
    names = list(listed.result.names)
    assert set(DEFINITIONS) <= set(names)
    request = GetParameters.Request(names=names)
    values = stack.ask(GetParameters, 'vla/get_parameters', request).values
    assert len(values) == len(names)
    assert ParameterType.PARAMETER_NOT_SET not in {value.type for value in values}
    told = dict(zip(names, values, strict=True))
    dumped = Parameter.from_parameter_msg(ParameterMessage(name='robots', value=told['robots']))
    assert Parameters(robots=tuple(dumped.value)).robot_names == ('',)  # also when it is loaded


def test_a_dump_of_all_parameters_is_whole(fake: tuple[Robot, VlaNode]) -> None:
    check_dump(fake[0])


def test_a_dump_of_a_node_with_the_shipped_file_is_whole() -> None:
    """Launch passes it; its ``robots: []`` reaches the node as a parameter without a value."""
    shipped = ('--params-file', str(ROOT / 'config' / 'vla.yaml'))
    with running_node('model:=scripted', arguments=shipped) as running:
        running.robot.wait_for_state(State.HOLDING)
        check_dump(running.robot)


def test_a_limit_is_checked_with_the_others_and_set_together(fake: tuple[Robot, VlaNode]) -> None:
    stack, _ = fake
    refused = stack.set_parameter_of_node('inference_timeout_s', 3.0)
    assert not refused.successful
    assert 'inference_timeout_s is 3, above max_action_age_s, 1.5' in refused.reason
    together = {'inference_timeout_s': 3.0, 'max_action_age_s': 4.0}
    assert not set_together(stack, **together, max_image_age_s=-1.0).successful
    assert not set_together(stack, **together, device='cuda').successful
    assert value_of(stack, 'max_action_age_s') == 1.5
    assert set_together(stack, **together).successful
    assert value_of(stack, 'inference_timeout_s') == 3.0
    stack.recovers()
    action = stack.actions[-1]
    assert seconds(action.valid_until) - seconds(action.observation_stamp) == pytest.approx(4.0)


def test_a_name_that_comes_twice_is_checked_twice(fake: tuple[Robot, VlaNode]) -> None:
    stack, _ = fake
    wrong, right = ('image_transport', 'theora'), ('image_transport', 'compressed')
    refused = set_in_turn(stack, wrong, right)
    assert not refused.successful and 'theora' in refused.reason
    assert not set_in_turn(stack, ('instruction', 'go\nnow'), ('instruction', 'go')).successful
    assert set_in_turn(stack, ('image_timeout_s', 3.0), ('image_timeout_s', 2.5)).successful
    assert value_of(stack, 'image_timeout_s') == 2.5


def test_what_needs_the_policy_says_what_to_do(fake: tuple[Robot, VlaNode]) -> None:
    stack, _ = fake
    for name in ('model', 'motion'):
        refused = stack.set_parameter_of_node(name, 'none')
        assert not refused.successful
        assert name in refused.reason
        assert 'unconfigured' in refused.reason
        assert refused.reason.endswith(': deactivate, clean up, set, configure')
    assert not stack.set_parameter_of_node('robots', 'x').successful


def test_time_outs_take_effect_at_once() -> None:
    clock = NodeTime()
    limits = {'image_timeout_s': 3600.0, 'no_instruction_timeout_s': 3600.0}
    with node_with(FakePolicy(), clock=clock, instruction='go', **limits) as (stack, _):
        stack.see(noise(), stamp_ns=clock.now_ns())
        stack.wait_for_state(State.RUNNING)
        clock.let_pass(3.0)
        assert stack.status.state == State.RUNNING
        assert stack.set_parameter_of_node('image_timeout_s', 2.5).successful
        stack.wait_for_state(State.HOLDING, Reason.IMAGE_TIMEOUT, 'image_timeout_s, 2.5 s')
        assert stack.set_parameter_of_node('max_instruction_age_s', 1.0).successful
        stack.wait_for_state(State.HOLDING, Reason.INSTRUCTION_EXPIRED)


def test_a_running_inference_has_the_new_limit() -> None:
    def act(cancel: Cancel) -> Prediction:
        assert cancel.wait(60.0)
        raise InferenceCancelled

    patient = {'inference_timeout_s': 600.0, 'max_action_age_s': 600.0}
    with node_with(FakePolicy(act), instruction='go', **patient) as (stack, _):
        stack.see(noise())
        stack.wait_for(lambda: stack.status.counters.in_flight == 1)
        assert stack.set_parameter_of_node('inference_timeout_s', 0.1).successful
        stack.wait_for_state(State.HOLDING, Reason.INFERENCE_OVERRUN)


def test_no_action_is_lost_when_the_topic_gets_a_new_publisher(
    fake: tuple[Robot, VlaNode],
) -> None:
    stack, node = fake
    topic = f'{node.get_namespace()}/action'
    with CameraThread(stack):
        for age_s in (2.0, 3.0, 2.5, 1.5):
            assert stack.set_parameter_of_node('max_action_age_s', age_s).successful
            # It is used, and alone, when the lifespan is the new one.
            stack.wait_for(
                lambda age_s=age_s: (
                    [
                        info.qos_profile.lifespan.nanoseconds / 1e9
                        for info in node.get_publishers_info_by_topic(topic)
                    ]
                    == [age_s]
                )
            )
            count = len(stack.actions)
            stack.wait_for(lambda count=count: len(stack.actions) > count + 3)
        assert Reason.SECOND_PUBLISHER not in {status.reason for status in stack.statuses}
    sequences = [action.sequence for action in stack.actions]
    assert sequences == list(range(1, len(sequences) + 1))


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[tuple[Robot, Servo, Path]]:
    """It moves faster than 0.001 m/s all the time."""
    contracts = written(tmp_path, metres_per_unit=1.0)
    with moving_node(contracts, 'model:=scripted:slow=0.05', *PATIENT) as (running, servo):
        stack = running.robot
        with CameraThread(stack):
            stack.say('go')
            stack.wait_for(lambda: is_fast(servo))
            yield stack, servo, contracts
    assert running.process.returncode == 0


def is_fast(servo: Servo) -> bool:
    return bool(servo.heard) and float(np.linalg.norm(servo.heard[-1][1][:3])) > 0.002


def test_a_lower_speed_holds_from_the_next_tick_on(arm: tuple[Robot, Servo, Path]) -> None:
    stack, servo, _ = arm
    assert stack.set_parameter_of_node('max_linear_speed_m_s', 0.001).successful
    set_s = stack.get_clock().now().nanoseconds / 1e9
    stack.wait_for(lambda: len(servo.within(set_s, math.inf)[0]) > 50)
    speeds = np.linalg.norm(servo.within(set_s, math.inf)[1][:, :3], axis=1)
    assert 0.0005 < speeds.max() <= 0.001
    assert stack.set_parameter_of_node('max_linear_speed_m_s', 0.25).successful
    stack.wait_for(lambda: is_fast(servo))


def test_another_frame_and_other_contracts_of_a_robot_that_moves(
    arm: tuple[Robot, Servo, Path],
) -> None:
    stack, servo, contracts = arm
    assert stack.set_parameter_of_node('frame_id', 'tool').successful
    stack.wait_for(lambda: 'tool' in servo.frames and stack.actions[-1].header.frame_id == 'tool')
    assert not stack.set_parameter_of_node('frame_id', '').successful  # a twist needs one

    contracts.write_text('scripted: nonsense')
    refused = stack.set_parameter_of_node('contracts', str(contracts))
    assert not refused.successful and 'scripted' in refused.reason
    stack.wait_for(lambda: is_fast(servo))
    assert stack.set_parameter_of_node('contracts', '').successful
    stack.wait_for(lambda: stack.status.motion.reason == Reason.MOTION_NO_CONTRACT)
    stack.wait_for(lambda: not servo.moves)
    written(contracts.parent, metres_per_unit=1.0)
    assert stack.set_parameter_of_node('contracts', str(contracts)).successful
    stack.wait_for(lambda: is_fast(servo) and not stack.status.motion.reason)


def test_a_motion_that_needs_a_pose_from_now_on(arm: tuple[Robot, Servo, Path]) -> None:
    stack, servo, _ = arm
    needs = (('workspace_m', '-1, 1, -1, 1, -1, 1', ''), ('chunk_timing', 'from_pose', 'timed'))
    for name, value, before in needs:
        assert stack.set_parameter_of_node(name, value).successful
        set_s = stack.get_clock().now().nanoseconds / 1e9
        stack.wait_for(lambda: stack.status.motion.reason == Reason.MOTION_NO_POSE)
        assert not servo.within(set_s, math.inf)[1].any()
        assert stack.set_parameter_of_node(name, before).successful
        stack.wait_for(lambda: is_fast(servo))
    refused = stack.set_parameter_of_node('workspace_m', '1, -1, 0, 0, 0, 0')
    assert not refused.successful and 'workspace_m' in refused.reason
    assert stack.set_parameter_of_node('control_rate_hz', 20.0).successful
    set_s = stack.get_clock().now().nanoseconds / 1e9
    stack.wait_for(lambda: len(servo.within(set_s, math.inf)[0]) > 20)
    assert np.median(np.diff(servo.within(set_s, math.inf)[0])) > 0.04


def test_contracts_that_the_policy_was_loaded_with(tmp_path: Path) -> None:
    """How images are cropped is the policy's: it would have to be loaded again."""
    contracts = written(tmp_path)
    parameters: dict[str, Callable[[], str] | str] = {'contracts': str(contracts)}
    policy = FakePolicy()
    with node_with(policy, preprocessing='training', unnorm_key='scripted', **parameters) as (
        stack,
        _,
    ):
        written(tmp_path, center_crop=True)
        refused = stack.set_parameter_of_node('contracts', str(contracts))
        assert not refused.successful
        assert 'another center_crop' in refused.reason and 'clean up' in refused.reason
        written(tmp_path, max_linear_m_s=0.1)
        assert stack.set_parameter_of_node('contracts', str(contracts)).successful


def test_contracts_are_set_while_the_policy_loads(tmp_path: Path) -> None:
    """What the policy cannot be asked yet counts for every data set."""
    may_load = threading.Event()

    def load(*_: object) -> FakePolicy:
        assert may_load.wait(30.0)
        return FakePolicy()

    own = {'contracts': str(written(tmp_path)), 'preprocessing': 'training', 'instruction': 'go'}
    with unstarted_node(load, **own, motion='twist', frame_id='base') as (stack, _):
        stack.wait_for_state(State.LOADING)
        other = tmp_path / 'other'
        other.mkdir()
        refused = stack.set_parameter_of_node('contracts', str(written(other, center_crop=True)))
        assert not refused.successful
        assert "of 'scripted' has another center_crop" in refused.reason
        named = written(other).read_text()
        (other / 'contracts.yaml').write_text(named + named.replace('scripted:', 'fake:'))
        assert stack.set_parameter_of_node('contracts', str(other / 'contracts.yaml')).successful
        may_load.set()
        with CameraThread(stack):
            stack.wait_for(lambda: stack.status.counters.motions > 0)


def test_another_transport_of_images() -> None:
    with node_with(FakePolicy(), instruction='go') as (stack, _), CameraThread(stack):
        stack.recovers()
        assert stack.set_parameter_of_node('image_transport', 'compressed').successful
        stack.wait_for_state(State.HOLDING, Reason.NO_IMAGE_YET, 'image/compressed')
        assert stack.set_parameter_of_node('image_transport', 'raw').successful
        stack.recovers()
