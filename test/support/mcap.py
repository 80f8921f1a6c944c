# SPDX-License-Identifier: Apache-2.0
"""Writes files of mcap record by record, also such as no recorder writes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

MAGIC = b'\x89MCAP0\r\n'
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, INDEX = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
STATISTICS, DATA_END = 0x0B, 0x0F


@dataclass(frozen=True)
class Message:
    channel: int
    time_ns: int
    data: bytes


@dataclass
class Mcap:
    """A file with one chunk for each of ``chunks``; without any, messages are outside chunks.

    :param channels: topic, type, encoding of the messages and of the type, by number.
    :param statistics: messages by channel; None: what is there. Empty: no statistics.
    """

    channels: dict[int, tuple[str, str, str, str]]
    chunks: Sequence[Sequence[Message]] = ()
    loose: Sequence[Message] = ()
    profile: str = 'ros2'
    compression: str = ''
    pack: Callable[[bytes], bytes] = bytes
    has_index: bool = True
    is_finished: bool = True
    described_in_summary: bool = True
    types_in_summary: bool = True
    statistics: dict[int, int] | None = None
    statistics_tail: bytes = b''  # fields that a later version adds
    qos: str | None = None
    channels_first: bool = False  # before their types
    hidden: set[int] = field(default_factory=set)  # channels that the index leaves out

    def __bytes__(self) -> bytes:
        described = self._descriptions()
        body = MAGIC + record(0x01, text(self.profile) + text('test'))
        body += described if self.loose or not self.chunks else b''
        body += b''.join(message(one) for one in self.loose)
        for chunk in self.chunks:
            body += self._chunk(described, chunk)
        if not self.is_finished:
            return body
        body += record(DATA_END, bytes(4))
        repeated = described if self.types_in_summary else self._descriptions(types=False)
        summary = (repeated if self.described_in_summary else b'') + self._statistics()
        start = len(body) if summary else 0
        return body + summary + record(FOOTER, struct.pack('<QQI', start, 0, 0)) + MAGIC

    def _descriptions(self, *, types: bool = True) -> bytes:
        schemas, channels = b'', b''
        for number, (topic, name, encoding, kind) in self.channels.items():
            if name and types:
                schema = struct.pack('<H', number) + text(name) + text(kind) + text('')
                schemas += record(SCHEMA, schema)
            qos = b'' if self.qos is None else text('offered_qos_profiles') + text(self.qos)
            head = struct.pack('<HH', number, number if name else 0)
            metadata = struct.pack('<I', len(qos)) + qos
            channels += record(CHANNEL, head + text(topic) + text(encoding) + metadata)
        return channels + schemas if self.channels_first else schemas + channels

    def _chunk(self, described: bytes, messages: Sequence[Message]) -> bytes:
        content, places = described, []
        for one in messages:
            places.append((one.channel, one.time_ns, len(content)))
            content += message(one)
        times = [one.time_ns for one in messages] or [0]
        packed = self.pack(content)
        head = struct.pack('<QQQI', min(times), max(times), len(content), 0)
        chunk = head + text(self.compression) + struct.pack('<Q', len(packed)) + packed
        return record(CHUNK, chunk) + (self._index(places) if self.has_index else b'')

    def _index(self, places: list[tuple[int, int, int]]) -> bytes:
        records = b''
        for channel, entries in groupby(sorted(places), key=lambda place: place[0]):
            if channel not in self.hidden:
                listed = b''.join(struct.pack('<QQ', *entry[1:]) for entry in entries)
                size = struct.pack('<I', len(listed))
                records += record(INDEX, struct.pack('<H', channel) + size + listed)
        return records

    def _statistics(self) -> bytes:
        counts = self.statistics
        if counts is None:
            numbers = [one.channel for chunk in (*self.chunks, self.loose) for one in chunk]
            counts = {number: numbers.count(number) for number in set(numbers)}
        if not counts:
            return b''
        head = struct.pack('<QHIIIIQQ', sum(counts.values()), 0, 0, 0, 0, 0, 0, 0)
        listed = b''.join(struct.pack('<HQ', *one) for one in counts.items())
        return record(
            STATISTICS, head + struct.pack('<I', len(listed)) + listed + self.statistics_tail
        )


def record(kind: int, content: bytes) -> bytes:
    return struct.pack('<BQ', kind, len(content)) + content


def message(one: Message) -> bytes:
    head = struct.pack('<HIQQ', one.channel, 0, one.time_ns, one.time_ns)
    return record(MESSAGE, head + one.data)


def text(value: str) -> bytes:
    return struct.pack('<I', len(value.encode())) + value.encode()
