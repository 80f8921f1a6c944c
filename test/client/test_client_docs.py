# SPDX-License-Identifier: Apache-2.0
"""The program of docs/client.md does what the page says."""

from __future__ import annotations

import re
import subprocess
import sys

from support.graph import noise, running_node
from support.places import ROOT

PROGRAM = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'client.md').read_text(), re.DOTALL)[
    0
]


def test_the_program_has_ten_lines() -> None:
    assert len([line for line in PROGRAM.splitlines() if line]) == 10


def test_the_program_prints_actions_and_lets_the_robot_hold() -> None:
    with running_node('model:=scripted:chunk=2') as running:
        stack = running.robot
        camera = stack.create_timer(1 / 30, lambda: stack.see(noise()))
        arguments = ['--ros-args', '-r', f'__ns:={stack.get_namespace()}']
        with subprocess.Popen(
            [sys.executable, '-c', PROGRAM, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as program:
            stack.wait_for(lambda: len(stack.actions) >= 5, timeout_s=60.0)
            stack.destroy_timer(camera)  # no image, no action: the program ends
            printed, errors = program.communicate(timeout=60.0)
        assert program.returncode == 0, errors
        assert printed.count('builtin_interfaces.msg.Time') >= 1
        assert printed.splitlines()[-1].startswith('HOLDING: ')
        stack.wait_for(lambda: stack.status.instruction == '')
