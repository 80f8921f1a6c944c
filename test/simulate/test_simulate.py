# SPDX-License-Identifier: Apache-2.0
"""The whole node in the deterministic simulation; see ``test/simulate``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.places import ROOT
from vla_ros.release import ros_distro

pytestmark = pytest.mark.skipif(
    ros_distro() not in ('jazzy', 'kilted'),
    reason="the fake extension module stands in for those of Jazzy's and Kilted's rclpy",
)

SIMULATE = ROOT / 'test' / 'simulate'
# Those of the first fifty that have every kind of fault among them.
SEEDS = '0-1,3-5,7,9,11,15-16,18,20-22,27,30,32,35,38-39,45-49'
_MORE = 16  # seeds that differ from one state of the sources to the next
_FIRST_OF_THEM = 1_000_000  # above those that anybody writes down


def _run(*arguments: str, hash_seed: str = '0') -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        'PYTHONHASHSEED': hash_seed,
        'PYTHONPATH': os.pathsep.join(
            [str(ROOT), str(ROOT / 'test'), os.environ.get('PYTHONPATH', '')]
        ),
    }
    return subprocess.run(
        [sys.executable, '-m', *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def _assert_no_violation(seeds: str) -> str:
    ended = _run('simulate.run', seeds)
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert 'violations in 0 seeds' in ended.stdout
    return ended.stdout


def _sources() -> list[Path]:
    return sorted([*(ROOT / 'vla_ros').rglob('*.py'), *SIMULATE.glob('*.py')])


def _seeds_of_this_state() -> str:
    """So every change is tried with seeds of its own, and the same state with the same ones."""
    digest = hashlib.sha256(b''.join(file.read_bytes() for file in _sources())).hexdigest()
    first = _FIRST_OF_THEM + 50 * (int(digest[:8], 16) % 10_000_000)
    return f'{first}-{first + _MORE - 1}'


def _observations(script: str, patience: float = 1.0) -> dict[str, object]:
    """What the scripts observe; nothing if one of them raised."""
    ended = _run('simulate.rclpy_script', script, str(patience))
    print(ended.stderr)
    return json.loads(ended.stdout.splitlines()[-1]) if ended.returncode == 0 else {}


def test_rclpy_on_the_fake_extension_module_behaves_as_rclpy() -> None:
    fake = _observations('fake')
    for patience in (1.0, 2.0, 5.0):  # what has been discovered by then depends on the machine
        real = _observations('real', patience)
        if real == fake:
            break
    assert fake and real.keys() == fake.keys()
    for name, observed in real.items():
        assert fake[name] == observed, name


def test_seeds_that_are_always_run_and_every_kind_of_fault_among_them() -> None:
    output = _assert_no_violation(SEEDS)
    faults = dict(re.findall(r'^    (\w+) +(\d+)$', output, re.MULTILINE))
    assert len(faults) > 50
    assert [name for name, count in faults.items() if count == '0'] == []
    assert int(re.search(r'(\d+) faults or more in each', output)[1]) >= 3


def test_seeds_of_this_state_of_the_sources() -> None:
    _assert_no_violation(_seeds_of_this_state())


def test_seeds_that_found_something_once() -> None:
    lines = (SIMULATE / 'regressions.txt').read_text().splitlines()
    seeds = [line.split()[0] for line in lines if line.strip() and not line.startswith('#')]
    if seeds:
        _assert_no_violation(','.join(seeds))


def test_the_same_seed_gives_the_same_trace_in_every_process() -> None:
    one = _run('simulate.run', '7', '--trace', hash_seed='1').stdout
    after_others = _run('simulate.run', '3,7', '--trace', hash_seed='2').stdout
    assert len(one.splitlines()) > 500
    assert after_others.endswith(one)
