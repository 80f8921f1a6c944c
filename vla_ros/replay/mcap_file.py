"""A recording in mcap (https://mcap.dev/spec), read record by record.

The file's index is a help, not the truth. Where it agrees with the file's statistics, messages are
counted by it, and checked against it when they are read. Where the two disagree or are absent, as
in the file of a recorder that was killed, every message itself is counted.
"""

from __future__ import annotations

import io
import os
import struct
from binascii import crc32
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lz4.frame import LZ4FrameFile  # type: ignore[import-untyped]

from vla_ros.replay.storage import MCAP_MAGIC, Channel, StorageError, unpack

_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _INDEX = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
_STATISTICS, _DATA_END = 0x0B, 0x0F

_HEAD = struct.Struct('<BQ')  # of a record: its kind, and the number of bytes after this head
_MESSAGE_HEAD = struct.Struct('<HIQQ')  # channel, sequence, log time, publish time
_CHUNK_HEAD = struct.Struct('<QQQI')  # first time, last time, size and CRC of the content
_ENTRY = struct.Struct('<QQ')  # log time, offset of the record in the chunk
_SIZE = struct.Struct('<Q')
_COUNT = struct.Struct('<HQ')  # channel, messages
_STATISTICS_HEAD_SIZE = struct.calcsize('<QHIIIIQQ')

_OUTSIDE = -1  # the chunk of a message that is in none
_CACHED_CHUNKS = 4  # whose messages overlap in time


@dataclass(frozen=True)
class _Chunk:
    """The place of a chunk's compressed content in the file; ``size`` and ``crc``: unpacked."""

    position: int
    packed_size: int
    compression: str
    size: int
    crc: int


