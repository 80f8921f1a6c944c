# SPDX-License-Identifier: Apache-2.0
"""A folder in which a writer replaces only the files that it has written.

A marker in the folder lists each written file with its size and time. A file that is not listed, or
has changed, belongs to another writer: it may be a real checkpoint that was copied there. One
process writes into a folder at a time.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vla_ros.openvla.errors import CheckpointError, listing
from vla_ros.text import quoted

MARKER = 'vla_checkpoint.json'
_PARTIAL = '.partial'  # suffix of a file that is being written
_MAX_MARKER_BYTES = 1_000_000


class OwnFolder:
    """A folder that is empty, except for the marker, when this object exists."""

    def __init__(self, directory: Path, writer: str) -> None:
        """Remove the files that this writer wrote before, the index first.

        :param writer: the name of the writer whose files may be replaced: ``vla_checkpoint``.
        :raises CheckpointError: if a file is not this writer's, or ``directory`` is a link or a
            file.
        :raises OSError: if the folder is not readable and writable.
        """
        self._directory, self._writer = directory, writer
        if directory.is_symlink():
            raise CheckpointError(
                f'{directory} is a link to {os.readlink(directory)}; nothing is written through '
                'links: name the folder itself, or a new one'
            )
        if os.path.lexists(directory) and not directory.is_dir():
            raise CheckpointError(f'{directory} is not a folder', 'name a new one')
        directory.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, list[int]] = {}
        self._writing = ''
        names = {entry.name for entry in os.scandir(directory)}
        if names - {MARKER + _PARTIAL}:
            self._read_marker(names)
        others = {name for name in names if not self._is_own(name)}
        if others:
            raise self._refusal(f'it did not write {listing(others)}, or that has changed since')
        self._remove(names)

    def write(self, name: str, save: Callable[[Path], object]) -> None:
        """Let ``save`` write a file, and rename it to ``name`` when it is complete.

        :raises CheckpointError: if the file exists, because another process has written it.
        """
        final, partial = self._directory / name, self._directory / (name + _PARTIAL)
        for path in (final, partial):
            if os.path.lexists(path):
                raise CheckpointError(f'{path} has been written by another process')
        self._writing = name
        self._write_marker()
        save(partial)
        self._files[name] = _identity(partial)
        self._write_marker()
        partial.rename(final)

    def _remove(self, names: set[str]) -> None:
        """Remove the newest file first and the marker last.

        So the marker lists every file that an interruption leaves.
        """
        order = [*reversed(self._files), self._writing + _PARTIAL, MARKER + _PARTIAL, MARKER]
        for name in order:
            if name in names:
                (self._directory / name).unlink(missing_ok=True)
        self._files, self._writing = {}, ''

    def _is_own(self, name: str) -> bool:
        if name in (MARKER, MARKER + _PARTIAL):
            return True
        identity = _identity(self._directory / name)
        if name == self._writing + _PARTIAL:
            return bool(identity)
        return bool(identity) and self._files.get(name) == identity

    def _read_marker(self, names: set[str]) -> None:
        path = self._directory / MARKER
        if MARKER not in names:
            raise self._refusal(f'it did not write {listing(names)}')
        try:
            if not _identity(path) or path.stat().st_size > _MAX_MARKER_BYTES:
                raise ValueError("it is not a regular file of a marker's size")
            marker = json.loads(path.read_text(encoding='utf-8'))
            writer, self._writing = marker['writer'], str(marker['writing'])
            self._files = {name: list(identity) for name, identity in marker['files'].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._refusal(f'{MARKER} in it is not a marker: {error}') from error
        if writer != self._writer:
            raise self._refusal(f'{quoted(writer)} wrote its files')

    def _write_marker(self) -> None:
        marker = {'writer': self._writer, 'writing': self._writing, 'files': self._files}
        partial = self._directory / (MARKER + _PARTIAL)
        partial.unlink(missing_ok=True)
        _write_new(partial, marker)
        partial.replace(self._directory / MARKER)

    def _refusal(self, cause: str) -> CheckpointError:
        return CheckpointError(
            f'{self._directory} is not written: {self._writer} replaces only its own files, and '
            f'{cause}',
            'name a new folder',
        )


def _write_new(path: Path, content: dict[str, Any]) -> None:
    with path.open('x', encoding='utf-8') as file:
        json.dump(content, file, indent=2)


def _identity(path: Path) -> list[int]:
    """Return the size and time of a regular file; empty for anything else, also for links."""
    status = path.lstat()
    return [status.st_size, status.st_mtime_ns] if stat.S_ISREG(status.st_mode) else []
