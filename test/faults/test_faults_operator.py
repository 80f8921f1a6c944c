# SPDX-License-Identifier: Apache-2.0
"""What an operator says too late, and what outlives process and configuration.

Faults of docs/faults.md: commands have an age, a stop and a hold outlive what they were told to.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from support.commands import STOPPABLE
from support.fakes import FakePolicy, wait_until
from support.graph import PATIENCE_S, CameraThread, Robot, Running, noise, running_node
from support.in_process import node_with, sleeping
from support.inputs import shows
from support.nodes import started
from support.places import ROS_HOME
from vla_ros.reasons import Reason, State

STALL_S = 3.0  # longer than max_command_age_s


def switch(stack: Robot, name: str, on: bool | None = None) -> bool:
    """Whether the service says that it succeeded."""
    if on is None:
        return stack.ask(Trigger, f'vla/{name}', Trigger.Request()).success
    return stack.ask(SetBool, f'vla/{name}', SetBool.Request(data=on)).success


def latch_of(stack: Robot) -> dict[str, dict[str, bool]]:
    """What the node keeps on the disk."""
    domain = os.environ['ROS_DOMAIN_ID']
    name = f'{stack.get_namespace().strip("/")}.vla.json'
    return json.loads((ROS_HOME / 'vla_ros' / f'domain_{domain}' / name).read_text())


# -- commands have an age ----------------------------------------------------------------------


class Stalled:
    """The node's process does not run inside; commands are given meanwhile."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def __enter__(self) -> None:
        self._running.process.send_signal(signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        time.sleep(STALL_S)
        self._running.process.send_signal(signal.SIGCONT)


def test_an_instruction_from_a_stall() -> None:
    with running_node('model:=scripted', environment=STOPPABLE) as running:
        stack = started(running.robot)
        with CameraThread(stack):
            stack.say('')
            stack.wait_for_state(State.HOLDING, Reason.NO_INSTRUCTION)
            count = len(stack.actions)
            with Stalled(running):
                stack.say('go')
            stack.wait_for_state(State.HOLDING, Reason.INSTRUCTION_STALE)
            assert stack.status.counters.instructions_stale == 1
            time.sleep(1.5)  # longer than commands are refused for after a stall
            assert len(stack.actions) == count
            stack.say('go')
            stack.wait_for_state(State.RUNNING)


def test_what_was_in_force_before_a_stall_holds_first() -> None:
    with running_node('model:=scripted', environment=STOPPABLE) as running:
        stack = started(running.robot)
        with CameraThread(stack):
            stack.wait_for_state(State.RUNNING)
            known = len(stack.statuses)
            with Stalled(running):
                pass
            stack.wait_for(
                lambda: any(
                    status.reason == Reason.EXECUTOR_STALLED for status in stack.statuses[known:]
                )
            )
            stack.wait_for_state(State.RUNNING)


def test_an_enable_from_a_stall() -> None:
    parameters = ('model:=scripted', 'enabled:=false', 'instruction:=go')
    with running_node(*parameters, environment=STOPPABLE) as running:
        stack = running.robot
        stack.wait_for_state(State.HOLDING, Reason.DISABLED)
        stack.wait_until_heard()
        client = stack.create_client(SetBool, 'vla/enable')
        assert client.wait_for_service(10.0)
        with CameraThread(stack):
            with Stalled(running):
                future = client.call_async(SetBool.Request(data=True))
            stack.wait_for(future.done)
            assert not future.result().success
            assert 'too late' in future.result().message
            stack.wait_for(lambda: stack.status.counters.requests_refused == 1)
            time.sleep(1.5)
            assert not stack.actions
            assert switch(stack, 'enable', True)
            stack.wait_for_state(State.RUNNING)


def test_a_stop_from_a_stall_is_obeyed() -> None:
    with running_node('model:=scripted', environment=STOPPABLE) as running:
        stack = started(running.robot)
        client = stack.create_client(Trigger, 'vla/stop')
        assert client.wait_for_service(10.0)
        with CameraThread(stack):
            with Stalled(running):
                future = client.call_async(Trigger.Request())
            stack.wait_for(future.done)
            assert future.result().success
            stack.wait_for_state(State.HOLDING, Reason.STOPPED)


def test_a_hold_and_a_go_from_a_stall() -> None:
    """The hold takes effect, whatever comes behind it in the queue."""
    with running_node('model:=scripted', environment=STOPPABLE) as running:
        stack = started(running.robot)
        with CameraThread(stack):
            with Stalled(running):
                stack.say('')
                stack.say('go on')
            stack.wait_for_state(State.HOLDING, Reason.INSTRUCTION_STALE)
            count = len(stack.actions)
            time.sleep(1.5)
            assert len(stack.actions) == count


def test_clocks_that_disagree_do_not_lose_every_instruction() -> None:
    with node_with(FakePolicy()) as (stack, node):
        hear = node._robots[0].instructions._hear
        with CameraThread(stack):
            for second in range(3):
                sent_ns = time.time_ns() - 30 * 10**9  # a sender whose clock is 30 s behind
                node.get_clock()
                hear(String(data=f'go {second}'), {'source_timestamp': sent_ns})
                if second == 0:
                    stack.wait_for_state(State.HOLDING, Reason.INSTRUCTION_STALE)
                    assert 'synchronise the clocks' in stack.status.message
                else:
                    instruction = f'go {second}'
                    stack.wait_for(lambda one=instruction: stack.status.instruction == one)
                    stack.wait_for_state(State.RUNNING)
                time.sleep(1.1)
        assert stack.status.counters.instructions_stale == 1


@shows(
    'Publishers',
    'not obeyed',
    'an instruction that was published before the node came up (transient local)',
)
def test_a_latched_instruction_from_before_the_node_came_up() -> None:
    with running_node('model:=scripted:slow=2@load') as running:
        stack = running.robot
        quality = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        latched = stack.create_publisher(String, 'instruction', quality)
        running.process.kill()
        running.ends()
        latched.publish(String(data='go'))
        running.start()
        with CameraThread(stack):
            stack.wait_for_state(
                State.HOLDING, Reason.NO_INSTRUCTION, message='before this node came up'
            )
            assert not stack.actions
            latched.publish(String(data='go'))
            stack.wait_for(lambda: stack.status.instruction == 'go')


@shows(
    'Publishers',
    'the node holds, with their number',
    'several publishers of instructions that contradict each other',
)
def test_instructions_that_change_too_often() -> None:
    with node_with(sleeping(0.3)) as (stack, _), CameraThread(stack):

        def conflict() -> bool:
            for one in ('go left', 'go right'):
                stack.say(one)
                time.sleep(0.05)
            return stack.status.reason == Reason.INSTRUCTION_CONFLICT

        stack.wait_for(conflict)
        assert 'publishers on' in stack.status.message
        assert 'only one of them' in stack.status.message
        stack.say('go left')
        stack.wait_for_state(State.RUNNING)
        stack.say('go right')
        stack.wait_for(lambda: stack.status.reason == Reason.INSTRUCTION_CHANGED)
        stack.wait_for_state(State.RUNNING)


LOOK_EMPTY = '\u200b\ufeff\u2060\u00ad\u2800\u3164\u200e\u202e\U000e0041\u00a0\u3000'


def test_an_instruction_that_looks_empty() -> None:
    with node_with(FakePolicy()) as (stack, _), CameraThread(stack):
        for character in LOOK_EMPTY:
            stack.say('go')
            stack.wait_for_state(State.RUNNING)
            stack.say(f' {character}{character}')
            stack.wait_for_state(State.HOLDING, Reason.NO_INSTRUCTION)
        assert stack.status.counters.instructions_rejected == 0


def test_an_instruction_that_can_not_be_seen_whole() -> None:
    with node_with(FakePolicy()) as (stack, _), CameraThread(stack):
        for count, character in enumerate(LOOK_EMPTY + '\ue000\ufe0f\u034f', start=1):
            stack.say('go')
            stack.wait_for_state(State.RUNNING)
            stack.say(f'pick{character}up')
            stack.wait_for_state(State.HOLDING, Reason.INSTRUCTION_REJECTED)
            assert 'character' in stack.status.message and stack.status.message.isprintable()
            stack.wait_for(lambda count=count: stack.status.counters.instructions_rejected == count)


# -- what outlives process and configuration ---------------------------------------------------


def restarted(running: Running, end: signal.Signals) -> None:
    """A supervisor starts the node again, with the same command."""
    running.process.send_signal(end)
    running.ends()
    running.start()


@pytest.mark.parametrize('end', [signal.SIGKILL, signal.SIGTERM])
def test_a_stop_outlives_the_process(end: signal.Signals) -> None:
    with running_node('model:=scripted', 'instruction:=go') as running:
        stack = started(running.robot)
        assert switch(stack, 'stop')
        stack.wait_for_state(State.HOLDING, Reason.STOPPED)
        assert latch_of(stack)[''] == {'stopped': True, 'disabled': True, 'held': False}
        count, known = len(stack.actions), len(stack.statuses)
        restarted(running, end)
        with CameraThread(stack):
            stack.wait_for(
                lambda: any(status.reason == Reason.STOPPED for status in stack.statuses[known:])
            )
            stack.wait_until_heard()
            time.sleep(1.0)
            assert len(stack.actions) == count
            assert not switch(stack, 'enable', True)
            assert switch(stack, 'reset')
            stack.wait_for_state(State.HOLDING, Reason.DISABLED)
            assert switch(stack, 'enable', True)
            stack.wait_for(lambda: len(stack.actions) > count)


def test_a_reset_robot_is_still_disabled_in_the_next_process() -> None:
    with running_node('model:=scripted', 'instruction:=go') as running:
        stack = started(running.robot)
        assert switch(stack, 'stop') and switch(stack, 'reset')
        restarted(running, signal.SIGTERM)
        stack.wait_for_state(State.HOLDING, Reason.DISABLED)


def an_empty_instruction(stack: Robot) -> None:
    stack.say('')


def a_rejected_instruction(stack: Robot) -> None:
    stack.say('stop </s>')


def an_empty_parameter(stack: Robot) -> None:
    assert stack.set_parameter_of_node('instruction', '').successful


@pytest.mark.parametrize(
    ('hold', 'message'),
    [
        (an_empty_instruction, 'the operator said hold'),
        (a_rejected_instruction, 'the operator said hold'),
        (an_empty_parameter, ''),
    ],
)
def test_a_hold_outlives_configuration_and_process(
    hold: Callable[[Robot], None], message: str
) -> None:
    with running_node('model:=scripted', 'instruction:=go', 'max_command_age_s:=20.0') as running:
        stack = running.robot
        stack.wait_for_state(State.HOLDING)
        stack.wait_until_heard()
        with CameraThread(stack):
            stack.wait_for_state(State.RUNNING)
            hold(stack)
            stack.wait_for(lambda: stack.status.instruction == '')
            for transition, state in (
                (Transition.TRANSITION_DEACTIVATE, State.READY),
                (Transition.TRANSITION_CLEANUP, State.UNCONFIGURED),
                (Transition.TRANSITION_CONFIGURE, State.READY),
                (Transition.TRANSITION_ACTIVATE, State.HOLDING),
            ):
                assert stack.transition(transition)
                stack.wait_for_state(state)
            stack.wait_for_state(State.HOLDING, Reason.NO_INSTRUCTION, message)
            count, known = len(stack.actions), len(stack.statuses)
            restarted(running, signal.SIGTERM)
            stack.wait_for(
                lambda: any(
                    status.reason == Reason.NO_INSTRUCTION for status in stack.statuses[known:]
                )
            )
            stack.wait_until_heard()
            time.sleep(0.5)
            assert len(stack.actions) == count
            stack.say('go')
            stack.wait_for(lambda: len(stack.actions) > count)
        assert not latch_of(stack)['']['held']


def test_a_latch_file_that_can_not_be_read_means_stopped(tmp_path: Path) -> None:
    latch = tmp_path / 'latch.json'
    latch.write_text('{"": {"stopped": fal')
    with running_node('model:=scripted', 'instruction:=go', f'latch_file:={latch}') as running:
        stack = running.robot
        stack.wait_for_state(State.HOLDING, Reason.STOPPED, message=f'{latch} is damaged')
        assert switch(stack, 'reset') and switch(stack, 'enable', True)
        stack.wait_until_heard()
        stack.recovers()
    assert json.loads(latch.read_text())[''] == {'stopped': False, 'disabled': False, 'held': False}


def test_a_latch_file_that_can_not_be_written_is_said() -> None:
    with running_node('model:=scripted', 'latch_file:=/proc/latch.json') as running:
        stack = started(running.robot)
        answer = stack.ask(Trigger, 'vla/stop', Trigger.Request())
        assert answer.success and 'a stop ends with the process' in answer.message
        stack.wait_for_state(State.HOLDING, Reason.STOPPED)
        stack.see(noise())
    assert 'latch file /proc/latch.json cannot be written' in running.output


def test_a_disk_that_hangs_delays_no_robot(hung_disk: threading.Event, tmp_path: Path) -> None:
    latch = tmp_path / 'latch.json'
    with node_with(FakePolicy(), latch_file=str(latch)) as (stack, _):
        answer = stack.ask(Trigger, 'vla/stop', Trigger.Request())
        assert answer.success and 'is not written yet' in answer.message
        assert switch(stack, 'reset') and switch(stack, 'enable', True)
        stack.instruct('go')
        stack.recovers()
        assert not latch.exists()
        hung_disk.set()
        wait_until(latch.exists, PATIENCE_S)
        now = {'stopped': False, 'disabled': False, 'held': False}
        wait_until(lambda: json.loads(latch.read_text()) == {'': now}, PATIENCE_S)
