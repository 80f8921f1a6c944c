# SPDX-License-Identifier: Apache-2.0
"""Grippers as actions of control_msgs, around stand-ins for the package and for rclpy's client."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from support.outputs import Clock, StandIn, a_setup
from vla_ros.parameters.check import ParameterError, check_all
from vla_ros.parameters.definition import Parameters
from vla_ros.ros import gripper_output
from vla_ros.ros.gripper_output import GripperAction, GripperCounters, make_gripper

OPTIONS = {'gripper_closed_position': 0.01, 'gripper_open_position': 0.05}


class Answer:
    """A future that the test completes."""

    def __init__(self) -> None:
        self.accepted: bool | None = None
        self.callback: Callable[[Any], None] = lambda _: None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callback = callback

    def comes(self, accepted: bool | None) -> None:
        """None: the request failed."""
        self.accepted = accepted
        self.callback(self)

    def exception(self) -> Exception | None:
        return RuntimeError() if self.accepted is None else None

    def result(self) -> Any:
        return SimpleNamespace(accepted=self.accepted)


class Client:
    """For rclpy.action.ActionClient."""

    made: list[Client]

    def __init__(self, _: object, kind: Any, name: str) -> None:
        self.kind, self.name = kind, name
        self.is_ready = True
        self.goals: list[Any] = []
        self.answers: list[Answer] = []
        self.made.append(self)

    def server_is_ready(self) -> bool:
        return self.is_ready

    def send_goal_async(self, goal: Any) -> Answer:
        self.goals.append(goal)
        self.answers.append(Answer())
        return self.answers[-1]

    def destroy(self) -> None:
        self.made.remove(self)


class Goal:
    def __init__(self) -> None:
        self.command = SimpleNamespace(position=0.0, max_effort=0.0)


@pytest.fixture(autouse=True)
def _control_msgs(monkeypatch: pytest.MonkeyPatch) -> None:
    package, actions = ModuleType('control_msgs'), ModuleType('control_msgs.action')
    package.__spec__ = ModuleSpec('control_msgs', None)
    for name in ('GripperCommand', 'ParallelGripperCommand'):
        setattr(actions, name, SimpleNamespace(Goal=Goal, name=name))
    monkeypatch.setitem(sys.modules, 'control_msgs', package)
    monkeypatch.setitem(sys.modules, 'control_msgs.action', actions)
    monkeypatch.setattr(Client, 'made', [], raising=False)
    monkeypatch.setattr(gripper_output, 'ActionClient', Client)


class Rig:
    def __init__(self, command: str = 'action', **options: Any) -> None:
        self.clock, self.counters = Clock(), GripperCounters()
        node: Any = StandIn()
        node.resolve_topic_name = lambda name: f'/{name}'
        setup = a_setup(node, self.clock, gripper_command=command, **{**OPTIONS, **options})
        self.gripper = make_gripper(setup, self.counters)
        [self.client] = Client.made

    @property
    def counts(self) -> tuple[int, int]:
        return self.counters.gripper_goals, self.counters.gripper_goals_refused


def test_a_goal_is_sent_on_change_only() -> None:
    rig = Rig(gripper_max_effort=20.0)
    assert isinstance(rig.gripper, GripperAction)
    assert (rig.client.name, rig.client.kind.name) == ('/gripper_cmd', 'GripperCommand')
    rig.gripper.send(None)
    for opening in (1.0, 1.0, 0.0, 0.0, 0.0, 1.0):
        rig.gripper.send(opening)
        rig.client.answers[-1].comes(True)
    positions = [goal.command.position for goal in rig.client.goals]
    assert positions == pytest.approx([0.05, 0.01, 0.05])
    assert rig.client.goals[0].command.max_effort == 20.0
    assert rig.counts == (3, 0)
    rig.gripper.forget()  # the operator may have moved it
    rig.gripper.send(1.0)
    assert rig.counts == (4, 0)
    rig.gripper.close()
    assert Client.made == []


def test_a_parallel_gripper_is_named() -> None:
    rig = Rig('parallel_action', gripper_max_effort=5.0)
    rig.gripper.send(0.5)
    command = rig.client.goals[0].command
    assert (list(command.name), list(command.position)) == (['gripper'], [pytest.approx(0.03)])
    assert list(command.effort) == [5.0] and rig.client.kind.name == 'ParallelGripperCommand'


@pytest.mark.parametrize('fault', ['no server', 'rejected', 'failed'])
def test_a_goal_that_is_refused_is_counted_and_sent_again(fault: str) -> None:
    rig = Rig()
    rig.client.is_ready = fault != 'no server'
    rig.gripper.send(0.0)
    if fault != 'no server':
        rig.client.answers[0].comes(False if fault == 'rejected' else None)
    assert rig.counters.gripper_goals_refused == 1
    rig.client.is_ready = True
    sent = rig.counters.gripper_goals
    rig.gripper.send(0.0)
    rig.clock.advance(1.01)
    rig.gripper.send(0.0)
    assert rig.counters.gripper_goals == sent + 1
    rig.client.answers[-1].comes(True)
    rig.gripper.send(0.0)
    assert rig.counts == (sent + 1, 1)


def test_what_was_refused_is_sent_again_while_the_robot_moves() -> None:
    """The row may be the last one, and come within a second of the refusal; a hold ends it."""
    rig = Rig()
    rig.gripper.send(0.0)
    rig.client.answers[0].comes(False)
    rig.gripper.give_up()  # a hold
    rig.clock.advance(2.0)
    rig.gripper.retry()
    assert rig.counts == (1, 1)
    rig.gripper.send(0.0)  # the first row after it
    rig.client.answers[1].comes(False)
    rig.gripper.give_up()
    rig.clock.advance(0.5)
    rig.gripper.send(0.0)
    for _ in range(30):
        rig.gripper.retry()
        rig.clock.advance(0.02)
    assert rig.counts == (3, 2)
    rig.client.answers[2].comes(True)
    rig.clock.advance(5.0)
    rig.gripper.retry()
    assert rig.counts == (3, 2)


def test_a_goal_that_is_never_answered_is_sent_again() -> None:
    rig = Rig()
    rig.gripper.send(0.0)
    rig.clock.advance(0.9)
    rig.gripper.retry()
    assert rig.counts == (1, 0)
    rig.clock.advance(0.2)
    rig.gripper.retry()
    assert rig.counts == (2, 1)
    rig.client.answers[0].comes(False)  # too late: it was counted
    rig.client.answers[1].comes(True)
    rig.gripper.retry()
    assert rig.counts == (2, 1)


def test_a_server_that_does_not_answer_blocks_nothing() -> None:
    rig = Rig()
    rig.gripper.send(0.0)
    rig.gripper.send(0.0)
    rig.gripper.send(1.0)  # of the next row
    assert rig.counts == (2, 1)
    rig.client.answers[0].comes(False)  # too late: it was counted
    rig.client.answers[1].comes(True)
    assert rig.counts == (2, 1)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'gripper_open_position': 0.01}, 'are both 0.01; set both'),
        ({'gripper_command': 'servo'}, 'allowed: topic, action, parallel_action'),
    ],
)
def test_goals_that_cannot_be_made(changes: dict[str, Any], words: str) -> None:
    options: dict[str, Any] = {'gripper_command': 'action', **OPTIONS}
    check_all(Parameters(**options))
    with pytest.raises(ParameterError) as refused:
        check_all(Parameters(**{**options, **changes}))
    assert words in str(refused.value)


def test_without_the_package_there_are_no_goals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('importlib.util.find_spec', lambda _: None)
    with pytest.raises(ParameterError, match='control_msgs is not installed'):
        check_all(Parameters(gripper_command='action', **OPTIONS))
