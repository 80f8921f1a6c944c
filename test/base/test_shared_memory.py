# SPDX-License-Identifier: Apache-2.0
"""What crashed processes leave in shared memory is removed, and nothing else."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import running_python
from vla_ros.client.processes import camera_environment
from vla_ros.shared_memory import SHARED_MEMORY, Removed, remove_dead_segments

NAME = 'fastrtps_0123456789abcdef'
SIZE = 8192


def left(folder: Path, name: str = NAME, age_s: float = 60.0) -> Path:
    """A segment and its lock, that nobody holds."""
    segment, lock = folder / name, folder / f'{name}_el'
    segment.write_bytes(b'\1' * SIZE)
    lock.write_bytes(b'')
    os.utime(lock, (time.time() - age_s,) * 2)
    return segment


@pytest.mark.parametrize('name', [NAME, 'fastdds_0123456789abcdef'])  # of Fast DDS 2 and 3
def test_a_dead_segment_is_removed_and_counted(tmp_path: Path, name: str) -> None:
    left(tmp_path, name)
    removed = remove_dead_segments(tmp_path)
    assert removed == Removed(1, SIZE)
    assert '1 shared-memory segments, 0.0 MB' in str(removed)
    assert list(tmp_path.iterdir()) == []
    assert remove_dead_segments(tmp_path) == Removed()


def test_a_segment_in_use_stays(tmp_path: Path) -> None:
    segment = left(tmp_path)
    with open(f'{segment}_el') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert remove_dead_segments(tmp_path) == Removed()
    assert segment.exists()
    assert remove_dead_segments(tmp_path).segments == 1  # its owner has died


@pytest.mark.parametrize('age_s', [0.0, 1.0])
def test_a_segment_that_is_just_being_made_stays(tmp_path: Path, age_s: float) -> None:
    left(tmp_path, age_s=age_s)
    assert remove_dead_segments(tmp_path) == Removed()


def test_a_clock_that_went_back_keeps_no_segment(tmp_path: Path) -> None:
    left(tmp_path, age_s=-3600.0)
    assert remove_dead_segments(tmp_path).segments == 1


def test_a_lock_without_its_segment_is_removed(tmp_path: Path) -> None:
    left(tmp_path).unlink()
    assert remove_dead_segments(tmp_path) == Removed(1, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason='files of another user need root')
@pytest.mark.parametrize('suffix', ['', '_el'])
def test_a_segment_of_another_user_stays(tmp_path: Path, suffix: str) -> None:
    segment = left(tmp_path)
    os.chown(f'{segment}{suffix}', 12345, 12345)
    assert remove_dead_segments(tmp_path) == Removed()
    assert len(list(tmp_path.iterdir())) == 2


OTHERS: dict[str, Callable[[Path], object]] = {
    'fastrtps_port7400_el': Path.touch,
    'fastrtps_0123456789abcde_el': Path.touch,
    'fastrtps_0123456789abcdef_el~': Path.touch,
    'sem.fastrtps_port7400_mutex': Path.touch,
    'fastrtps_aaaaaaaaaaaaaaaa_el': lambda path: path.symlink_to('/dev/null'),
    'fastrtps_bbbbbbbbbbbbbbbb_el': os.mkfifo,  # to open it would wait
    'fastrtps_cccccccccccccccc_el': Path.mkdir,
}


def test_whatever_else_is_there_stays(tmp_path: Path) -> None:
    for name, make in OTHERS.items():
        make(tmp_path / name)
    for name in OTHERS:
        os.utime(tmp_path / name, (0, 0), follow_symlinks=False)
    assert remove_dead_segments(tmp_path) == Removed()
    assert {path.name for path in tmp_path.iterdir()} == set(OTHERS)


def test_a_machine_without_such_a_folder(tmp_path: Path) -> None:
    assert remove_dead_segments(tmp_path / 'nowhere') == Removed()


def own_segments(pid: int) -> set[str]:
    """The large segments that a process has mapped."""
    mapped = Path(f'/proc/{pid}/maps').read_text()
    pattern = rf'{SHARED_MEMORY}/((?:fastrtps|fastdds)_[0-9a-f]{{16}})$'  # of Fast DDS 2 and 3
    names = set(re.findall(pattern, mapped, re.MULTILINE))
    return {name for name in names if size_of(SHARED_MEMORY / name) > 30_000_000}


def size_of(path: Path) -> int:
    """0 if there is no such file any more: another process may have removed it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason='Linux only')
def test_a_node_that_crashes_again_and_again_does_not_fill_the_memory() -> None:
    """With config/fastdds.xml, of which each process has 32 MB."""
    command = ['-m', 'vla_ros.cli.node', '--ros-args', '-r', '__ns:=/crashes']
    command += ['-p', 'model:=scripted:slow=2.5@load,exit@load']  # longer than a segment is young
    leftovers: list[set[str]] = []
    for _ in range(3):
        streams = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT}
        with running_python(*command, environment=camera_environment(), **streams) as node:
            segments: set[str] = set()
            while node.poll() is None:
                segments |= own_segments(node.pid)
                time.sleep(0.02)
            assert node.returncode == -signal.SIGABRT
            assert node.stdout is not None
            said = node.stdout.read()
        assert len(segments) == 1
        for before in leftovers:
            assert not any((SHARED_MEMORY / name).exists() for name in before)
        # Who removed them does not matter: nodes of other tests that start meanwhile do so, too.
        print(said)
        leftovers.append(segments)
    remove_dead_segments()
    assert not any((SHARED_MEMORY / name).exists() for name in leftovers[-1])
