# SPDX-License-Identifier: Apache-2.0
"""Reads a file of rerun back, as its viewer would."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from rerun.chunk import RrdReader


class Row(NamedTuple):
    capture_ns: int
    recorded_ns: int
    frame: int
    value: Any


class Rrd:
    """The rows of a file by entity, without what is static, in the order of the file."""

    def __init__(self, path: Path) -> None:
        self.rows: dict[str, list[Row]] = defaultdict(list)
        self.static: dict[str, dict[str, Any]] = defaultdict(dict)
        for chunk in RrdReader(path).stream():
            entity = chunk.entity_path.removeprefix('/').replace('\\', '')
            batch = chunk.to_record_batch()
            columns = {name for name in batch.schema.names if ':' in name}
            if chunk.is_static:
                self.static[entity] |= {name: batch[name].to_pylist()[0] for name in columns}
                continue
            times = (
                batch[name].cast('int64').to_pylist() for name in ('capture', 'recorded', 'frame')
            )
            [values] = (batch[name].to_pylist() for name in columns.intersection(_VALUES))
            for *at, value in zip(*times, values, strict=True):
                self.rows[entity].append(Row(*at, value[0]))

    def of(self, root: str, end: str) -> list[Row]:
        """The rows of the only entity with this root and this end."""
        [entity] = (one for one in self.under(root) if one.endswith(f'/{end}'))
        return self.rows[entity]

    def under(self, root: str) -> list[str]:
        return sorted(entity for entity in self.rows if entity.startswith(f'{root}/'))


_VALUES = ('Scalars:scalars', 'EncodedImage:blob', 'TextLog:text')


def pixels(row: Row) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of a row of an image."""
    return simplejpeg.decode_jpeg(bytes(row.value))
