# SPDX-License-Identifier: Apache-2.0
"""The interface of a recording's files, whatever their format, and their kind by their content.

A file is recognised by its first bytes, since names are often changed. One that is not a recording
of ROS 2 is named, with what its user can do.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from vla_ros.errors import VlaError

CDR = 'cdr'  # the encoding of all messages of ROS 2
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
MAX_BYTES = 2**30  # of a message, or of a part of a file; more is damage, or meant to fill memory

_COPY_AGAIN = 'copy the recording again, from where it was made'
_UNPACK = 'unpack it first'
# The first bytes of files that users have, what these are, and what helps.
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (
        b'#ROSBAG V',
        'a recording of ROS 1',
        'convert it with `rosbags-convert --src THE.bag --dst NEW_FOLDER`, and name that folder',
    ),
    (b'version https://git-lfs', 'a pointer of Git LFS', 'download the file with `git lfs pull`'),
    (b'rosbag2_bagfile_information', 'the metadata of a recording', 'name the folder that has it'),
    (b'\x37\x7f\x06', 'the log of a database', 'name the .db3 beside it'),
    (b'\x1f\x8b', 'compressed with gzip', _UNPACK),
    (b'BZh', 'compressed with bzip2', _UNPACK),
    (b'\xfd7zXZ', 'compressed with xz', _UNPACK),
    (b'\x04\x22\x4d\x18', 'compressed with lz4', _UNPACK),
    (b'PK\x03\x04', 'a ZIP archive', _UNPACK),
    (bytes(16), 'zeros, as a full disk or a power failure leaves them', _COPY_AGAIN),
)
MCAP_MAGIC = b'\x89MCAP0\r\n'
SQLITE_MAGIC = b'SQLite format 3\0'


class StorageError(VlaError):
    """A file of a recording, or a folder of files, that can't be read."""


@dataclass(frozen=True)
class Channel:
    """Messages of one type on one topic; a file may have several for a topic.

    :param schema: name of the type in the file.
    :param encoding: of the messages, such as ``cdr``, ``json`` or ``protobuf``.
    :param definition: text of the .msg file, with those of its parts; empty if the file has none.
    """

    topic: str
    schema: str
    encoding: str
    definition: str

    @property
    def message_type(self) -> str:
        """The type; one that is not of ROS 2 has its encoding, so that it equals no type of ROS."""
        if self.schema and self.encoding == CDR:
            return self.schema
        return f'{self.schema or "no type"} in {self.encoding or "no encoding"}'


class Storage(Protocol):
    """An open file of a recording."""

    @property
    def channels(self) -> Mapping[int, Channel]:
        """The channels by their numbers."""

    @property
    def counts(self) -> Mapping[int, int]:
        """Number of messages by channel, counted in the file itself."""

    @property
    def announced(self) -> Mapping[int, int]:
        """The same by the file's own statistics; empty if it has none."""

    @property
    def first_ns(self) -> Mapping[int, int]:
        """Time of the earliest message by channel, without channels that have none."""

    @property
    def recovery(self) -> str:
        """Advice for a file of this format that is damaged."""

    def messages(self, channels: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield time in nanoseconds, channel and data of each message, in the order of time.

        :raises StorageError: where the file is damaged.
        """


def file_magic(path: Path) -> bytes:
    """Return the first bytes of a file of ROS 2.

    :raises StorageError: if it is something else, or empty.
    """
    with path.open('rb') as file:
        head = file.read(64)
    if not head:
        raise StorageError(
            f'{path.name} is empty: the recorder was killed, or a copy failed',
            f'{_COPY_AGAIN}; if it is empty there, too, `ros2 bag reindex` without it',
        )
    for magic in (MCAP_MAGIC, SQLITE_MAGIC, ZSTD_MAGIC):
        if head.startswith(magic):
            return magic
    for magic, what, advice in _FOREIGN:
        if head.startswith(magic):
            raise StorageError(f'{path.name} is {what}', advice)
    raise StorageError(
        f'{path.name} is neither mcap nor sqlite3',
        'name a folder that ros2 bag wrote, an .mcap or a .db3',
    )


def unpack_file(path: Path, stack: ExitStack) -> Path:
    """Return a temporary file with the content of a file that is compressed with zstd.

    :param stack: removes the file when it is closed.
    :raises StorageError: if the compressed file is cut off or damaged.
    """
    unpacked = temporary_folder(stack) / path.name.removesuffix('.zstd')
    try:
        with zstd.open(path, 'rb') as source, unpacked.open('wb') as target:
            shutil.copyfileobj(source, target)
    except (EOFError, zstd.ZstdError) as error:
        raise StorageError(f'{path.name} is cut off or damaged ({error})', _COPY_AGAIN) from error
    except OSError as error:
        raise StorageError(
            f'{path.name} cannot be unpacked into {unpacked.parent} ({error.strerror})',
            'make space there, or name another folder with the environment variable TMPDIR',
        ) from error
    return unpacked


def unpack(data: bytes, size: int) -> bytes:
    """Return data that was compressed with zstd, at most the first ``size`` bytes."""
    with zstd.open(io.BytesIO(data), 'rb') as file:
        return file.read(size)


def temporary_folder(stack: ExitStack) -> Path:
    """Return an empty folder, which is removed when ``stack`` is closed."""
    return Path(stack.enter_context(TemporaryDirectory(prefix='vla_replay_')))


def error_text(error: Exception) -> str:
    """Return the error's type and first line; some of the libraries' errors have no text."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0][:200]}' if lines else type(error).__name__
