# SPDX-License-Identifier: Apache-2.0
"""The files of a recording, from what its user named: a folder or a single file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import yaml

from vla_ros.errors import VlaError
from vla_ros.files import read_text
from vla_ros.replay.mcap_file import McapFile
from vla_ros.replay.sqlite_file import SqliteFile
from vla_ros.replay.storage import (
    SQLITE_MAGIC,
    ZSTD_MAGIC,
    Storage,
    StorageError,
    error_text,
    file_magic,
    unpack_file,
)

METADATA = 'metadata.yaml'

_MAX_METADATA_BYTES = 100_000_000
_ZSTD = '.zstd'
_FILES = ('.mcap', '.db3', _ZSTD)
_REINDEX = '`ros2 bag reindex {0}` makes it from the files that are in the folder'


@dataclass(frozen=True)
class Files:
    """The files of a recording.

    :param announced: messages by topic and type, according to metadata.yaml; empty without it.
    :param custom_data: what the recorder says of the recording there, texts by name.
    """

    paths: Sequence[Path]
    announced: Counter[tuple[str, str]] = field(default_factory=Counter)
    custom_data: Mapping[str, str] = field(default_factory=dict)


def find_files(path: Path) -> Files:
    """Return the files of a recording.

    :raises StorageError: if they are not all there, or it is not clear which they are.
    """
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in inside:
        is_expected = file == path or file.suffix in (*_FILES, '.yaml')
        if is_expected and not file.is_file():  # a pipe would be waited for
            raise StorageError(f'{file} is not a regular file', 'name a folder that ros2 bag wrote')
    if not path.is_dir():
        return Files([path])
    if path / METADATA not in inside:
        raise _without_metadata(path, inside)
    try:
        metadata = yaml.safe_load(read_text(path / METADATA, _MAX_METADATA_BYTES))
        files = _listed(metadata['rosbag2_bagfile_information'])
    except VlaError:
        raise
    except Exception as error:  # of YAML: its own, and those of int(), date(), a deep nesting
        text = f'{METADATA} is damaged ({type(error).__name__}: {error})'
        raise StorageError(text, _REINDEX.format(path)) from error
    found = [file.name for file in inside if file.suffix in _FILES]
    names = [_present(name, found, path) for name in dict.fromkeys(files.paths)]
    _check_others(names, found, path)
    return replace(files, paths=[path / name for name in names])


def open_file(path: Path, stack: ExitStack) -> Storage:
    """Open one file of a recording.

    :param stack: closes it.
    :raises StorageError: if it is not a file of a recording, or is damaged.
    :raises OSError: if the system can't read it.
    """
    magic = file_magic(path)
    if magic == ZSTD_MAGIC:
        path = unpack_file(path, stack)
        magic = file_magic(path)
    if magic == ZSTD_MAGIC:
        raise StorageError(f'{path.name} is compressed twice', 'unpack it with `zstd -d`')
    kind = SqliteFile if magic == SQLITE_MAGIC else McapFile
    try:
        return kind(path, stack)
    except (StorageError, OSError):
        raise
    except Exception as error:  # of sqlite3, struct, zstd ...
        text = f'{path.name} is damaged ({error_text(error)})'
        raise StorageError(text, kind.recovery_of(path)) from error


def _listed(metadata: Any) -> Files:
    """Return the files and the numbers of messages in metadata.yaml.

    :raises KeyError: if it lacks something. So do TypeError, ValueError and AttributeError.
    """
    compression = metadata.get('compression_format') or 'zstd'
    if compression != 'zstd':
        raise StorageError(
            f'the recording is compressed with {compression}',
            'convert it with `ros2 bag convert`, to zstd or none',
        )
    announced: Counter[tuple[str, str]] = Counter()
    for one in metadata.get('topics_with_message_count') or ():  # `ros2 bag reindex` may find none
        topic = one['topic_metadata']
        announced[str(topic['name']), str(topic['type'])] += int(one['message_count'])
    names = [PurePath(name).name for name in metadata['relative_file_paths']]
    if not names:
        raise ValueError('it lists no files')
    custom_data = {
        str(name): str(text) for name, text in (metadata.get('custom_data') or {}).items()
    }
    return Files([Path(name) for name in names], announced, custom_data)


def _present(name: Path, found: Sequence[str], folder: Path) -> str:
    """Return the name of a listed file in the folder, where it may be compressed or not."""
    other = name.name.removesuffix(_ZSTD) if name.suffix == _ZSTD else f'{name}{_ZSTD}'
    for one in (name.name, other):
        if one in found or (folder / one).is_file():
            return one
    raise StorageError(
        f'{METADATA} lists {name}, which is not in the folder',
        f'copy {name} there, too; if it is lost, {_REINDEX.format(folder)}',
    )


def _check_others(names: Sequence[str], found: Sequence[str], folder: Path) -> None:
    """Check that the folder has no other files of recordings than these."""
    known = {name.removesuffix(_ZSTD) for name in names}
    others = [name for name in found if name.removesuffix(_ZSTD) not in known]
    if others:
        raise StorageError(
            f'{METADATA} does not list {", ".join(others)}',
            f'if the recorder was killed, {_REINDEX.format(folder)}; otherwise move the file away, '
            'or name the file that you mean',
        )


def _without_metadata(path: Path, inside: Sequence[Path]) -> StorageError:
    what = f'the folder has no {METADATA}'
    bags = [one.name for one in inside if (one / METADATA).is_file()]
    ros_1 = [one.name for one in inside if one.suffix in ('.bag', '.active')]
    files = [one.name for one in inside if one.suffix in _FILES]
    if bags:
        return StorageError(f'{what}, but recordings: {", ".join(bags)}', 'name one of them')
    if ros_1:
        return StorageError(
            f'{what}, but recordings of ROS 1: {", ".join(ros_1)}',
            f'convert them with `rosbags-convert --src {ros_1[0]} --dst NEW_FOLDER`',
        )
    if files:
        return StorageError(
            f'{what}, but {", ".join(files)}; the recorder was killed, or a copy is not complete',
            f'name a file of it, or {_REINDEX.format(path)}',
        )
    return StorageError(f'{what}, and no recording', 'name the folder that ros2 bag wrote')
