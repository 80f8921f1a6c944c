"""Files and texts that a user or a policy hands to the node, through the real node."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from graph import running_node
from lifecycle_msgs.msg import Transition
from test_faults import started

from vla_ros.motion.contract import SHIPPED_CONTRACTS
from vla_ros.msg import VlaStatus
from vla_ros.reasons import Reason

FAULTS = {
    'named pipe': 'is a named pipe; expected a regular file',
    'link to nowhere': 'is a link to ',
    'impossible date': "line 2, column 11: '2024-02-31' is no timestamp",
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
        status = stack.wait_for_state(VlaStatus.ERROR, Reason.LOADING_FAILED, str(path))
        assert FAULTS[kind] in status.why and len(status.why) < 1000 and status.why.isprintable()
        assert stack.lifecycle_state() == 'unconfigured'
        path.unlink()
        path.write_bytes(SHIPPED_CONTRACTS.read_bytes())
        assert stack.transition(Transition.TRANSITION_CONFIGURE)
        stack.wait_for_state(VlaStatus.READY)
        assert stack.transition(Transition.TRANSITION_ACTIVATE)
        started(stack)
    assert running.process.returncode == 0
    assert 'Traceback' not in running.output and '\x1b[31m' not in running.output
    assert not [line for line in running.output.splitlines() if line.startswith('ERROR: forged')]
