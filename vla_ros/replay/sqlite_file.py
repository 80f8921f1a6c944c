# SPDX-License-Identifier: Apache-2.0
"""A recording in sqlite3, read by SQL.

The user's files are never changed: a database is opened as immutable, unless a log of writes is
beside it. Then SQLite applies that log to a temporary copy of both.
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from vla_ros.replay.storage import Channel, StorageError, temporary_folder

# Beside a database: writes that are not in it yet, or that must be undone, after a crash.
_WAL = '-wal'
_LOGS = (_WAL, '-journal')
_WAL_HEAD_SIZE, _FRAME_HEAD_SIZE = 32, 24  # bytes
_MIN_PAGE, _MAX_PAGE = 512, 65536  # bytes
_CLOSE = "close the recorder, and apply the log: `sqlite3 {0} 'pragma wal_checkpoint(truncate)'`"
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"  # not a view, which may be endless
_NOT_A_RECORDING = 'name a folder that ros2 bag wrote, an .mcap or a .db3'


class SqliteFile:
    """A database of rosbag2; as :class:`~vla_ros.replay.storage.Storage`."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """Open the database, and count its messages.

        :param stack: removes temporary files when it is closed.
        :raises StorageError: if it is not a recording, is being written, or is damaged.
        :raises sqlite3.Error: if it is damaged.
        """
        self._name = path.name
        self.recovery = self.recovery_of(path)
        self.announced: dict[int, int] = {}
        self._database = _opened(path, stack)
        stack.callback(self._database.close)
        self._database.text_factory = lambda text: text.decode(errors='replace')
        self.channels = self._read_channels()
        self.counts, self.first_ns = self._count()

    @staticmethod
    def recovery_of(path: Path) -> str:
        """Return advice for a file that is damaged."""
        return (
            'copy it again if the copy was cut off, or save what is left: '
            f'`sqlite3 {path.name} .recover | sqlite3 recovered.db3`'
        )

    def messages(self, channels: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield time, channel and data of each message, in the order of time.

        :raises StorageError: if a row is damaged, or the table has more rows than its index gives.
        """
        query = (
            'SELECT timestamp, topic_id, data FROM messages '
            f'WHERE topic_id IN ({",".join("?" * len(channels))}) ORDER BY timestamp, rowid'
        )
        count = 0
        for time_ns, channel, data in self._database.execute(query, list(channels)):
            if not isinstance(time_ns, int) or not isinstance(data, bytes):
                raise self._incomplete()
            count += 1
            yield time_ns, channel, data
        expected = sum(self.counts[channel] for channel in channels)
        if count != expected:
            raise StorageError(
                f'{self._name} has {expected} messages, of which its index lists {count}',
                f'make the index again: `sqlite3 {self._name} reindex`',
            )

    def _read_channels(self) -> dict[int, Channel]:
        tables = {name for (name,) in self._database.execute(_TABLES)}
        if not {'topics', 'messages'} <= tables:
            raise StorageError(
                f'{self._name} is a database of sqlite3, but not of a recording', _NOT_A_RECORDING
            )
        definitions: dict[str, str] = {}
        if 'message_definitions' in tables:  # since Iron
            query = 'SELECT topic_type, encoded_message_definition FROM message_definitions '
            definitions = dict(self._database.execute(f"{query}WHERE encoding = 'ros2msg'"))
        query = 'SELECT id, name, type, serialization_format FROM topics'
        return {
            number: Channel(str(topic), str(schema), str(encoding), definitions.get(schema, ''))
            for number, topic, schema, encoding in self._database.execute(query)
        }

    def _count(self) -> tuple[Counter[int], dict[int, int]]:
        """Return the number and the earliest time of the messages by channel."""
        query = 'SELECT topic_id, COUNT(*), MIN(timestamp) FROM messages GROUP BY topic_id'
        rows = self._database.execute(query).fetchall()
        counts = Counter({channel: count for channel, count, _ in rows})
        first_ns = {channel: time_ns for channel, _, time_ns in rows}
        lost = sum(count for channel, count in counts.items() if channel not in self.channels)
        if lost:
            raise StorageError(f'{self._name}: {lost} messages belong to no topic', self.recovery)
        if not all(isinstance(time_ns, int) for time_ns in first_ns.values()):
            raise self._incomplete()
        return counts, first_ns

    def _incomplete(self) -> StorageError:
        return StorageError(f'{self._name} has a message without time or data', self.recovery)


def _opened(path: Path, stack: ExitStack) -> sqlite3.Connection:
    """Return the database, with its log applied."""
    path = path.resolve()  # the log of a linked database is beside the database itself
    logs = [path.with_name(path.name + suffix) for suffix in _LOGS]
    logs = [log for log in logs if log.exists() and log.stat().st_size]
    if not logs:
        return sqlite3.connect(f'file:{quote(str(path))}?immutable=1', uri=True)
    database = sqlite3.connect(_copy([path, *logs], stack))
    stack.callback(database.close)  # before the folder is removed
    [(result,)] = database.execute('PRAGMA quick_check(1)')  # the log may be of another database
    if result != 'ok':
        raise StorageError(
            f'{path.name} and {logs[0].name} do not fit together',
            'copy both again, after the recorder was closed',
        )
    [(_, applied, _)] = database.execute('PRAGMA wal_checkpoint').fetchall()
    if logs[0].name.endswith(_WAL) and _has_more(logs[0], applied):
        raise StorageError(
            f'{logs[0].name} is cut off or damaged, so SQLite would leave out messages',
            f'copy it again; to do without them, {_CLOSE.format(path.name)}',
        )
    return database


def _has_more(log: Path, applied: int) -> bool:
    """Return whether a write-ahead log has more transactions than SQLite can apply.

    See https://sqlite.org/fileformat.html, section 4. Behind the current frames, a log may have
    those of before its restarts, each of which adds 1 to the first half of the salt.

    :param applied: number of frames that SQLite applied.
    """
    with log.open('rb') as file:
        head = file.read(_WAL_HEAD_SIZE).ljust(_WAL_HEAD_SIZE, b'\0')
        page_size, restarts, salt = struct.unpack('>III', head[8:20])
        if not _MIN_PAGE <= page_size <= _MAX_PAGE:
            return True
        size = _FRAME_HEAD_SIZE + page_size
        file.seek(_WAL_HEAD_SIZE + applied * size)
        is_current = True
        while frame := file.read(size):
            if len(frame) < size:
                return is_current
            age = (salt - int.from_bytes(frame[8:12], 'big')) % 2**32  # in restarts
            is_current = not 0 < age <= restarts
            ends_transaction = any(frame[4:8])
            if ends_transaction and (is_current or not applied):
                return True
    return False


def _copy(files: list[Path], stack: ExitStack) -> Path:
    """Return a copy of the first file, with the others beside it."""
    folder = temporary_folder(stack)
    advice = _CLOSE.format(files[0].name)
    before = _states(files)
    try:
        for file in files:
            shutil.copyfile(file, folder / file.name)
    except OSError as error:
        text = f'{files[0].name} and {files[1].name} cannot be copied ({error.strerror})'
        raise StorageError(text, advice) from error
    if _states(files) != before:
        raise StorageError(f'{files[0].name} is being written', advice)
    return folder / files[0].name


def _states(files: list[Path]) -> list[tuple[int, int]]:
    return [(status.st_size, status.st_mtime_ns) for status in map(Path.stat, files)]
