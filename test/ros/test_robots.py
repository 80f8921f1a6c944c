# SPDX-License-Identifier: Apache-2.0
"""Several robots at one node, in its own process: each has its own topics, actions and faults."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition

from support.graph import (
    PICTURE,
    CameraThread,
    Robot,
    Running,
    image_message,
    noise,
    robot,
    running_node,
)
from vla_ros.msg import VlaStatus
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.reasons import State
from vla_ros.scheduling.accounts import unaccounted

GENEROUS = ('inference_timeout_s:=20.0', 'max_action_age_s:=20.0', 'max_image_age_s:=5.0')
STILL = ('frozen_image_timeout_s:=0.0', 'image_timeout_s:=3600.0')
UPSIDE_DOWN = np.ascontiguousarray(PICTURE[::-1])


@contextlib.contextmanager
def two_robots(*parameters: str) -> Iterator[tuple[Running, Robot, Robot]]:
    """A node that serves a and b, both of which it hears."""
    with running_node('robots:=[a, b]', *parameters) as running:
        namespace = running.robot.get_namespace()
        with robot(f'{namespace}/a') as a, robot(f'{namespace}/b') as b:
            for each in (a, b):
                each.wait_for_state(State.HOLDING)
                each.wait_until_heard()
            yield running, a, b
    assert running.process.returncode == 0


def held_in_one_batch(a: Robot, b: Robot) -> None:
    """Pictures of both come while the node's first inference, of a's first picture, runs."""
    for each in (a, b):
        each.instruct('go')
    a.see(noise())
    a.wait_for(lambda: a.status.counters.taken == 1)
    a.see(noise())
    b.see(noise())
    b.wait_for(lambda: b.status.counters.waiting == 1)


def settled(stack: Robot) -> VlaStatus:
    """The status once all that was received is over."""
    status = stack.status

    def is_over() -> bool:
        new = stack.status is not status
        return new and stack.status.counters.waiting == stack.status.counters.in_flight == 0

    stack.wait_for(is_over)
    return stack.status


def test_each_robot_has_the_actions_of_its_own_pictures_and_instruction(
    tiny_checkpoint: Path,
) -> None:
    policy = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', dtype='float32')
    shown = {'a': (PICTURE, 'Pick up the red cup'), 'b': (UPSIDE_DOWN, 'open the drawer')}
    model = (f'model:={tiny_checkpoint}', 'device:=cpu', 'dtype:=float32')
    with two_robots(*model, *GENEROUS, *STILL) as (_, a, b):
        stacks = {'a': a, 'b': b}
        for name, (_, instruction) in shown.items():
            stacks[name].instruct(instruction)
        for count in range(1, 4):
            for name, (picture, _) in shown.items():
                stacks[name].see(image_message(picture))
            for stack in stacks.values():
                stack.wait_for(lambda stack=stack, count=count: len(stack.actions) == count)
        for name, (picture, instruction) in shown.items():
            expected = policy.predict_action(picture, instruction)
            actions = stacks[name].actions
            assert [action.sequence for action in actions] == [1, 2, 3]
            assert {action.instruction for action in actions} == {instruction}
            assert all(list(action.action) == expected.action.tolist() for action in actions)
            stamps = {(act.observation_stamp.sec, act.observation_stamp.nanosec) for act in actions}
            assert stamps == stacks[name].stamps
            status = settled(stacks[name])
            assert (status.robot, status.state) == (name, State.RUNNING)
            assert (
                status.counters.received == status.counters.taken == status.counters.published == 3
            )
            assert (
                status.counters.drafted == status.counters.accepted == 12
            )  # each its own action before

        # Only the policy's tokenizer can tell: b's instruction is none, and a has its action.
        b.say('漢字' * 200)
        b.wait_for(lambda: b.status.instruction != 'open the drawer')
        for each in (a, b):
            each.see()
        b.wait_for_state(State.HOLDING, 'tokens, at most 112 are allowed')
        a.wait_for(lambda: len(a.actions) == 4)
        assert a.wait_for_state(State.RUNNING).counters.failed == 0
        assert len(b.actions) == 3
    assert expected.action.tolist() != policy.predict_action(*shown['a']).action.tolist()


FAULTS_OF_B: dict[str, tuple[Callable[[Robot], None], str]] = {
    'silent': (lambda b: None, 'no new image on'),
    'without an instruction': (lambda b: b.say(''), 'no instruction on'),
    'bad instruction': (lambda b: b.say('stop </s>'), "special token '</s>'"),
    'broken pictures': (lambda b: b.see(noise(encoding='infrared9')), 'image rejected'),
    'pictures without a stamp': (lambda b: b.see(noise(), stamp_ns=0), 'unstamped'),
    'pictures from the future': (lambda b: b.see(noise(), age_s=-9.0), 'future'),
}


@pytest.fixture(scope='module')
def pair() -> Iterator[tuple[Robot, Robot]]:
    """One node for all faults of b."""
    with two_robots('model:=scripted', *GENEROUS) as (_, a, b):
        yield a, b


@pytest.mark.parametrize('fault', FAULTS_OF_B)
def test_what_one_lacks_or_does_wrong_is_its_own_affair(
    pair: tuple[Robot, Robot], fault: str
) -> None:
    a, b = pair
    for each in (a, b):
        each.instruct('go')
        each.recovers()
    befall, why = FAULTS_OF_B[fault]
    with CameraThread(a):
        a.wait_for_state(State.RUNNING)
        before, known, acted = a.status, len(a.statuses), len(a.actions)
        befall(b)
        b.wait_for_state(State.HOLDING, why)
        acted_b = len(b.actions)
        a.wait_for(lambda: len(a.actions) >= acted + 60)
        assert b.status.state == State.HOLDING and len(b.actions) == acted_b
        assert {status.state for status in a.statuses[known:]} <= {State.RUNNING}
    after = settled(a)
    # At its full rate: every picture of a became an action, but for those that newer ones replaced.
    received, superseded = (
        after.counters.received - before.counters.received,
        after.counters.superseded - before.counters.superseded,
    )
    open_before = before.counters.waiting + before.counters.in_flight
    assert (
        after.counters.published - before.counters.published == received - superseded + open_before
    )
    assert not unaccounted(after.counters)
    assert not unaccounted(settled(b).counters)


def test_each_status_and_diagnosis_says_whose_it_is() -> None:
    with two_robots('model:=scripted', 'instruction:=lift the lid') as (running, a, b):
        told: list[DiagnosticArray] = []
        node = running.robot
        node.create_subscription(DiagnosticArray, '/diagnostics', told.append, 10)
        assert (a.status.robot, b.status.robot) == ('a', 'b')
        assert a.status.instruction == b.status.instruction == 'lift the lid'
        a.recovers()

        def diagnosed() -> bool:
            levels = {entry.name: entry.level for message in told[-1:] for entry in message.status}
            name = f'{node.get_namespace()}/vla'.lstrip('/')
            ok, warn = DiagnosticStatus.OK, DiagnosticStatus.WARN
            return levels == {f'{name}: a': ok, f'{name}: b': warn}

        with CameraThread(a):  # it acts whenever the diagnosis comes
            node.wait_for(diagnosed)

        # The parameter is for each robot, the lifecycle is the node's.
        assert node.set_parameter_of_node('instruction', 'open the drawer').successful
        for each in (a, b):
            each.wait_for(lambda each=each: each.status.instruction == 'open the drawer')
        assert node.transition(Transition.TRANSITION_DEACTIVATE)
        for each in (a, b):
            each.wait_for_state(State.READY)
        assert node.transition(Transition.TRANSITION_CLEANUP)
        for each in (a, b):
            each.wait_for_state(State.UNCONFIGURED)
            assert each.status.instruction == ''
        assert not node.statuses  # there is no status without a robot's name
    assert 'a: HOLDING: ' in running.output and 'b: HOLDING: ' in running.output


def test_a_new_instruction_of_one_leaves_the_others_inference_alone() -> None:
    with two_robots('model:=scripted:slow=3@1-2', *GENEROUS, 'image_timeout_s:=60.0') as (_, a, b):
        held_in_one_batch(a, b)
        b.wait_for(lambda: b.status.counters.taken == 1)
        b.instruct('something else')
        a.wait_for(lambda: len(a.actions) == 2)
        assert settled(a).counters.cancelled == 0
        status = settled(b)
        assert (status.counters.cancelled, status.counters.published, len(b.actions)) == (1, 0, 0)
        b.recovers()


def test_a_late_inference_is_an_overrun_of_each_member() -> None:
    limits = ('inference_timeout_s:=4.0', 'max_action_age_s:=20.0', 'max_image_age_s:=5.0')
    script = 'scripted:slow=2@1,slow=60@2'
    with two_robots(f'model:={script}', *limits, 'image_timeout_s:=60.0') as (_, a, b):
        held_in_one_batch(a, b)
        for each in (a, b):
            each.wait_for_state(State.HOLDING, 'overrun')
            assert settled(each).counters.overrun == 1
        assert (len(a.actions), len(b.actions)) == (1, 0)
        for each in (a, b):
            each.recovers()


def test_who_waits_behind_a_late_inference_says_so_and_acts_then() -> None:
    limits = ('inference_timeout_s:=0.5', 'max_action_age_s:=20.0', 'max_image_age_s:=20.0')
    with two_robots('model:=scripted:hung=4@1', *limits, 'image_timeout_s:=60.0') as (_, a, b):
        for each in (a, b):
            each.instruct('go')
        a.see(noise())
        a.wait_for_state(State.HOLDING, 'overrun')
        b.see(noise())
        b.wait_for_state(State.HOLDING, 'overrun')
        b.wait_for(lambda: len(b.actions) == 1)
        b.wait_for_state(State.RUNNING)
        assert settled(b).counters.overrun == 0
        assert settled(a).counters.overrun == 1


def test_the_accounts_of_each_robot_hold_in_a_storm() -> None:
    script = 'scripted:slow=0.02,raise@5%,nan@5%,invalid@5%,slow=0.5@2%,seed=1'
    limits = ('inference_timeout_s:=0.3', 'max_action_age_s:=5.0', 'max_image_age_s:=5.0')
    chosen = random.Random(0)
    with two_robots(f'model:={script}', *limits) as (_, a, b):
        for each in (a, b):
            each.instruct('go')
        with CameraThread(a) as camera_a, CameraThread(b) as camera_b:
            for count in range(20, 200, 20):
                a.wait_for(lambda count=count: min(camera_a.shown, camera_b.shown) >= count)
                each = chosen.choice([a, b])
                each.say(chosen.choice(['go on', 'come back', '', 'a </s> b']))
                each.see(noise(encoding='infrared9'))
        for each in (a, b):
            assert settled(each).counters.received > 0 and each.status.counters.taken > 0
            assert not [s for s in each.statuses if unaccounted(s.counters)]
            each.instruct('the last')
            each.recovers()


@pytest.mark.parametrize(
    ('robots', 'words'),
    [
        ('[a, a]', ['robots is [a, a]', 'each name once']),
        ('[a, 2b]', ["robots has the name '2b'", 'letters, digits and underscores']),
        ('[a/b]', ["the name 'a/b'"]),
        ('["", a]', ["the name ''"]),
        ('a', ['robots has a value of the wrong type', 'write [a, b]']),
        ('[1, 2]', ['robots has a value of the wrong type', 'write [a, b]']),
    ],
)
def test_names_that_can_not_be_refuse_to_start(robots: str, words: list[str]) -> None:
    with running_node(f'robots:={robots}') as running:
        assert running.process.wait(60) == 2
    assert not [word for word in words if word not in running.output], running.output
    assert 'Traceback' not in running.output
