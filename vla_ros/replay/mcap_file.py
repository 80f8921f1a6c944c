# SPDX-License-Identifier: Apache-2.0
"""A recording in mcap (https://mcap.dev/spec), read record by record.

The file's index is a help, not the truth. Where it agrees with the file's statistics, messages are
counted by it, and checked against it when they are read. Where the two disagree or are absent, as
in the file of a recorder that was killed, every message itself is counted.

In memory are the number of messages by chunk and channel, one chunk, and the messages of chunks
that overlap in time.
"""

from __future__ import annotations

import heapq
import io
import math
import os
import struct
from binascii import crc32
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lz4.frame import LZ4FrameFile  # type: ignore[import-untyped]

from vla_ros.replay.storage import MAX_BYTES, MCAP_MAGIC, Channel, StorageError, unpack

_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _INDEX = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
_STATISTICS, _DATA_END = 0x0B, 0x0F

_HEAD = struct.Struct('<BQ')  # of a record: its kind, and the number of bytes after this head
_MESSAGE_HEAD = struct.Struct('<HIQQ')  # channel, sequence, log time, publish time
_CHUNK_HEAD = struct.Struct('<QQQI')  # first time, last time, size and CRC of the content
_ENTRY = struct.Struct('<QQ')  # of an index: log time, offset of the record in the chunk
_SIZE = struct.Struct('<Q')
_COUNT = struct.Struct('<HQ')  # channel, messages
_STATISTICS_HEAD_SIZE = struct.calcsize('<QHIIIIQQ')

_RUN_BYTES = 2**20  # a run of messages outside chunks ends after so many
_MAX_WAITING_BYTES = 2 * MAX_BYTES


class _Listing(NamedTuple):
    """The number of a channel's messages in a chunk or in the file, and their earliest time."""

    messages: int
    first_ns: int


@dataclass
class _Chunk:
    """A chunk, or a run of messages outside chunks, which is read as a chunk is.

    :param position: of the content in the file, where it has ``packed_size`` bytes.
    :param size: bytes of the unpacked content; ``crc`` is of the same, or 0 for none.
    :param listings: messages by channel, as the index or the content has them.
    """

    position: int
    packed_size: int
    compression: str
    size: int
    crc: int
    is_run: bool = False
    listings: dict[int, _Listing] = field(default_factory=dict)


