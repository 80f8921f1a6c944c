# SPDX-License-Identifier: Apache-2.0
"""The programs of docs/client.md do what the page says; docs/behavior_tree.md fits the action."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from std_srvs.srv import Trigger

from support.commands import PIPES, running_python
from support.graph import noise, running_node
from support.places import ROOT
from vla_ros.action import ExecuteInstruction
from vla_ros.reasons import State


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / 'docs' / page).read_text()
    return re.findall(rf'```{language}\n(.*?)```', text, re.DOTALL)


PROGRAM, GOAL, *_ = blocks('client.md', 'python')
# The first program up to the instruction, and the lines of the page's section on goals.
GOAL_PROGRAM = PROGRAM.partition('answer = ')[0] + GOAL


def test_the_program_has_ten_lines() -> None:
    assert len([line for line in PROGRAM.splitlines() if line]) == 10


def test_the_program_prints_actions_and_lets_the_robot_hold() -> None:
    with running_node('model:=scripted:chunk=2') as running:
        stack = running.robot
        camera = stack.create_timer(1 / 30, lambda: stack.see(noise()))
        arguments = ['--ros-args', '-r', f'__ns:={stack.get_namespace()}']
        with running_python('-c', PROGRAM, *arguments, **PIPES) as program:
            stack.wait_for(lambda: len(stack.actions) >= 5, timeout_s=60.0)
            stack.destroy_timer(camera)  # no image, no action: the program ends
            printed, errors = program.communicate(timeout=60.0)
        assert program.returncode == 0, errors
        assert printed.count('builtin_interfaces.msg.Time') >= 1
        assert printed.splitlines()[-1].startswith('HOLDING: ')
        stack.wait_for(lambda: stack.status.instruction == '')


def test_the_goal_ends_when_a_detector_says_so() -> None:
    with running_node('model:=scripted') as running:
        stack = running.robot
        stack.create_timer(1 / 30, lambda: stack.see(noise()))
        arguments = ['--ros-args', '-r', f'__ns:={stack.get_namespace()}']
        with running_python('-c', GOAL_PROGRAM, *arguments, **PIPES) as program:
            stack.wait_for_state(State.RUNNING)
            stack.wait_for(lambda: len(stack.actions) >= 3)
            answer = stack.ask(Trigger, 'vla/success', Trigger.Request())
            printed, errors = program.communicate(timeout=60.0)
        assert answer.success, answer.message
        assert program.returncode == 0, errors
        assert re.fullmatch(r'done after [1-9][0-9]* actions\n', printed)


def test_the_behavior_tree_fits_its_class_and_the_action() -> None:
    [tree], [code] = blocks('behavior_tree.md', 'xml'), blocks('behavior_tree.md', 'cpp')
    ports = {'action_name', *re.findall(r'(?:In|Out)putPort<[\w:]+>\("(\w+)"\)', code)}
    table = (ROOT / 'docs' / 'behavior_tree.md').read_text()
    assert set(re.findall(r'^\| `(\w+)` \| (?:in|out) ', table, re.MULTILINE)) == ports
    root = ElementTree.fromstring(tree)
    assert root.find(f"BehaviorTree[@ID='{root.get('main_tree_to_execute')}']") is not None
    nodes = root.findall('.//ExecuteInstruction')
    assert nodes
    for node in nodes:
        assert set(node.attrib) == ports and float(node.attrib['time_limit_s']) > 0
    parts = {
        r'\bgoal\.(\w+)': ExecuteInstruction.Goal,
        r'\bfeedback->(\w+)': ExecuteInstruction.Feedback,
        r'\bresult->(\w+)': ExecuteInstruction.Result,
    }
    for pattern, kind in parts.items():
        used = set(re.findall(pattern, code))
        assert used and used <= set(kind.get_fields_and_field_types())
    assert ExecuteInstruction.Result.SUCCEEDED
