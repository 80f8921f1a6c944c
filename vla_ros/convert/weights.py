# SPDX-License-Identifier: Apache-2.0
"""Tensors of safetensors files that are read when they are written, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla_ros.convert.errors import ConvertError
from vla_ros.convert.writing import Entry, in_order, write_safetensors
from vla_ros.openvla.checkpoint import opened_safetensors
from vla_ros.openvla.pages import release_pages
from vla_ros.text import quoted

DTYPES = {'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Weight:
    """A tensor that is not read yet.

    :param file: the name of the file to write it into.
    :param load: reads or computes it; its dtype and shape are those here.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    file: str
    load: Callable[[], Tensor]


def opened_weights(path: Path, source: Path | None = None) -> dict[str, Weight]:
    """Return the tensors of a file by name; the file stays mapped while one of them exists.

    :param source: the file that errors name, if it is not ``path``.
    :raises ConvertError: if a dtype is not of weights.
    :raises CheckpointError: if it is not a safetensors file.
    """
    file: Any = opened_safetensors(path)
    names: list[str] = file.keys()
    return {name: _weight(file, name, source or path) for name in names}


def _weight(file: Any, name: str, path: Path) -> Weight:
    header = file.get_slice(name)
    dtype = header.get_dtype()
    if dtype not in DTYPES:
        raise ConvertError(
            f'{path}: {quoted(name)} has dtype {dtype}', expected=f'one of {", ".join(DTYPES)}'
        )

    def load() -> Tensor:
        tensor: Tensor = file.get_tensor(name)
        if not all(extreme.isfinite() for extreme in tensor.aminmax()):
            raise ConvertError(
                f'{path}: {quoted(name)} has values that are NaN or infinite',
                'download or copy it again, or take an earlier checkpoint of the training',
            )
        return tensor

    return Weight(name, DTYPES[dtype], tuple(header.get_shape()), path.name, load)


def write_weights(directory: Path, weights: Mapping[str, Weight]) -> dict[str, str]:
    """Write all weights, each into its file, and return the file of each.

    :param weights: by the name to write.
    :raises OSError: if the files can't be written.
    """
    files: dict[str, list[tuple[str, Weight]]] = {}
    for name, weight in weights.items():
        files.setdefault(weight.file, []).append((name, weight))
    for file, members in files.items():
        entries = in_order(
            Entry(name, _NAMES[weight.dtype], weight.shape) for name, weight in members
        )
        write_safetensors(directory / file, entries, _bytes(entries, weights))
    return {name: weight.file for name, weight in weights.items()}


def _bytes(entries: Iterable[Entry], weights: Mapping[str, Weight]) -> Iterator[memoryview]:
    for entry in entries:
        tensor = weights[entry.name].load().contiguous()
        yield tensor.reshape(-1).view(torch.uint8).numpy().data
        release_pages(tensor)
