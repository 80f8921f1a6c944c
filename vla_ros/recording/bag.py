# SPDX-License-Identifier: Apache-2.0
"""The rosbag2 of one episode. Used by the recorder's thread.

`rosbags` writes the file. Each flush ends a chunk of mcap and hands it to the operating system. So
a process that is killed leaves a file that is whole up to its last flush.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import yaml
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vla_ros.recording.episode import NameTaken
from vla_ros.share import share_file

METADATA = 'metadata.yaml'
_VERSION: Literal[9] = 9  # of metadata.yaml: that of Jazzy and later; Humble reads it, too
_CDR_HEAD = 4  # bytes
_IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
_PRIVATE = 0o700  # images of a home or a workplace


@functools.cache
def message_types() -> Typestore:
    """Return ROS's common types and those of this package."""
    types = get_typestore(Stores.LATEST)
    for file in sorted(share_file('msg/VlaAction.msg').parent.glob('*.msg')):
        new = get_types_from_msg(file.read_text(), f'vla_ros/msg/{file.stem}')
        types.register({name: one for name, one in new.items() if name not in types.fielddefs})
    return types


class Bag:
    """A rosbag2 that is being written: one folder with one file.

    :raises OSError: also from its methods, if the system can't write.
    """

    def __init__(self, path: Path, topics: Mapping[str, str]) -> None:
        """Make the folder, and the folders above it that do not exist.

        :param topics: message types by topic.
        :raises NameTaken: if there is such a folder.
        """
        path.parent.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        if path.exists():
            raise NameTaken
        self._writer = Writer(path, version=_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        path.chmod(_PRIVATE)
        self._storage = cast(McapWriter, self._writer.storage)
        types = message_types()
        self._kinds = dict(topics)
        self._connections = {
            topic: self._writer.add_connection(topic, kind, typestore=types)
            for topic, kind in topics.items()
        }
        self._whole = 0  # bytes of the file that are written whole

    def write(self, topic: str, time_ns: int, data: bytes) -> None:
        """Add a message in CDR."""
        kind = self._kinds[topic]
        exact = data if kind in _IMAGES else _without_rest(data, kind)
        self._writer.write(self._connections[topic], time_ns, exact)

    def flush(self) -> None:
        """End the chunk, and hand it to the operating system.

        :raises OSError: also if the file was removed, which the system alone would not tell.
        """
        if self._storage.chunk.msgs:
            self._storage.close_chunk()
        self._storage.bio.flush()
        if not os.fstat(self._storage.bio.fileno()).st_nlink:
            raise FileNotFoundError(errno.ENOENT, 'it was removed while it was written')
        self._whole = self._storage.bio.tell()

    def close(self, custom_data: Mapping[str, str]) -> None:
        """Write the index, and metadata.yaml with these texts by name."""
        self.flush()
        self._writer.custom_data = dict(custom_data)
        self._writer.close()
        set_custom_data(self._writer.path, custom_data)  # in quotes

    def cut(self) -> None:
        """Close after an error: keep what was written whole, without index and metadata.yaml."""
        with contextlib.suppress(Exception):  # what was not written yet cannot be written now
            self._writer.abort()
        with contextlib.suppress(OSError):
            os.truncate(self._storage.path, self._whole)


def _without_rest(data: bytes, kind: str) -> bytes:
    """Return a message without the bytes behind its end.

    rmw_fastrtps estimates the size of what it serializes, too large by some bytes where a message
    has empty sequences. Readers that check the size reject the rest.
    """
    definition = message_types().get_msgdef(kind)
    read = definition.deserialize_cdr_le if data[1] & 1 else definition.deserialize_cdr_be
    _, end = read(data[_CDR_HEAD:], 0, definition.cls, message_types())
    return data[: _CDR_HEAD + end]


class _Quoted(str):
    """A text that is written in quotes."""


class _Dumper(yaml.SafeDumper):
    """Writes metadata.yaml."""


_Dumper.add_representer(
    _Quoted,
    lambda dumper, text: dumper.represent_scalar('tag:yaml.org,2002:str', text, style='"'),
)


def set_custom_data(path: Path, changes: Mapping[str, str]) -> None:
    """Change texts in the metadata.yaml of a recording; it is replaced as a whole.

    All texts are in quotes: without them ``yes`` or ``12:30`` is no text for some readers of YAML.

    :raises OSError: if it can't be read or written.
    """
    file = path / METADATA
    metadata = yaml.safe_load(file.read_text())
    told = metadata['rosbag2_bagfile_information']['custom_data'] | changes
    quoted = {name: _Quoted(text) for name, text in told.items()}
    metadata['rosbag2_bagfile_information']['custom_data'] = quoted
    new = file.with_suffix('.yaml.tmp')
    new.write_text(yaml.dump(metadata, Dumper=_Dumper, sort_keys=False, width=math.inf))
    new.replace(file)
