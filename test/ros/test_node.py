# SPDX-License-Identifier: Apache-2.0
"""The node in its own process with a tiny OpenVLA, spoken to as a robot's stack does."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from PIL import Image as PilImage
from sensor_msgs.msg import CompressedImage

from support.graph import FRESH, PICTURE, Robot, Running, image_message, running_node
from support.in_process import unstarted_node
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.reasons import State
from vla_ros.ros.loading import load_policy

GENEROUS = (
    'inference_timeout_s:=20.0',
    'max_action_age_s:=20.0',
    'max_image_age_s:=5.0',
    'frozen_image_timeout_s:=0.0',
)


@pytest.fixture(scope='module')
def running(tiny_checkpoint: Path) -> Iterator[Running]:
    """One node for the tests that leave it as it was: active, without an instruction."""
    parameters = [f'model:={tiny_checkpoint}', 'device:=cpu', 'dtype:=float32', *GENEROUS]
    with running_node(*parameters, 'image_timeout_s:=3600.0', 'frame_id:=gripper') as running:
        running.robot.wait_for_state(State.HOLDING)
        running.robot.wait_until_heard()
        yield running
    assert running.process.returncode == 0


@pytest.fixture
def stack(running: Running) -> Iterator[Robot]:
    assert running.process.poll() is None
    running.robot.actions.clear()
    yield running.robot
    assert running.process.poll() is None
    running.robot.say('')
    running.robot.wait_for_state(State.HOLDING, 'no instruction')


def test_an_action_is_what_the_policy_says(stack: Robot, tiny_checkpoint: Path) -> None:
    stack.say('Pick up the red cup')
    stack.wait_for_state(State.HOLDING, '/image')
    stack.see()
    stack.wait_for(lambda: len(stack.actions) == 1)
    status = stack.wait_for_state(State.RUNNING)
    [action] = stack.actions
    policy = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', dtype='float32')
    expected = policy.predict_action(PICTURE, 'Pick up the red cup')
    assert list(action.action) == expected.action.tolist()
    assert (action.horizon, list(action.actions)) == (1, expected.actions[0].tolist())
    np.testing.assert_allclose(action.token_probabilities, expected.tokens.probabilities, atol=1e-5)
    assert action.unnorm_key == 'random'
    assert action.instruction == 'Pick up the red cup'
    assert action.header.frame_id == 'gripper'
    assert (action.observation_stamp.sec, action.observation_stamp.nanosec) in stack.stamps
    assert (status.policy.device, status.policy.dtype, status.policy.quantization) == (
        'cpu',
        'float32',
        'none',
    )
    assert status.policy.model == str(tiny_checkpoint)


def test_the_action_before_is_the_draft_of_the_next(stack: Robot) -> None:
    before = stack.statuses[-1]  # other tests' actions have been counted
    stack.say('Pick up the red cup')

    def acted() -> bool:
        stack.see()  # always the same picture, so the same action
        return len(stack.actions) >= 3

    stack.wait_for(acted)
    assert len({tuple(action.action) for action in stack.actions}) == 1
    stack.wait_for(lambda: stack.statuses[-1].counters.published >= before.counters.published + 3)
    status = stack.statuses[-1]
    # The first action after a new instruction has no draft.
    drafted = 6 * (status.counters.published - before.counters.published - 1)
    assert (
        status.counters.drafted - before.counters.drafted
        == status.counters.accepted - before.counters.accepted
        == drafted
    )


def test_the_times_of_an_action_fit_together(stack: Robot) -> None:
    stack.instruct('open the drawer')
    stack.see()
    stack.wait_for(lambda: len(stack.actions) == 1)
    action = stack.actions[0]

    def seconds(time_or_duration: object) -> float:
        return time_or_duration.sec + time_or_duration.nanosec / 1e9

    captured, published = seconds(action.observation_stamp), seconds(action.header.stamp)
    assert seconds(action.latency) == pytest.approx(published - captured, abs=1e-6)
    assert 0 < seconds(action.inference_time) < seconds(action.latency)
    assert seconds(action.valid_until) == pytest.approx(captured + 20.0, abs=1e-6)


def test_a_picture_of_a_clock_that_is_ahead_has_no_latency(stack: Robot) -> None:
    stack.instruct('open the drawer')
    stack.see(age_s=-0.09)
    stack.wait_for(lambda: len(stack.actions) == 1)
    latency = stack.actions[0].latency
    assert latency.sec >= 0, 'it is negative by a part of a second'
    time.sleep(0.1)  # the next picture must be newer than this one


def test_sequence_counts_what_was_published(stack: Robot) -> None:
    stack.say('open the drawer')
    for count in range(1, 4):
        stack.see()
        stack.wait_for(lambda count=count: len(stack.actions) == count)
    numbers = [action.sequence for action in stack.actions]
    assert numbers == list(range(numbers[0], numbers[0] + 3))


def test_an_empty_instruction_holds(stack: Robot) -> None:
    stack.instruct('open the drawer')
    stack.see()
    stack.wait_for(lambda: len(stack.actions) == 1)
    stack.say('')
    stack.wait_for_state(State.HOLDING, 'no instruction on')
    idle = stack.status.counters.idle
    stack.see()
    stack.wait_for(lambda: stack.status.counters.idle == idle + 1)
    assert len(stack.actions) == 1


@pytest.mark.parametrize(
    ('instruction', 'why'),
    [
        ('x' * 10_000, '10000 characters, at most 500'),
        ('pick\x07up', r"control character '\x07'"),
        ('stop </s>', "special token '</s>'"),
        ('漢字' * 200, 'tokens, at most 112 are allowed'),
    ],
)
def test_a_bad_instruction_holds_and_is_counted(stack: Robot, instruction: str, why: str) -> None:
    stack.instruct('open the drawer')
    stack.see()
    stack.wait_for(lambda: len(stack.actions) == 1)
    rejected = stack.status.counters.instructions_rejected
    stack.say(instruction)
    if 'tokens' in why:  # only the policy's tokenizer can tell
        stack.wait_for(lambda: stack.status.instruction == instruction)
        stack.see()
    stack.wait_for_state(State.HOLDING, why)
    assert stack.status.instruction == ''
    stack.wait_for(lambda: stack.status.counters.instructions_rejected == rejected + 1)
    stack.see()
    time.sleep(0.3)
    assert len(stack.actions) == 1
    stack.instruct('open the drawer')
    stack.see()
    stack.wait_for(lambda: len(stack.actions) == 2)


BAD_PICTURES = {
    'zero size': (image_message(height=0, width=0, step=0, data=b''), '0 x 0'),
    'too little data': (image_message(data=b'\0' * 100), 'data has 100 bytes'),
    'unknown encoding': (image_message(encoding='infrared9'), "'infrared9' is not supported"),
    'depth': (image_message(encoding='16UC1'), 'depth'),
    'step too small': (image_message(step=10), 'step is 10'),
}


@pytest.mark.parametrize('fault', BAD_PICTURES)
def test_a_bad_picture_holds_and_is_counted(stack: Robot, fault: str) -> None:
    message, why = BAD_PICTURES[fault]
    stack.instruct('open the drawer')
    stack.see()
    stack.wait_for(lambda: len(stack.actions) == 1)
    rejected = stack.status.counters.rejected
    stack.see(message)
    stack.wait_for_state(State.HOLDING, why)
    stack.wait_for(lambda: stack.status.counters.rejected == rejected + 1)
    stack.see()
    stack.wait_for(lambda: len(stack.actions) == 2)
    stack.wait_for_state(State.RUNNING)


def test_the_instruction_parameter_takes_effect_at_once(stack: Robot) -> None:
    assert stack.set_parameter_of_node('instruction', 'lift the lid').successful
    stack.wait_for(lambda: stack.status.instruction == 'lift the lid')
    stack.see()
    stack.wait_for(lambda: len(stack.actions) == 1)
    assert stack.actions[0].instruction == 'lift the lid'
    refused = stack.set_parameter_of_node('instruction', 'a </s> b')
    assert not refused.successful
    assert '</s>' in refused.reason
    assert stack.status.instruction == 'lift the lid'


def test_other_parameters_are_fixed_while_configured(stack: Robot) -> None:
    refused = stack.set_parameter_of_node('device', 'cuda')
    assert not refused.successful
    assert 'device can only be set while the node is unconfigured' in refused.reason
    refused = stack.set_parameter_of_node('inference_timeout_s', -1.0)
    assert not refused.successful
    assert stack.get_parameter_of_node('inference_timeout_s').double_value == 20.0


def test_lifecycle(stack: Robot) -> None:
    assert stack.lifecycle_state() == 'active'
    stack.instruct('open the drawer')
    stack.see()
    stack.wait_for(lambda: len(stack.actions) == 1)
    assert stack.transition(Transition.TRANSITION_DEACTIVATE)
    stack.wait_for_state(State.READY)
    stack.wait_for(lambda: stack.images.get_subscription_count() == 0)
    assert stack.transition(Transition.TRANSITION_CLEANUP)
    stack.wait_for_state(State.UNCONFIGURED)
    assert stack.status.instruction == ''
    assert stack.set_parameter_of_node('dtype', 'bfloat16').successful
    assert stack.transition(Transition.TRANSITION_CONFIGURE)
    assert stack.transition(Transition.TRANSITION_ACTIVATE)  # while it loads
    stack.wait_for_state(State.HOLDING)
    assert stack.status.policy.dtype == 'bfloat16'
    stack.wait_until_heard()
    stack.instruct('open the drawer')
    stack.see()
    stack.wait_for(lambda: len(stack.actions) == 2)
    assert stack.actions[-1].sequence == 1


def test_the_status_shows_the_unnorm_key_in_force() -> None:
    """None was asked for: the policy took its only one."""
    with running_node('model:=scripted') as running:
        running.robot.wait_for_state(State.HOLDING)
        assert running.robot.status.policy.unnorm_key == 'scripted'


def test_compressed_pictures() -> None:
    parameters = ['model:=scripted', 'image_transport:=compressed', *GENEROUS]
    with running_node(*parameters, 'instruction:=open the drawer') as running:
        person = running.robot
        person.wait_for_state(State.HOLDING, '/image/compressed')
        person.wait_until_heard()
        for kind in ('jpeg', 'png'):
            buffer = io.BytesIO()
            PilImage.fromarray(PICTURE).save(buffer, kind)
            person.see(CompressedImage(format=kind, data=buffer.getvalue()))
            person.wait_for(lambda kind=kind: len(person.actions) == (1 if kind == 'jpeg' else 2))
        person.see(CompressedImage(format='jpeg', data=b'\xff\xd8 no picture'))
        person.wait_for_state(State.HOLDING, 'image rejected')
        person.wait_for(lambda: person.status.counters.rejected == 1)
    assert running.process.returncode == 0


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({'device': 'abacus'}, ["'abacus' is unknown", 'expected one of auto']),
        ({'device': 'cuda'}, ["'cuda' is not available"]),
        ({'dtype': 'int7'}, ["'int7' is unknown", 'bfloat16']),
        ({'unnorm_key': 'bridge'}, ["'bridge' is not in this checkpoint", 'random']),
        ({'model': '/nowhere/openvla'}, ["'/nowhere/openvla' is not a folder"]),
        ({'model': 'someone/unreachable'}, ['someone/unreachable', 'no network']),
        ({'model': ''}, ['model is not set']),
        ({'max_action_age_s': 0.5}, ['inference_timeout_s is 1', 'max_action_age_s, 0.5']),
        ({'quantization': 'int3'}, ["quantization is 'int3'", 'allowed: none']),
        ({'image_transport': 'theora'}, ["image_transport is 'theora'", 'raw, compressed']),
    ],
)
def test_what_can_not_be_configured_ends_in_error(
    tiny_checkpoint: Path,
    parameters: dict[str, Any],
    words: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    chosen = {'model': str(tiny_checkpoint), **parameters}
    with unstarted_node(load_policy, **chosen) as (stack, _):
        status = stack.wait_for_state(State.ERROR)
        assert not [word for word in words if word not in status.message], status.message
        assert stack.lifecycle_state() == 'unconfigured'
    logged = capfd.readouterr().err
    assert 'Traceback' not in logged
    assert words[0] in logged


def test_a_process_that_can_not_be_configured_stays() -> None:
    with running_node('model:=scripted:explode') as running:
        running.robot.wait_for_state(State.ERROR)
        assert running.robot.lifecycle_state() == 'unconfigured'
    assert running.process.returncode == 0
    assert 'Traceback' not in running.output


def test_an_error_can_be_mended(tiny_checkpoint: Path) -> None:
    with unstarted_node(load_policy, model='/nowhere/openvla') as (person, _):
        person.wait_for_state(State.ERROR)
        assert person.set_parameter_of_node('model', str(tiny_checkpoint)).successful
        assert person.transition(Transition.TRANSITION_CONFIGURE)
        person.wait_for_state(State.READY)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['-p', 'modle:=x'], ['modle is unknown', 'did you mean model?']),
        (['-p', 'speed:=3'], ['speed is unknown', 'inference_timeout_s']),
        (['-p', 'hang_timeout_s:=-1.0'], ['hang_timeout_s', '-1.0']),
        (['-p', 'hang_timeout_s:=2'], ['hang_timeout_s', 'float', 'write 2.0']),
        (['-p', 'model:=7'], ['model', 'str']),
        (['--params-file', '/nowhere.yaml'], ['/nowhere.yaml']),
    ],
)
def test_unusable_arguments_refuse_to_start(arguments: list[str], words: list[str]) -> None:
    with running_node(arguments=tuple(arguments)) as running:
        assert running.process.wait(60) == 2
    assert not [word for word in words if word not in running.output], running.output
    assert 'Traceback' not in running.output


def test_output_is_not_buffered_and_the_node_answers_while_it_loads(tiny_checkpoint: Path) -> None:
    with running_node(f'model:={tiny_checkpoint}', program=FRESH) as running:
        person = running.robot
        assert running.process.stdout is not None
        assert 'UNCONFIGURED' in running.process.stdout.readline()
        started_s = time.monotonic()
        states = ('unconfigured', 'configuring', 'inactive', 'activating', 'active')
        assert person.lifecycle_state() in states  # an active node acts once it is ready
        answered_s = time.monotonic() - started_s
        person.wait_for_state(State.HOLDING)
        assert {State.LOADING, State.WARMING_UP} <= {s.state for s in person.statuses}
        assert answered_s < 10.0  # it could not have answered later than it was ready
    assert running.process.returncode == 0


def test_progress_is_told_in_status_and_log() -> None:
    with running_node('model:=scripted:slow=8@warmup') as running:
        person = running.robot
        person.wait_for_state(State.HOLDING)
        told = [s for s in person.statuses if s.state == State.WARMING_UP]
        assert len({status.message for status in told}) >= 3
        assert max(status.elapsed_s for status in told) >= 4.0
        assert person.status.policy.warmup_s >= 8.0
        assert (
            person.status.policy.first_inference_s > 0
            and person.status.policy.steady_inference_s > 0
        )
    assert re.search(
        r'WARMING_UP: scripted slow=8@warmup: \d+ of 80, [5-8] s so far', running.output
    )