class McapFile:
    """A file of mcap; as :class:`~vla_ros.replay.storage.Storage`."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """Open the file, and count its messages.

        :raises StorageError: if it is cut off, is damaged, or has only messages of ROS 1.
        """
        self._name = path.name
        self.recovery = self.recovery_of(path)
        self.announced: dict[int, int] = {}
        self._file = path.open('rb')
        stack.callback(self._file.close)
        self._schemas: dict[int, tuple[str, str, str]] = {0: ('', '', '')}  # name, encoding, text
        self._topics: dict[int, tuple[str, str, int]] = {}  # topic, encoding, schema by channel
        self._chunks: list[_Chunk] = []
        for kind, position, size in self._records():
            self._add(kind, position, size)
        if not (self._index_is_complete() and self._are_described(self.announced)):
            self._look_into_chunks()
        listings = self._listings()
        self.counts = Counter({channel: one.messages for channel, one in listings.items()})
        self.first_ns = {channel: one.first_ns for channel, one in listings.items()}
        self.channels = {number: self._channel(number) for number in self._topics}
        self._check_channels()

    @staticmethod
    def recovery_of(path: Path) -> str:
        """Return advice for a file that is damaged."""
        return (
            'save what is whole with the tool of mcap.dev: '
            f'`mcap recover {path.name} -o recovered.mcap`'
        )

    def messages(self, channels: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield time, channel and data of each message, in the order of time, then of the file.

        :raises StorageError: if a record is damaged, or the index does not fit the messages.
        """
        wanted = set(channels)
        starts = sorted(
            (min(chunk.listings[channel].first_ns for channel in found), number)
            for number, chunk in enumerate(self._chunks)
            if (found := wanted & chunk.listings.keys())
        )
        waiting = _Waiting()
        for first_ns, number in starts:
            yield from waiting.before(first_ns)
            for offset, time_ns, channel, data in self._messages_of(number, wanted):
                waiting.add(time_ns, number, offset, channel, data)
            if waiting.size > _MAX_WAITING_BYTES:
                raise StorageError(
                    f'{self._name} has too many chunks that overlap in time',
                    f'order its messages: `mcap sort {self._name} -o sorted.mcap`',
                )
        yield from waiting.before(math.inf)

    def _messages_of(
        self, number: int, wanted: Collection[int]
    ) -> Sequence[tuple[int, int, int, bytes]]:
        """Return offset, time, channel and data of the messages of a chunk.

        :raises StorageError: if the chunk has other messages than it had when the file was opened.
        """
        chunk = self._chunks[number]
        content = self._unpacked(chunk)
        messages: list[tuple[int, int, int, bytes]] = []
        listings: dict[int, _Listing] = {}
        for offset, size, channel, time_ns in self._message_records(content):
            _add_listing(listings, channel, 1, time_ns)
            if channel in wanted:
                data = content[offset + _MESSAGE_HEAD.size : offset + size]
                messages.append((offset, time_ns, channel, data))
        if listings != chunk.listings:
            raise self._damaged(f'the index of chunk {number} does not fit its content')
        return messages

    # -- opening -----------------------------------------------------------------------------------

    def _records(self) -> Iterator[tuple[int, int, int]]:
        """Yield kind, position and size of each record outside chunks.

        A file without an end is whole if its last record is, or all its messages came before.
        """
        file_size = os.fstat(self._file.fileno()).st_size
        position, has_all_messages = len(MCAP_MAGIC), False
        while position < file_size:
            head = self._read(position, min(_HEAD.size, file_size - position))
            kind, size = head[0], int.from_bytes(head[1:], 'little')
            if not kind:
                raise self._damaged(f'byte {position} begins no record')
            if position + _HEAD.size + size > file_size:
                if has_all_messages:
                    return
                raise StorageError(
                    f'{self._name} is cut off within the record at byte {position}: the recorder '
                    'was killed, or a copy failed',
                    self.recovery,
                )
            yield kind, position + _HEAD.size, size
            position += _HEAD.size + size
            has_all_messages = has_all_messages or kind == _DATA_END
            if kind == _FOOTER:
                self._check_end(position, file_size)
                return

    def _check_end(self, position: int, file_size: int) -> None:
        end = self._read(position, min(len(MCAP_MAGIC) + 1, file_size - position))
        if not MCAP_MAGIC.startswith(end):
            extra = file_size - position - len(MCAP_MAGIC)
            raise StorageError(
                f'{self._name} has {extra} bytes behind its end; another file was appended?',
                'join recordings with `mcap merge` or `ros2 bag convert`, not by appending files',
            )

    def _add(self, kind: int, position: int, size: int) -> None:
        """Take in one record outside chunks."""
        if kind == _CHUNK:
            self._add_chunk(position, size)
        elif kind == _MESSAGE:
            self._add_to_run(position, size)
        elif kind == _INDEX:
            self._add_index(self._read(position, size))
        elif kind in (_SCHEMA, _CHANNEL, _STATISTICS):
            self._add_description(kind, self._read(position, size))

    def _add_chunk(self, position: int, size: int) -> None:
        # The head, and a name of a compression that would be of any length in a damaged file.
        head = self._read(position, min(size, 200))
        _, _, unpacked_size, crc = _CHUNK_HEAD.unpack_from(head)
        compression, offset = _text(head, _CHUNK_HEAD.size)
        [packed_size] = _SIZE.unpack_from(head, offset)
        offset += _SIZE.size
        if offset + packed_size > size:
            raise self._damaged(f'the chunk at byte {position} is larger than its record')
        self._chunks.append(_Chunk(position + offset, packed_size, compression, unpacked_size, crc))

    def _add_to_run(self, position: int, size: int) -> None:
        """Take in a message outside chunks."""
        channel, _, time_ns, _ = _MESSAGE_HEAD.unpack(self._read(position, _MESSAGE_HEAD.size))
        begin = position - _HEAD.size
        run = self._chunks[-1] if self._chunks else None
        if (
            run is None
            or not run.is_run
            or run.position + run.size != begin
            or run.size > _RUN_BYTES
        ):
            run = _Chunk(begin, 0, '', 0, 0, is_run=True)
            self._chunks.append(run)
        run.size = run.packed_size = position + size - run.position
        _add_listing(run.listings, channel, 1, time_ns)

    def _add_index(self, record: bytes) -> None:
        """Take in the index of one channel in the last chunk."""
        size = int.from_bytes(record[2:6], 'little')
        times_ns = [time_ns for time_ns, _ in _ENTRY.iter_unpack(record[6 : 6 + size])]
        if times_ns and self._chunks and not self._chunks[-1].is_run:
            channel = int.from_bytes(record[:2], 'little')
            _add_listing(self._chunks[-1].listings, channel, len(times_ns), min(times_ns))

    def _add_description(self, kind: int, record: bytes) -> None:
        """Take in a record that describes messages, from within or outside a chunk."""
        number = int.from_bytes(record[:2], 'little')
        if kind == _SCHEMA:
            name, offset = _text(record, 2)
            encoding, offset = _text(record, offset)
            schema = (name, encoding, _text(record, offset)[0])
            if self._schemas.setdefault(number, schema) != schema:
                raise self._damaged(f'type {number} is defined twice, differently')
        elif kind == _CHANNEL:
            name, offset = _text(record, 4)
            topic = (name, _text(record, offset)[0], int.from_bytes(record[2:4], 'little'))
            if self._topics.setdefault(number, topic) != topic:
                raise self._damaged(f'channel {number} is defined twice, differently')
        elif kind == _STATISTICS:
            begin = _STATISTICS_HEAD_SIZE + 4
            size = int.from_bytes(record[_STATISTICS_HEAD_SIZE:begin], 'little')
            self.announced = dict(_COUNT.iter_unpack(record[begin : begin + size]))

    def _index_is_complete(self) -> bool:
        """Return whether there is an index, and it lists all messages of the statistics."""
        announced = {channel: count for channel, count in self.announced.items() if count}
        listed = {channel: one.messages for channel, one in self._listings().items()}
        return bool(announced) and listed == announced

    def _are_described(self, channels: Collection[int]) -> bool:
        """Return whether the channels and their types are known."""
        return all(
            channel in self._topics and self._topics[channel][2] in self._schemas
            for channel in channels
        )

    def _look_into_chunks(self) -> None:
        """Find descriptions and messages in the chunks themselves, whatever the index lists."""
        for chunk in self._chunks:
            if chunk.is_run:
                continue
            content = self._unpacked(chunk)
            for kind, offset, size in self._content_records(content):
                if kind in (_SCHEMA, _CHANNEL):
                    self._add_description(kind, content[offset : offset + size])
            chunk.listings = {}
            for _, _, channel, time_ns in self._message_records(content):
                _add_listing(chunk.listings, channel, 1, time_ns)

    def _message_records(self, content: bytes) -> Iterator[tuple[int, int, int, int]]:
        """Yield offset, size, channel and time of each message in a chunk."""
        for kind, offset, size in self._content_records(content):
            if kind == _MESSAGE:
                if size < _MESSAGE_HEAD.size:
                    raise self._damaged('a message is shorter than its head')
                channel, _, time_ns, _ = _MESSAGE_HEAD.unpack_from(content, offset)
                yield offset, size, channel, time_ns

    def _content_records(self, content: bytes) -> Iterator[tuple[int, int, int]]:
        """Yield kind, offset and size of each record in a chunk."""
        offset = 0
        while offset < len(content):
            kind, size = _HEAD.unpack_from(content, offset)
            offset += _HEAD.size
            if offset + size > len(content):
                raise self._damaged('a record is larger than its chunk')
            yield kind, offset, size
            offset += size

    def _unpacked(self, chunk: _Chunk) -> bytes:
        if chunk.size > MAX_BYTES:
            raise self._damaged(
                f'the chunk at byte {chunk.position} has {chunk.size} bytes, of at most {MAX_BYTES}'
            )
        content = self._read(chunk.position, chunk.packed_size)
        if chunk.compression == 'zstd':
            content = unpack(content, chunk.size + 1)
        elif chunk.compression == 'lz4':
            with LZ4FrameFile(io.BytesIO(content)) as file:
                content = file.read(chunk.size + 1)
        elif chunk.compression:
            raise StorageError(
                f'{self._name} is compressed with {chunk.compression}',
                'convert it with `mcap compress`, to zstd or lz4',
            )
        if len(content) != chunk.size or (chunk.crc and crc32(content) != chunk.crc):
            raise self._damaged(f'the content of the chunk at byte {chunk.position} has changed')
        return content

    def _channel(self, number: int) -> Channel:
        topic, encoding, schema = self._topics[number]
        name, kind, text = self._schemas.get(schema, self._schemas[0])
        return Channel(topic, name, encoding, text if kind == 'ros2msg' else '')

    def _listings(self) -> dict[int, _Listing]:
        """Return the messages of the file by channel, without channels that have none."""
        listings: dict[int, _Listing] = {}
        for chunk in self._chunks:
            for channel, (count, first_ns) in chunk.listings.items():
                _add_listing(listings, channel, count, first_ns)
        return listings

    def _check_channels(self) -> None:
        lost = sum(count for key, count in self.counts.items() if key not in self.channels)
        if lost:
            raise self._damaged(f'{lost} messages belong to no channel')
        if self.channels and all(one.encoding == 'ros1' for one in self.channels.values()):
            raise StorageError(
                f'{self._name} has messages of ROS 1',
                'convert the .bag that it was made of with `rosbags-convert`',
            )

    def _read(self, position: int, size: int) -> bytes:
        if size > MAX_BYTES:
            raise self._damaged(f'{size} bytes at byte {position}, of at most {MAX_BYTES}')
        self._file.seek(position)
        data = self._file.read(size)
        if len(data) != size:
            raise self._damaged(f'it ends before byte {position + size}')
        return data

    def _damaged(self, what: str) -> StorageError:
        return StorageError(f'{self._name} is damaged: {what}', self.recovery)


class _Waiting:
    """Messages that wait until no chunk has an earlier one.

    :param size: bytes of their data.
    """

    def __init__(self) -> None:
        self.size = 0
        self._heap: list[tuple[int, int, int, int, bytes]] = []

    def add(self, time_ns: int, chunk: int, offset: int, channel: int, data: bytes) -> None:
        """Add a message; those of equal times stay in the order of chunk and offset."""
        heapq.heappush(self._heap, (time_ns, chunk, offset, channel, data))
        self.size += len(data)

    def before(self, end_ns: float) -> Iterator[tuple[int, int, bytes]]:
        """Remove and yield time, channel and data of the messages before this time."""
        while self._heap and self._heap[0][0] < end_ns:
            time_ns, _, _, channel, data = heapq.heappop(self._heap)
            self.size -= len(data)
            yield time_ns, channel, data


def _add_listing(listings: dict[int, _Listing], channel: int, count: int, first_ns: int) -> None:
    """Add messages of a channel to its listing."""
    before, earliest_ns = listings.get(channel, (0, first_ns))
    listings[channel] = _Listing(before + count, min(earliest_ns, first_ns))


def _text(record: bytes, offset: int) -> tuple[str, int]:
    """Return the text at this offset, which begins with its size, and the offset behind it."""
    begin = offset + 4
    end = begin + int.from_bytes(record[offset:begin], 'little')
    if end > len(record):
        raise ValueError('a text is longer than its record')
    return record[begin:end].decode(errors='replace'), end
