# SPDX-License-Identifier: Apache-2.0
"""What the operator decided outlives the process; what can't be read means stopped."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from support.graph import PATIENCE_S
from vla_ros.ros import latch
from vla_ros.ros.latch import Latch, Latches, latch_path

ROBOTS = ('a', 'b')
STOPPED = Latch(stopped=True, disabled=True)


def reopened(path: Path) -> Latches:
    return Latches(path, ROBOTS)


def test_what_was_decided_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'vla.json'
    latches = reopened(path)
    assert latches['a'] == latches['b'] == Latch() and not latches.problem
    assert not path.exists()
    latches.set('a', stopped=True, disabled=True)
    latches.set('b', held=True)
    latches.save()
    assert latches.wait(PATIENCE_S)
    again = reopened(path)
    assert (again['a'], again['b']) == (STOPPED, Latch(held=True))
    again.set('a', stopped=False)
    again.save()
    assert again.wait(PATIENCE_S)
    assert reopened(path)['a'] == Latch(disabled=True)
    assert [file.name for file in path.parent.iterdir()] == ['vla.json']


def test_a_decision_is_on_disk_when_it_is_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The power may fail: the content must be there before its name, and then the name."""
    synced: list[tuple[bool, bool]] = []
    path = tmp_path / 'vla.json'

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((is_folder, path.exists()))
        if is_folder:
            raise OSError(errno.EINVAL, 'as on some file systems of networks')

    monkeypatch.setattr(os, 'fsync', fsync)
    latches = reopened(path)
    latches.set('a', stopped=True)
    latches.save()
    assert latches.wait(PATIENCE_S)
    assert synced == [(False, False), (True, True)] and not latches.problem


def test_a_slow_disk_delays_nobody(
    hung_disk: threading.Event, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    latches = reopened(tmp_path / 'vla.json')
    for robot in ROBOTS:
        latches.set(robot, stopped=True, disabled=True)
        latches.save()
        assert 'vla.json is not written yet' in latches.problem
        assert latches[robot] == STOPPED
        monkeypatch.setattr(latch, '_DISK_S', 2 * PATIENCE_S)  # it is known that the disk is slow
    assert not latches.wait(0.0)
    assert not latches.path.exists()
    hung_disk.set()
    assert latches.wait(PATIENCE_S)
    assert not latches.problem
    again = reopened(latches.path)
    assert (again['a'], again['b']) == (STOPPED, STOPPED)


def test_what_failed_is_written_with_the_next_save(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    latches = reopened(tmp_path / 'vla.json')
    with monkeypatch.context() as full:
        full.setattr(os, 'fsync', _no_space)
        latches.set('a', stopped=True)
        latches.save()
        assert latches.wait(PATIENCE_S)
        assert 'No space left on device' in latches.problem
    latches.save()
    assert latches.wait(PATIENCE_S)
    assert not latches.problem
    assert reopened(latches.path)['a'] == Latch(stopped=True)


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_nothing_is_written_where_nothing_has_changed(tmp_path: Path) -> None:
    path = tmp_path / 'vla.json'
    latches = reopened(path)
    latches.set('a', stopped=False, held=False)
    latches.save()
    assert not path.exists()


def test_a_latch_that_was_taken_out_changes_nothing(tmp_path: Path) -> None:
    latches = reopened(tmp_path / 'vla.json')
    latches['a'].stopped = True
    assert not latches['a'].stopped


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'{"a": {"stopped": tr',
        b'\xff\xfe',
        b'[]',
        b'7',
        b'{"a": 1}',
        b'{"a": {"stopped": "false"}}',
        b'{"a": {"stopped": 0}}',
        b'{"a": {"halted": true}}',
        b'[' * 60_000,
    ],
    ids=range(10),
)
def test_what_can_not_be_read_means_that_all_are_stopped(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'vla.json'
    path.write_bytes(content)
    latches = reopened(path)
    assert latches['a'] == latches['b'] == STOPPED
    assert f'latch file {path} is damaged' in latches.problem
    assert 'every robot counts as stopped' in latches.problem
    assert len(latches.problem) < 500 and latches.problem.isprintable()
    latches.set('a', stopped=False, disabled=True)
    latches.save()
    assert latches.wait(PATIENCE_S)
    assert not latches.problem
    assert json.loads(path.read_text())['b']['stopped']


@pytest.mark.parametrize(
    'kind', ['folder', 'named pipe', 'link to itself', 'link to nowhere', 'too large', 'unreadable']
)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / 'vla.json'
    if kind == 'folder':
        path.mkdir()
    elif kind == 'named pipe':
        os.mkfifo(path)
    elif kind == 'link to itself':
        path.symlink_to(path)
    elif kind == 'link to nowhere':
        path.symlink_to(tmp_path / 'unmounted')
    elif kind == 'too large':
        path.write_bytes(b' ' * 65_000 + b'{}')
    else:
        path = Path('/proc/self/mem')
    latches = reopened(path)
    assert latches['a'] == STOPPED
    assert str(path) in latches.problem


def test_what_can_not_be_written_is_said_and_holds_until_the_end(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    latches = reopened(tmp_path / 'file' / 'vla.json')
    assert 'cannot be' in latches.problem
    latches = Latches(Path('/proc/vla.json'), ROBOTS)
    assert latches['a'] == Latch()
    latches.set('a', stopped=True)
    latches.save()
    assert latches.wait(PATIENCE_S)
    assert latches['a'].stopped
    assert 'a stop ends with the process' in latches.problem and 'ROS_HOME' in latches.problem


def test_each_node_and_domain_has_a_file_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv('ROS_HOME', str(tmp_path))
    paths = [latch_path('/vla', 0), latch_path('/vla', 1), latch_path('/arm/vla', 0)]
    assert paths[2] == tmp_path / 'vla_ros' / 'domain_0' / 'arm.vla.json'
    assert len(set(paths)) == 3
