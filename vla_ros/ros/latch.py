# SPDX-License-Identifier: Apache-2.0
"""The operator's decisions about each robot, kept on disk.

A stop, a disabled robot and a hold last until the operator ends them, also if the node is started
again. Used by the executor's thread; the thread ``vla-latch`` writes.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vla_ros.files import FileError, MissingFileError, read_bytes
from vla_ros.text import quoted

_MAX_BYTES = 64_000
_DISK_S = 0.05  # time in which a disk has usually taken a file; all robots wait for it


@dataclass
class Latch:
    """The operator's decisions about one robot.

    :param stopped: by ``~/stop``, and not reset.
    :param disabled: by ``~/enable``, ``~/stop`` or ``~/reset``, and not enabled.
    :param held: the operator's last word is no instruction: it was empty, rejected, or expired.
    """

    stopped: bool = False
    disabled: bool = False
    held: bool = False


class Latches:
    """The latches of a node's robots, in one JSON file.

    If the file cannot be read, every robot counts as stopped: it may have been.
    """

    def __init__(self, path: Path, robots: Sequence[str]) -> None:
        """Read the file; ``problem`` tells if it cannot be read or written.

        :param path: of the file; it need not exist.
        :param robots: their names; empty for the only one.
        """
        self.path = path
        self._file = _File(path)
        self._is_saved = True
        try:
            told = _read(path)
            self._latches = {name: _latch(told.get(name, {})) for name in robots}
        except (FileError, _Damaged) as error:
            problem = f'{path} is damaged: {error}' if isinstance(error, _Damaged) else error
            self._file.problem = f'latch file {problem}, so every robot counts as stopped'
            self._latches = {name: Latch(stopped=True, disabled=True) for name in robots}
        else:
            self._file.try_folder()

    def __getitem__(self, robot: str) -> Latch:
        """Return a copy of a robot's latch; :meth:`set` changes the latch."""
        return Latch(**asdict(self._latches[robot]))

    def set(self, robot: str, **changes: bool) -> None:
        """Set fields of a robot's latch; call :meth:`save` afterwards."""
        latch = self._latches[robot]
        for name, value in changes.items():
            self._is_saved &= getattr(latch, name) == value
            setattr(latch, name, value)

    def save(self) -> None:
        """Write changes to the disk; call it after the robots have obeyed.

        A slow disk is waited for 0.05 s, once. Until a change is written, it would be lost with the
        process; ``problem`` says so.
        """
        if self._is_saved and not self._file.has_failed:
            return
        self._is_saved = True
        is_late = not self._file.wait(0.0)
        self._file.put({name: asdict(one) for name, one in self._latches.items()})
        if not is_late:
            self._file.wait(_DISK_S)

    @property
    def problem(self) -> str:
        """The message if the file was not read, or lacks changes; empty otherwise."""
        if self._file.wait(0.0):
            return self._file.problem
        return (
            f'latch file {self.path} is not written yet, since the disk is slow; until it is, a '
            'stop ends with the process'
        )

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is left to write; return whether that is so."""
        return self._file.wait(timeout_s)


class _File:
    """A file, and a thread that replaces it with the newest content that was given.

    The thread exists only while there is something to write.
    """

    def __init__(self, path: Path) -> None:
        """Write nothing yet."""
        self.problem = ''  # why the last content was not written, or what was found before it
        self.has_failed = False  # whether it was not written
        self._path = path
        self._condition = threading.Condition()  # held while one of them is changed
        self._content: dict[str, Any] | None = None
        self._is_writing = False

    def try_folder(self) -> None:
        """Try to write now, and not first when the operator stops a robot."""
        try:
            os.makedirs(self._path.parent, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._path.parent):
                pass
        except OSError as error:
            self.problem = _unwritable(self._path, error)

    def put(self, content: dict[str, Any]) -> None:
        """Have this written, in place of what still waits, and return immediately."""
        with self._condition:
            self._content = content
            if not self._is_writing:
                self._is_writing = True
                threading.Thread(target=self._write, name='vla-latch', daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is left to write; return whether that is so."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._is_writing, timeout_s)

    def _write(self) -> None:
        while True:
            with self._condition:
                content, self._content = self._content, None
                if content is None:
                    self._is_writing = False
                    self._condition.notify_all()
                    return
            try:
                _replace(self._path, content)
                problem = ''
            except OSError as error:
                problem = _unwritable(self._path, error)
            with self._condition:
                self.problem, self.has_failed = problem, bool(problem)


class _Damaged(Exception):
    """The file has other content than latches."""


def latch_path(node_name: str, domain_id: int) -> Path:
    """Return the default path: one file for each node's full name and ROS domain.

    :param node_name: fully qualified.
    """
    name = node_name.strip('/').replace('/', '.')  # no ROS name has a dot
    return ros_home() / 'vla_ros' / f'domain_{domain_id}' / f'{name}.json'


def ros_home() -> Path:
    """Return the folder in which ROS keeps its files."""
    return Path(os.environ.get('ROS_HOME') or Path.home() / '.ros')


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_bytes(path, _MAX_BYTES)
    except MissingFileError:
        return {}
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise _Damaged(f'it has {quoted(content[:80])}')
    return told


def _latch(told: Any) -> Latch:
    names = {field.name for field in fields(Latch)}
    if not isinstance(told, dict) or not told.keys() <= names:
        raise _Damaged(f'it has {quoted(told)}')
    if not all(isinstance(value, bool) for value in told.values()):
        raise _Damaged(f'it has {quoted(told)}')
    return Latch(**told)


def _replace(path: Path, content: dict[str, Any]) -> None:
    """Replace the whole file, and wait until it is on disk: the power may fail next."""
    os.makedirs(path.parent, exist_ok=True)
    with tempfile.NamedTemporaryFile('w', dir=path.parent, delete=False) as file:
        try:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    _sync_folder(path.parent)  # the new name is in it


def _sync_folder(folder: Path) -> None:
    """Wait until a folder is on disk. Some file systems of networks can't: they say EINVAL."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f'latch file {path} cannot be written ({error.strerror}): a stop ends with the process; '
        'set ROS_HOME or the parameter latch_file to where the node may write'
    )
