# SPDX-License-Identifier: Apache-2.0
"""The files that a checkpoint was read from, and whether they have changed since.

On the CPU a parameter is the mapped file itself: a file that is overwritten in place changes the
running policy. Code that reads a checkpoint calls :data:`Remember` with each file immediately
before it opens it. Used by the policy's thread only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vla_ros.openvla.errors import CheckpointError

Remember = Callable[[Path], None]


def unwatched(path: Path) -> None:
    """Do not remember the file. For readers that keep no part of it mapped."""


class _Identity(NamedTuple):
    """What changes with a file's content."""

    device: int
    inode: int
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int


class WatchedFiles:
    """The identity of each file at the time when it was opened."""

    def __init__(self) -> None:
        self._opened: dict[Path, _Identity] = {}

    def remember(self, path: Path) -> None:
        """Remember a file; called immediately before it is opened. The first call counts.

        :raises OSError: if there is no such file.
        """
        if path not in self._opened:
            self._opened[path] = _identity(path)

    def check(self) -> None:
        """Compare each file, through links, with what was opened: one ``stat`` for each.

        :raises CheckpointError: if a file has changed.
        """
        for path, opened in self._opened.items():
            change = _change(path, opened)
            if change:
                raise CheckpointError(
                    f'{path} {change} since it was loaded: the model is not the one that was '
                    'checked',
                    'put a checkpoint into a new folder, set model to it, and configure again',
                )


def _change(path: Path, opened: _Identity) -> str:
    """Return what happened to the file; empty if it is the same."""
    try:
        now = _identity(path)
    except FileNotFoundError:
        return 'was deleted'
    except OSError as error:
        return f'cannot be checked any more ({error})'
    if now == opened:
        return ''
    if (now.device, now.inode) != (opened.device, opened.inode):
        return 'was replaced by another file'
    if now.size < opened.size:
        return f'was cut short from {opened.size} to {now.size} bytes'
    if now.size > opened.size:
        return f'was overwritten in place and grew from {opened.size} to {now.size} bytes'
    if now.mtime_ns != opened.mtime_ns:
        return 'was overwritten in place'
    return 'was overwritten in place, or its owner, mode or links were changed,'


def _identity(path: Path) -> _Identity:
    status = os.stat(path)
    return _Identity(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )
