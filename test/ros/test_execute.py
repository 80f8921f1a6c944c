# SPDX-License-Identifier: Apache-2.0
"""The action server: what it rejects, how a goal ends, and what its client is told."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
from lifecycle_msgs.msg import Transition
from std_srvs.srv import Trigger

from support.fakes import FakePolicy
from support.graph import CameraThread, Robot, Running, running_node
from support.in_process import node_with, unstarted_node
from vla_ros.action import ExecuteInstruction
from vla_ros.client import VlaClient
from vla_ros.client.goal import RunningGoal
from vla_ros.reasons import Reason, State
from vla_ros.ros.node import VlaNode
from vla_ros.types import InstructionError

Result = ExecuteInstruction.Result


@pytest.fixture
def acting() -> Iterator[tuple[Robot, VlaNode]]:
    """Images come all the time; there is no instruction."""
    with node_with(FakePolicy()) as (stack, node), CameraThread(stack):
        yield stack, node


def begun(stack: Robot, instruction: str = 'go', time_limit_s: float = 60.0) -> RunningGoal:
    """A goal for which the robot has acted."""
    count = len(stack.actions)
    goal = stack.side.start(instruction, time_limit_s)
    assert isinstance(goal, RunningGoal)
    stack.wait_for(lambda: len(stack.actions) > count and stack.status.instruction == instruction)
    return goal


def holds(stack: Robot, reason: Reason = Reason.NO_INSTRUCTION) -> None:
    stack.wait_for_state(State.HOLDING, reason)
    assert stack.status.instruction == ''


def test_success_is_what_the_service_says(acting: tuple[Robot, VlaNode]) -> None:
    stack, _ = acting
    assert not stack.ask(Trigger, 'vla/success', Trigger.Request()).success
    told: list[ExecuteInstruction.Feedback] = []
    goal = stack.side.start('go', 60.0, told.append)
    stack.wait_for(lambda: any(one.state == State.RUNNING and one.actions for one in told))
    assert told[-1].probability == 1.0 and told[-1].elapsed.nanosec
    assert stack.ask(Trigger, 'vla/success', Trigger.Request()).success
    result = goal.result(20.0)
    assert result.outcome == Result.SUCCEEDED and result.actions > 0
    holds(stack)
    assert stack.side.execute('again', 0.2).outcome == Result.TIMED_OUT  # there can be a next one


def test_a_cancel_is_a_hold(acting: tuple[Robot, VlaNode]) -> None:
    stack, _ = acting
    goal = begun(stack)
    goal.cancel()
    assert goal.result(20.0).outcome == Result.CANCELED
    holds(stack)


def test_a_time_limit_ends_it_and_says_why_it_held(acting: tuple[Robot, VlaNode]) -> None:
    stack, _ = acting
    result = stack.side.execute('go', 0.3)
    assert result.outcome == Result.TIMED_OUT
    assert 'time_limit, 0.3 s, is over' in result.message
    holds(stack)


@pytest.mark.parametrize(
    ('instruction', 'limit_s', 'why'),
    [
        ('', 5.0, 'its instruction is empty'),
        ('\u200b', 5.0, 'its instruction is empty'),
        ('stop </s>', 5.0, "special token '</s>'"),
        ('go', 0.0, 'time_limit is 0 s; allowed: above 0'),
        ('go', -1.0, 'time_limit is -1 s; allowed: above 0'),
    ],
)
def test_a_goal_that_is_rejected(
    acting: tuple[Robot, VlaNode],
    instruction: str,
    limit_s: float,
    why: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stack, _ = acting
    assert stack.side.start(instruction, limit_s) is None
    assert why in capfd.readouterr().err
    stack.wait_for(lambda: stack.status.counters.requests_refused == 1)


def test_one_goal_at_a_time_and_none_for_a_robot_that_is_off(
    acting: tuple[Robot, VlaNode], capfd: pytest.CaptureFixture[str]
) -> None:
    stack, _ = acting
    goal = begun(stack, 'first')
    assert stack.side.start('second', 5.0) is None
    assert "the goal 'first' is carried out" in capfd.readouterr().err
    assert stack.ask(Trigger, 'vla/stop', Trigger.Request()).success
    result = goal.result(20.0)
    assert (result.outcome, result.reason) == (Result.HELD, Reason.STOPPED)
    assert stack.side.start('second', 5.0) is None
    assert 'the robot is not ready: HOLDING: stopped' in capfd.readouterr().err


def test_a_goal_before_the_node_is_ready() -> None:
    with unstarted_node(lambda *_: FakePolicy(), autostart=False) as (stack, _):
        assert stack.side.start('go', 5.0) is None


def test_other_instructions_have_no_effect_but_a_hold_has(acting: tuple[Robot, VlaNode]) -> None:
    stack, _ = acting
    stack.instruct('before')
    goal = begun(stack)
    stack.say('another')
    stack.wait_for(lambda: stack.status.counters.instructions_rejected == 1)
    assert stack.status.instruction == 'go'
    stack.say('')
    result = goal.result(20.0)
    assert (result.outcome, result.reason) == (Result.HELD, Reason.NO_INSTRUCTION)
    holds(stack)
    stack.instruct('after')  # the topic counts again


def test_a_goal_of_one_robot_leaves_the_other_alone() -> None:
    with unstarted_node(lambda *_: FakePolicy(), robots=['a', 'b']) as (stack, _):
        one, other = (VlaClient(robot=name, node=stack) for name in ('a', 'b'))
        assert all(client.wait_for(State.HOLDING, timeout_s=20.0).ok for client in (one, other))
        goal = one.start('first', 60.0)
        assert isinstance(goal, RunningGoal)
        assert other.instruct('second').ok
        assert not one.instruct('third', timeout_s=1.0).ok
        stack.wait_for(lambda: one.status.counters.instructions_rejected > 0)
        assert one.status.instruction == 'first' and other.status.instruction == 'second'
        assert not other.status.counters.instructions_rejected
        assert not stack.ask(Trigger, 'vla/b/success', Trigger.Request()).success
        assert stack.ask(Trigger, 'vla/a/success', Trigger.Request()).success
        assert goal.result(20.0).outcome == Result.SUCCEEDED
        stack.wait_for(lambda: one.status.instruction == '')
        assert other.status.instruction == 'second'
        assert one.instruct('third').ok  # the topic counts again
        one.close()
        other.close()


def test_an_instruction_that_the_policy_refuses_ends_its_goal() -> None:
    def refuse(_: object) -> None:
        raise InstructionError('too many tokens')

    with node_with(FakePolicy(refuse)) as (stack, _), CameraThread(stack):
        result = stack.side.execute('go', 60.0)
        assert (result.outcome, result.reason) == (Result.HELD, Reason.INSTRUCTION_REJECTED)
        assert 'too many tokens' in result.message


def test_a_deactivation_ends_it(acting: tuple[Robot, VlaNode]) -> None:
    stack, _ = acting
    goal = begun(stack)
    assert stack.transition(Transition.TRANSITION_DEACTIVATE)
    assert goal.result(20.0).outcome == Result.HELD
    assert stack.transition(Transition.TRANSITION_ACTIVATE)
    stack.wait_for_state(State.HOLDING, Reason.NO_INSTRUCTION)


def test_a_node_can_end_during_a_goal(acting: tuple[Robot, VlaNode]) -> None:
    stack, node = acting
    begun(stack)
    assert not node.exit_code.done()


def by_shutdown(running: Running) -> None:
    assert running.robot.transition(Transition.TRANSITION_ACTIVE_SHUTDOWN)


ENDS: dict[str, tuple[str, Callable[[Running], object], Reason, int]] = {
    'SIGINT': ('', lambda running: running.process.send_signal(signal.SIGINT), Reason.SHUT_DOWN, 0),
    'SIGTERM': (
        '',
        lambda running: running.process.send_signal(signal.SIGTERM),
        Reason.SHUT_DOWN,
        0,
    ),
    'a lifecycle shutdown': ('', by_shutdown, Reason.SHUT_DOWN, 0),
    'a changed checkpoint': (':changed@40', lambda _: None, Reason.CHECKPOINT_CHANGED, 0),
    'a hung policy': (':hung@40', lambda _: None, Reason.POLICY_HUNG, 70),
}


@pytest.mark.parametrize('end', ENDS)
def test_a_goal_has_its_result_before_the_end(end: str) -> None:
    script, act, reason, code = ENDS[end]
    limits = ('inference_timeout_s:=0.2', 'hang_timeout_s:=0.4')
    with running_node(f'model:=scripted{script}', *limits) as running:
        stack = running.robot
        stack.wait_for_state(State.HOLDING)
        with CameraThread(stack):
            goal = begun(stack)
            act(running)
            result = goal.result(20.0)
            assert result is not None
            assert (result.outcome, result.reason) == (Result.HELD, reason), result.message
            assert result.actions > 0
            count = len(stack.actions)
        if code == 0 and running.process.poll() is None:
            running.process.send_signal(signal.SIGINT)
        assert running.ends() == code
        assert len(stack.actions) == count  # none after the result
    assert 'Traceback' not in running.output
