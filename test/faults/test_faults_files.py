# SPDX-License-Identifier: Apache-2.0
"""Files and texts that a user or a policy hands to the node, through the real node."""

from __future__ import annotations

import itertools
import os
from itertools import pairwise
from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition

from support.fakes import FakePolicy, a_prediction
from support.graph import noise, running_node
from support.in_process import node_with
from support.nodes import started
from vla_ros.motion.contract import SHIPPED_CONTRACTS
from vla_ros.msg import VlaStatus
from vla_ros.reasons import Reason, State
from vla_ros.types import Cancel, Invalid, InvalidReason, Prediction

FAULTS = {
    'named pipe': 'is a named pipe; expected a regular file',
    'link to nowhere': 'is a link to ',
    'impossible date': "line 2, column 11: '2024-02-31' is not a valid timestamp",
    'nesting': 'nested more than 20 levels deep',
    'aliases': 'more than 30000 values',
    'forged name': "unnorm_key is 'a\\x1b[31m\\nERROR: forged'",
}


def make(path: Path, kind: str) -> None:
    if kind == 'named pipe':
        os.mkfifo(path)
    elif kind == 'link to nowhere':
        path.symlink_to(path.with_name('unmounted'))
    elif kind == 'impossible date':
        path.write_text('mine:\n  period: 2024-02-31\n')
    elif kind == 'nesting':
        path.write_text('mine: ' + '[' * 2000)
    elif kind == 'aliases':
        lines = [f'{b}: &{b} [{",".join([f"*{a}"] * 9)}]' for a, b in pairwise('abcdefgh')]
        path.write_text('\n'.join(['a: &a [x, x, x, x, x, x, x, x, x]', *lines]))
    else:
        path.write_text('"a\\e[31m\\nERROR: forged": {}\n')


@pytest.mark.parametrize('kind', FAULTS)
def test_a_contracts_file_that_can_not_be(kind: str, tmp_path: Path) -> None:
    """The node says why, answers meanwhile, and acts once the file is another."""
    path = tmp_path / 'contracts.yaml'
    make(path, kind)
    with running_node('model:=scripted', f'contracts:={path}', 'load_timeout_s:=60.0') as running:
        stack = running.robot
        status = stack.wait_for_state(State.ERROR, Reason.LOADING_FAILED, str(path))
        assert (
            FAULTS[kind] in status.message
            and len(status.message) < 1000
            and status.message.isprintable()
        )
        assert stack.lifecycle_state() == 'unconfigured'
        path.unlink()
        path.write_bytes(SHIPPED_CONTRACTS.read_bytes())
        assert stack.transition(Transition.TRANSITION_CONFIGURE)
        stack.wait_for_state(State.READY)
        assert stack.transition(Transition.TRANSITION_ACTIVATE)
        started(stack)
    assert running.process.returncode == 0
    assert 'Traceback' not in running.output and '\x1b[31m' not in running.output
    assert not [line for line in running.output.splitlines() if line.startswith('ERROR: forged')]


# What the terminal would obey, what no message can hold, and what looks like a line of the log.
HARMFUL = 'a\x1b[2J\ud800\u202e\nERROR: forged' + 'x' * 10**6
SHOWN = 'a\\x1b[2J\\ud800\\u202e\\x0aERROR: forgedxxx'


@pytest.mark.parametrize('motion', ['none', 'twist'])
def test_a_policy_whose_data_set_has_a_harmful_name(
    motion: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another process's policy, say: the action says it escaped, and the node goes on."""
    policy = FakePolicy(lambda _: a_prediction(unnorm_key=HARMFUL))
    with node_with(policy, motion=motion, frame_id='base') as (stack, _):
        started(stack)
        stack.wait_for(lambda: len(stack.actions) >= 1)
        assert stack.actions[-1].unnorm_key.startswith(SHOWN)
        assert len(stack.actions[-1].unnorm_key) < 1100
        if motion == 'twist':
            stack.wait_for(lambda: 'a\\x1b[2J' in stack.status.motion.message)
        assert_harmless(stack.status)
        assert stack.lifecycle_state() == 'active'
    told = capfd.readouterr()
    assert_printed_harmlessly(told.out + told.err)


@pytest.mark.parametrize('how', ['invalid', 'raises'])
def test_a_policy_that_says_something_harmful(how: str, capfd: pytest.CaptureFixture[str]) -> None:
    sound = a_prediction()
    answers = iter([sound])

    def act(_: Cancel) -> Prediction:
        if (answer := next(answers, None)) is not None:
            return answer
        if how == 'raises':
            raise RuntimeError(HARMFUL)
        return a_prediction(invalid=InvalidReason(Invalid.TOKEN, 2, 5, HARMFUL))

    reason = {'invalid': Reason.ACTION_INVALID, 'raises': Reason.POLICY_FAILED}[how]
    with node_with(FakePolicy(act)) as (stack, _):
        started(stack)
        stack.see(noise())
        status = stack.wait_for_state(State.HOLDING, reason, 'a\\x1b[2J')
        assert_harmless(status)
        answers = itertools.repeat(sound)
        stack.recovers()
    told = capfd.readouterr()
    assert_printed_harmlessly(told.out + told.err)


def assert_harmless(status: VlaStatus) -> None:
    for text in (status.message, status.motion.message, status.policy.unnorm_key):
        assert len(text) < 1100 and text.isprintable()


def assert_printed_harmlessly(printed: str) -> None:
    assert len(printed) < 100_000 and '\x1b[2J' not in printed and '\u202e' not in printed
    assert not [line for line in printed.splitlines() if line.startswith('ERROR: forged')]
