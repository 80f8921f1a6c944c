# SPDX-License-Identifier: Apache-2.0
"""Removal of shared memory that crashed processes left behind. Linux only; independent of ROS.

Fast DDS gives every process a segment, with config/fastdds.xml of 32 MB. A process removes its
segment only at a regular end, so a node that crashes repeatedly fills the memory. The owner holds a
lock on the file beside its segment while it lives; when it dies, the kernel releases the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SHARED_MEMORY = Path('/dev/shm')

_LOCK_FILE = re.compile(r'(fast(?:rtps|dds)_[0-9a-f]{16})_el')  # exclusive lock
_YOUNG_S = 2.0  # a new segment may not be locked yet


class Removed(NamedTuple):
    """The number of removed segments.

    :param byte_count: total size of the segments.
    """

    segments: int = 0
    byte_count: int = 0

    def __str__(self) -> str:
        return (
            f'{self.segments} shared-memory segments, {self.byte_count / 1e6:.1f} MB, of processes '
            'that died were removed'
        )


def remove_dead_segments(folder: Path = SHARED_MEMORY) -> Removed:
    """Remove the segments of this user whose owner is dead; call it before ``rclpy.init``."""
    sizes = list(_remove_all(folder))
    return Removed(len(sizes), sum(sizes))


def _remove_all(folder: Path) -> Iterator[int]:
    """Remove all dead segments, and yield the size of each in bytes."""
    try:
        names = os.listdir(folder)
    except OSError:  # not Linux
        return
    for name in names:
        if match := _LOCK_FILE.fullmatch(name):
            # The owner, or another process that cleans up, may be faster.
            with contextlib.suppress(OSError):
                yield _remove(folder / name, folder / match[1])


def _remove(lock_file: Path, segment: Path) -> int:
    """Remove a segment and its lock file.

    :returns: size of the segment in bytes.
    :raises OSError: if it is in use, is new, or belongs to another user.
    """
    descriptor = os.open(lock_file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        _check_is_ours(status)
        if 0.0 <= time.time() - status.st_mtime < _YOUNG_S:
            raise BlockingIOError
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = 0
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(segment)
            _check_is_ours(status)
            size = status.st_blocks * 512  # pages that were never used have no blocks
            segment.unlink()
        lock_file.unlink()  # last: without it one could not tell whether the segment is in use
        return size
    finally:
        os.close(descriptor)


def _check_is_ours(status: os.stat_result) -> None:
    """Raise PermissionError unless it is a regular file of this user."""
    if not (stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()):
        raise PermissionError
