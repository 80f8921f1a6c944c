# SPDX-License-Identifier: Apache-2.0
"""Writer of safetensors files, one tensor after the other, in bounded memory.

The safetensors library wants all tensors of a file together. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

ITEM_BYTES = {'F32': 4, 'F16': 2, 'BF16': 2}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    :param dtype: a key of ``ITEM_BYTES``.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The bytes of its values."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries as they must be written: wide values first, so that all are aligned."""
    return sorted(entries, key=lambda entry: (-ITEM_BYTES[entry.dtype], entry.name))


def write_safetensors(
    path: Path, entries: Sequence[Entry], values: Iterator[bytes | memoryview]
) -> None:
    """Write a new file.

    :param entries: in the order of :func:`in_order`.
    :param values: the bytes of all entries, in the same order, in pieces of any size.
    :raises OSError: if the file exists, or can't be written.
    :raises ValueError: if there are more or fewer values than the entries say.
    """
    header, end = {'__metadata__': {'format': 'pt'}}, 0
    described: dict[str, object] = dict(header)
    for entry in entries:
        begin, end = end, end + entry.size
        described[entry.name] = {
            'dtype': entry.dtype,
            'shape': list(entry.shape),
            'data_offsets': [begin, end],
        }
    text = json.dumps(described, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    written = 0
    with path.open('xb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for piece in values:
            written += file.write(piece)
    if written != end:
        raise ValueError(f'{written} bytes of {end} were written to {path}')
