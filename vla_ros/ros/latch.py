"""What the operator decided about each robot, on disk: it outlives the process.

A stop, a disabled robot and a hold stay as they are until the operator ends them, also when a
supervisor starts the node again. Used by the executor's thread.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vla_ros.files import FileError, MissingFileError, read_bytes
from vla_ros.text import quoted

_MAX_BYTES = 64_000


@dataclass
class Latch:
    """
    :param stopped: by ``~/stop``, and not reset.
    :param disabled: by ``~/enable``, ``~/stop`` or ``~/reset``, and not enabled.
    :param held: the operator's last word is no instruction: it was empty, rejected, or expired.
    """

    stopped: bool = False
    disabled: bool = False
    held: bool = False


class Latches:
    """The latches of a node's robots, in one JSON file.

    A file that can't be read means that every robot is stopped: perhaps it was.
    """

    def __init__(self, path: Path, robots: Sequence[str]) -> None:
        """
        :param path: of the file; it need not exist.
        :param robots: their names; empty for the only one.
        """
        self.path = path
        self.problem = ''  # why the file can't be read or written
        self._is_saved = True
        try:
            told = _read(path)
            self._latches = {name: _latch(told.get(name, {})) for name in robots}
        except (FileError, _Damaged) as error:
            problem = f'{path} is damaged: {error}' if isinstance(error, _Damaged) else error
            self.problem = f'latch file {problem}, so every robot counts as stopped'
            self._latches = {name: Latch(stopped=True, disabled=True) for name in robots}
        else:
            self._try_folder()

    def __getitem__(self, robot: str) -> Latch:
        """A copy; :meth:`set` changes it."""
        return Latch(**asdict(self._latches[robot]))

    def set(self, robot: str, **changes: bool) -> None:
        """Set fields of a robot's latch; :meth:`save` has to follow."""
        latch = self._latches[robot]
        for name, value in changes.items():
            self._is_saved &= getattr(latch, name) == value
            setattr(latch, name, value)

    def save(self) -> None:
        """Write what has changed. Call it after the robots have done what was asked.

        What can't be written holds until the process ends; ``problem`` says so.
        """
        if self._is_saved:
            return
        try:
            _write(self.path, {name: asdict(one) for name, one in self._latches.items()})
            self.problem, self._is_saved = '', True
        except OSError as error:
            self.problem = _unwritable(self.path, error)

    def _try_folder(self) -> None:
        """Say now what would fail when the operator stops a robot."""
        try:
            os.makedirs(self.path.parent, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            self.problem = _unwritable(self.path, error)


class _Damaged(Exception):
    """The file holds something else than latches."""


def latch_path(node_name: str, domain_id: int) -> Path:
    """Return the default path: one file for each node's full name and ROS domain.

    :param node_name: fully qualified.
    """
    home = Path(os.environ.get('ROS_HOME') or Path.home() / '.ros')
    name = node_name.strip('/').replace('/', '.')  # no ROS name has a dot
    return home / 'vla_ros' / f'domain_{domain_id}' / f'{name}.json'


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


def _write(path: Path, content: dict[str, Any]) -> None:
    """Replace the file whole, and have it on the disk: it may be the power that fails next."""
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


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f'latch file {path} cannot be written ({error.strerror}): a stop ends with the process; '
        'set ROS_HOME or the parameter latch_file to where the node may write'
    )