class McapFile:
    """A file of mcap; as :class:`~vla_ros.replay.storage.Storage`."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """Open the file, and count its messages.

        :raises StorageError: if it is cut off, is damaged, or has only messages of ROS 1.
        """
        self._name = path.name
        self.recovery = (
            'save what is whole with the tool of mcap.dev: '
            f'`mcap recover {path.name} -o recovered.mcap`'
        )
        self.announced: dict[int, int] = {}
        self._file = path.open('rb')
        stack.callback(self._file.close)
        self._schemas: dict[int, tuple[str, str, str]] = {0: ('', '', '')}  # name, encoding, text
        self._topics: dict[int, tuple[str, str, int]] = {}  # topic, encoding, schema by channel
        self._chunks: list[_Chunk] = []
        # The places of messages, as _ENTRY has them, by channel and chunk.
        self._entries: defaultdict[tuple[int, int], bytearray] = defaultdict(bytearray)
        self._cache: dict[int, bytes] = {}  # content of chunks
        for kind, position, size in self._records():
            self._add(kind, position, size)
        self.counts = self._counts()
        announced = {channel: count for channel, count in self.announced.items() if count}
        self._is_indexed = bool(announced) and self.counts == announced
        if not self._is_indexed or self.counts.keys() - self._topics.keys():
            self._index()
            self.counts = self._counts()
        self.channels = {number: self._channel(number) for number in self._topics}
        self._check_channels()

    def messages(self, channels: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield time, channel and data of each message, in the order of time.

        :raises StorageError: if a record is damaged, or the index does not fit the messages.
        """
        places = sorted(
            (time_ns, chunk, offset, channel)
            for (channel, chunk), entries in self._entries.items()
            if channel in channels
            for time_ns, offset in _ENTRY.iter_unpack(entries)
        )
        for time_ns, chunk, offset, channel in places:
            yield time_ns, channel, self._message(time_ns, channel, chunk, offset)

    def _message(self, time_ns: int, channel: int, chunk: int, offset: int) -> bytes:
        if chunk == _OUTSIDE:
            _, size = _HEAD.unpack(self._read(offset, _HEAD.size))
            record = self._read(offset + _HEAD.size, size)
        else:
            content = self._content(chunk)
            _, size = _HEAD.unpack_from(content, offset)
            record = content[offset + _HEAD.size : offset + _HEAD.size + size]
        if _MESSAGE_HEAD.unpack_from(record)[::2] != (channel, time_ns):
            raise self._damaged('a message has changed while it was read')
        return record[_MESSAGE_HEAD.size :]

    def _content(self, number: int) -> bytes:
        """Return the content of a chunk, after a check of the index against it."""
        if number not in self._cache:
            content = self._unpacked(self._chunks[number])
            if self._is_indexed:
                found = self._places(content)
                indexed = {k for k, chunk in self._entries if chunk == number}
                for channel in found.keys() | indexed:
                    entries = self._entries.get((channel, number), b'')
                    if not _same(found.get(channel, b''), entries):
                        raise self._damaged(f'the index of chunk {number} does not fit its content')
            while len(self._cache) >= _CACHED_CHUNKS:
                del self._cache[next(iter(self._cache))]
            self._cache[number] = content
        return self._cache[number]

    # -- opening -----------------------------------------------------------------------------------

    def _records(self) -> Iterator[tuple[int, int, int]]:
        """Yield kind, position and size of each record outside chunks.

        A file without an end is whole if its last record is, or all its messages came before.
        """
        file_size = os.fstat(self._file.fileno()).st_size
        position, has_data = len(MCAP_MAGIC), False
        while position < file_size:
            head = self._read(position, min(_HEAD.size, file_size - position))
            kind, size = _HEAD.unpack(head) if len(head) == _HEAD.size else (1, file_size)
            if not kind:
                raise self._damaged(f'byte {position} begins no record')
            if position + _HEAD.size + size > file_size:
                if has_data:
                    return
                raise StorageError(
                    f'{self._name} is cut off within the record at byte {position}: the recorder '
                    'was killed, or a copy failed',
                    self.recovery,
                )
            yield kind, position + _HEAD.size, size
            position += _HEAD.size + size
            has_data = has_data or kind == _DATA_END
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
            channel, _, time_ns, _ = _MESSAGE_HEAD.unpack(self._read(position, _MESSAGE_HEAD.size))
            entry = _ENTRY.pack(time_ns, position - _HEAD.size)
            self._entries[channel, _OUTSIDE] += entry
        elif kind in (_SCHEMA, _CHANNEL, _INDEX, _STATISTICS):
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
        elif kind == _INDEX and self._chunks:
            size = int.from_bytes(record[2:6], 'little')
            self._entries[number, len(self._chunks) - 1] += record[6 : 6 + size]
        elif kind == _STATISTICS:
            self.announced = dict(_COUNT.iter_unpack(record[_STATISTICS_HEAD_SIZE + 4 :]))

    def _index(self) -> None:
        """Find the places of all messages in the chunks themselves."""
        self._is_indexed = False
        for key in [key for key in self._entries if key[1] != _OUTSIDE]:
            del self._entries[key]
        for number, chunk in enumerate(self._chunks):
            content = self._unpacked(chunk)
            for kind, offset, size in self._content_records(content):
                if kind in (_SCHEMA, _CHANNEL):
                    self._add_description(kind, content[offset : offset + size])
            for channel, entries in self._places(content).items():
                self._entries[channel, number] = entries

    def _places(self, content: bytes) -> dict[int, bytearray]:
        """Return the places of the messages in a chunk by channel, as an index has them."""
        found: defaultdict[int, bytearray] = defaultdict(bytearray)
        for kind, offset, _ in self._content_records(content):
            if kind == _MESSAGE:
                channel, _, time_ns, _ = _MESSAGE_HEAD.unpack_from(content, offset)
                found[channel] += _ENTRY.pack(time_ns, offset - _HEAD.size)
        return found

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

    def _counts(self) -> Counter[int]:
        """Return the number of messages by channel, without channels that have none."""
        counts: Counter[int] = Counter()
        for (channel, _), entries in self._entries.items():
            counts[channel] += len(entries) // _ENTRY.size
        return +counts

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
        self._file.seek(position)
        data = self._file.read(size)
        if len(data) != size:
            raise self._damaged(f'it ends before byte {position + size}')
        return data

    def _damaged(self, what: str) -> StorageError:
        return StorageError(f'{self._name} is damaged: {what}', self.recovery)


def _text(record: bytes, offset: int) -> tuple[str, int]:
    """Return the text at this offset, which begins with its size, and the offset behind it."""
    begin = offset + 4
    end = begin + int.from_bytes(record[offset:begin], 'little')
    if end > len(record):
        raise ValueError('a text is longer than its record')
    return record[begin:end].decode(errors='replace'), end


def _same(places: bytes | bytearray, others: bytes | bytearray) -> bool:
    """Return whether two lists of places are the same, in any order."""
    return places == others or (
        sorted(_ENTRY.iter_unpack(places)) == sorted(_ENTRY.iter_unpack(others))
    )
