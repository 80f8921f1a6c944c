# SPDX-License-Identifier: Apache-2.0
"""Reader of the zip archive that ``torch.save`` writes, stricter than any zip library.

Zip has several places for the same fact, and libraries differ in the one they believe: a file may
show one content to a check and another to the loader. So every fact must be told once, or equally
everywhere. No record is decompressed. Standard library only.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vla_ros.convert.errors import ConvertError
from vla_ros.text import printable, quoted

_MAX_RECORDS = 20_000  # FiLM's towers have about 1,000
_MAX_DIRECTORY_BYTES = 8_000_000
_MAX_SMALL_BYTES = 100
_LOCAL = struct.Struct('<4s5H3I2H')
_CENTRAL = struct.Struct('<4s6H3I5H2I')
_END = struct.Struct('<4s4H2IH')
_END_64 = struct.Struct('<4sQ2H2I4Q')
_LOCATOR = struct.Struct('<4sIQI')
_EXTRA = struct.Struct('<2H')
_FLAGS = 0x0808  # sizes repeated behind the data; names in UTF-8
_FOLDER = 0x10  # miniz, which torch has, gives no bytes of such a record
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF  # the value is in a 64-bit field
_NAME = re.compile(
    r'([^/\\\0:]{1,200})/'
    r'(data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id'
    r'|data/[0-9]{1,9})'
)
_ADVICE = 'take the file as torch.save wrote it, and download or copy it again if it is damaged'


@dataclass(frozen=True)
class Record:
    """One stored file of the archive.

    :param begin: offset of its first byte in the archive [bytes].
    :param size: [bytes].
    """

    name: str
    begin: int
    size: int


class Archive:
    """The records of an open archive; each is checked when this exists.

    ``records`` has them by name, without the folder that begins every name.

    :param file: a regular file.
    :param shown: the path, for errors.
    :raises ConvertError: if it is not exactly what ``torch.save`` writes.
    """

    def __init__(self, file: BinaryIO, shown: str) -> None:
        self._file, self.shown = file, shown
        self.size = file.seek(0, os.SEEK_END)
        directory, at = self._directory()
        self.records = self._records(directory, at)
        self._check_facts()

    def read(self, record: Record, max_bytes: int) -> bytes:
        """Return the content of a record.

        :raises ConvertError: if it is larger.
        """
        if record.size > max_bytes:
            raise self.error(f'{record.name} has {record.size} bytes', f'at most {max_bytes}')
        return self._at(record.begin, record.size)

    def error(self, what: str, expected: str = '') -> ConvertError:
        """Return an error about this file.

        :param expected: by default nothing but the general advice.
        """
        advice = f'expected {expected}; {_ADVICE}' if expected else _ADVICE
        return ConvertError(f'{self.shown}: {what}', advice, expected=expected)

    def _at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        content = self._file.read(size)
        if len(content) < size:
            raise self.error('it is shorter than it says')
        return content

    def _directory(self) -> tuple[bytes, int]:
        """Return the central directory, and the number of its entries."""
        if self.size < _END.size or self._at(0, 4) != b'PK\x03\x04':
            raise self.error('it is not a zip archive, which torch.save writes since version 1.6')
        at = self.size - _END.size
        mark, disk, first_disk, here, total, size, begin, comment = _END.unpack(
            self._at(at, _END.size)
        )
        if mark != b'PK\x05\x06' or comment:
            raise self.error('it does not end with the end of a zip archive')
        end = at
        if at >= _LOCATOR.size and self._at(at - _LOCATOR.size, 4) == b'PK\x06\x07':
            plain = (disk, first_disk, here, total, size, begin)
            end, disk, first_disk, here, total, size, begin = self._end_64(at, plain)
        elif _FULL_32 in (size, begin) or _FULL_16 in (here, total):
            raise self.error('it lacks the 64-bit end of its directory')
        if disk or first_disk or here != total:
            raise self.error('it is one part of a divided archive')
        if not 1 <= total <= _MAX_RECORDS or size > _MAX_DIRECTORY_BYTES:
            raise self.error(
                f'it has {total} records in a directory of {size} bytes',
                f'1 to {_MAX_RECORDS} records, and at most {_MAX_DIRECTORY_BYTES} bytes',
            )
        if begin + size != end:
            raise self.error('bytes lie between its directory and its end')
        self._directory_begin = begin
        return self._at(begin, size), total

    def _end_64(self, end_at: int, plain: tuple[int, ...]) -> tuple[int, ...]:
        """Return where the 64-bit end begins, and what it says.

        :param plain: what the 32-bit end says, in the same order without the first value.
        """
        _, locator_disk, begin, disks = _LOCATOR.unpack(
            self._at(end_at - _LOCATOR.size, _LOCATOR.size)
        )
        at = end_at - _LOCATOR.size - _END_64.size
        if begin != at or locator_disk or disks != 1:
            raise self.error('the 64-bit end of its directory is not where it should be')
        mark, size, _, _, *facts = _END_64.unpack(self._at(at, _END_64.size))
        if mark != b'PK\x06\x06' or size != _END_64.size - 12:
            raise self.error('the 64-bit end of its directory is malformed')
        fulls = (_FULL_16, _FULL_16, _FULL_16, _FULL_16, _FULL_32, _FULL_32)
        for told, exact, full in zip(plain, facts, fulls, strict=True):
            if told not in (exact, full):
                raise self.error('the two ends of its directory disagree')
        return (at, *facts)

    def _records(self, directory: bytes, count: int) -> dict[str, Record]:
        records: dict[str, Record] = {}
        seen: set[str] = set()
        spans = []
        folders = set()
        for full_name, record, local in self._entries(directory, count):
            match = _NAME.fullmatch(full_name)
            if not match:
                raise self.error(f'it has a record named {quoted(full_name)}', 'tensors only')
            folders.add(match[1])
            if full_name.lower() in seen:
                raise self.error(f'it has two records named {quoted(full_name)}')
            seen.add(full_name.lower())
            records[match[2]] = Record(match[2], record.begin, record.size)
            spans.append((local, record.begin + record.size))
        if len(folders) > 1:
            raise self.error(f'its records are in {len(folders)} folders', 'one')
        self._check_spans(sorted(spans))
        return records

    def _entries(self, directory: bytes, count: int) -> Iterator[tuple[str, Record, int]]:
        """Yield full name, record and offset of the local header."""
        at = 0
        for _ in range(count):
            if at + _CENTRAL.size > len(directory):
                raise self.error('its directory is cut short')
            fields = _CENTRAL.unpack_from(directory, at)
            mark, _, _, flags, method, _, _, _, packed, size, *lengths = fields[:13]
            name_size, extra_size, comment_size = lengths
            disk, attributes, local = fields[13], fields[15], fields[16]
            at += _CENTRAL.size
            raw = directory[at : at + name_size]
            extra = directory[at + name_size : at + name_size + extra_size]
            at += name_size + extra_size + comment_size
            if mark != b'PK\x01\x02' or at > len(directory) or comment_size or disk:
                raise self.error('its directory is malformed')
            if attributes & _FOLDER:
                raise self.error('it marks a record as a folder')
            shown = quoted(raw.decode('utf-8', 'replace'))
            if flags & ~_FLAGS or method:
                raise self.error(f'{shown} is compressed or encrypted', 'stored records')
            size, packed, local = self._wide(extra, (size, packed, local), shown)
            if packed != size:
                raise self.error(f'{shown} says two sizes: {packed} and {size} bytes')
            begin = self._begin(raw, local, size, flags)
            yield raw.decode('utf-8', 'replace'), Record('', begin, size), local
        if at != len(directory):
            raise self.error('its directory has more than it says')

    def _wide(self, extra: bytes, told: tuple[int, int, int], shown: str) -> tuple[int, int, int]:
        """Return sizes and offset, taken from the 64-bit field where they are full."""
        values = list(told)
        for kind, content in self._extras(extra, shown):
            if kind != 1:
                continue
            full = [index for index, value in enumerate(values) if value == _FULL_32]
            if len(content) != 8 * len(full):
                raise self.error(f'{shown} has a malformed 64-bit field')
            for index, value in zip(full, struct.unpack(f'<{len(full)}Q', content), strict=True):
                values[index] = value
        return values[0], values[1], values[2]

    def _extras(self, extra: bytes, shown: str) -> Iterable[tuple[int, bytes]]:
        fields: dict[int, bytes] = {}
        at = 0
        while at < len(extra):
            if at + _EXTRA.size > len(extra):
                raise self.error(f'{shown} has a malformed extra field')
            kind, size = _EXTRA.unpack_from(extra, at)
            at += _EXTRA.size
            if kind in fields or at + size > len(extra):
                raise self.error(f'{shown} has a malformed extra field')
            fields[kind] = extra[at : at + size]
            at += size
        return fields.items()

    def _begin(self, name: bytes, local: int, size: int, flags: int) -> int:
        """Return the offset of a record's data, by its local header, which must agree."""
        shown = quoted(name.decode('utf-8', 'replace'))
        if local + _LOCAL.size > self._directory_begin:
            raise self.error(f'{shown} lies outside of it')
        mark, _, own_flags, method, _, _, _, packed, own_size, name_size, extra_size = (
            _LOCAL.unpack(self._at(local, _LOCAL.size))
        )
        begin: int = local + _LOCAL.size + name_size + extra_size
        if begin + size > self._directory_begin:
            raise self.error(f'{shown} lies outside of it')
        own_name = self._at(local + _LOCAL.size, name_size)
        if mark != b'PK\x03\x04' or own_name != name or own_flags != flags or method:
            raise self.error(f'{shown} has another name or kind in its own header')
        # With flag 8 the sizes are zero here, or the same; full where a 64-bit field has them.
        if not {packed, own_size} <= {size, 0, _FULL_32} or (not flags & 8 and own_size != size):
            raise self.error(f'{shown} has another size in its own header')
        return begin

    def _check_spans(self, spans: list[tuple[int, int]]) -> None:
        """Check that no two records share a byte, and that the first one begins the file."""
        if spans[0][0] != 0:
            raise self.error('bytes lie before its first record')
        for (_, end), (begin, _) in itertools.pairwise(spans):
            if begin < end:
                raise self.error('two of its records overlap')

    def _check_facts(self) -> None:
        """Check version and byte order."""
        for name in ('version', 'data.pkl'):
            if name not in self.records:
                raise self.error(f'it has no record {name}', 'an archive of torch.save')
        version = self.read(self.records['version'], _MAX_SMALL_BYTES).strip()
        if version not in (b'2', b'3'):
            raise self.error(f'its version is {quoted(version)}', '3')
        order = self.records.get('byteorder')
        if order and self.read(order, _MAX_SMALL_BYTES) != b'little':
            raise self.error('its numbers are not little-endian', 'a file of a usual machine')


def opened(path: Path) -> BinaryIO:
    """Open a regular file, or one that the path links to, without waiting for anything.

    :raises ConvertError: if it is not a regular file, or can't be opened.
    """
    shown = printable(str(path), 300)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a device may already have an effect
            raise ConvertError(f'{shown} is not a regular file', _ADVICE)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        file = os.fdopen(descriptor, 'rb')
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it may have been replaced
            file.close()
            raise ConvertError(f'{shown} is not a regular file', _ADVICE)
        return file
    except OSError as error:
        raise ConvertError(f'{shown} cannot be opened ({error.strerror})', _ADVICE) from error
