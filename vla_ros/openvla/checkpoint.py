# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's weights: finds the files, checks that they are whole, and memory-maps tensors.

Only safetensors are read, because pickle files can run code when loaded. The files may be hostile:
the size of what is read is bounded, and files are in the folder or where its links lead. Runs in
the thread that builds the policy. Independent of models.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vla_ros.openvla.errors import CheckpointError, listing
from vla_ros.openvla.files import Remember, unwatched
from vla_ros.openvla.json_files import check_no_pointer, read_json
from vla_ros.openvla.plain import PICKLE_SUFFIXES, check_tensors, is_training_state

INDEX_NAME = 'model.safetensors.index.json'
SINGLE_NAME = 'model.safetensors'
_DTYPES = {'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16}
_MAX_HEADER_BYTES = 16_000_000  # a 7B model has 0.2 MB; safetensors itself would parse 100 MB


class Checkpoint:
    """The weights in a folder; the header of every shard is read when this exists.

    ``shapes`` has the shape of each stored tensor by name, ``dtypes`` all dtypes among them.

    :param remember: called with each file just before it is opened.
    :raises CheckpointError: if files are missing, damaged or of another kind.
    """

    is_mapped = True

    def __init__(self, directory: Path, remember: Remember = unwatched) -> None:
        self.directory = directory
        self._remember = remember
        weight_map = _weight_map(directory, remember)
        check_tensors(weight_map, directory)
        self._shards = {name: directory / shard for name, shard in weight_map.items()}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: set[torch.dtype] = set()
        for shard in self.files:
            self._read_header(shard)

    @property
    def files(self) -> list[Path]:
        """The files with the weights, sorted."""
        return sorted(set(self._shards.values()))

    def check_shapes(
        self, expected: Mapping[str, tuple[int, ...]], unused: Collection[str] = ()
    ) -> None:
        """Compare the stored tensors with those of a model.

        :param unused: names of tensors that may be stored although the model has not got them.
        :raises CheckpointError: if one is missing, surplus, or of another shape.
        """
        missing = expected.keys() - self.shapes.keys()
        if missing:
            raise CheckpointError(
                f'{self.directory} lacks {len(missing)} of {len(expected)} tensors: '
                f'{listing(missing)}'
            )
        surplus = self.shapes.keys() - expected.keys() - set(unused)
        if surplus:
            raise CheckpointError(
                f'{self.directory} has {len(surplus)} tensors that this model has not: '
                f'{listing(surplus)}',
                'take the config.json of this model; if the weights are of an adapter, merge them',
            )
        for name, shape in expected.items():
            if self.shapes[name] != shape:
                raise CheckpointError(
                    f'{self._shards[name]}: {name} has shape {self.shapes[name]}',
                    value=self.shapes[name],
                    expected=f'{shape} by config.json',
                )

    def tensors(self, names: set[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors, shard by shard, each a view of the mapped file.

        :raises CheckpointError: if one holds a value that is not finite.
        """
        for shard in self.files:
            wanted = sorted(name for name in names if self._shards[name] == shard)
            with opened_safetensors(shard, self._remember) as file:
                for name in wanted:
                    tensor = file.get_tensor(name)
                    _check_finite(tensor, name, shard)
                    yield name, tensor

    def _read_header(self, shard: Path) -> None:
        promised = {name for name, path in self._shards.items() if path == shard}
        with opened_safetensors(shard, self._remember) as file:
            stored = set(file.keys())
            if promised != stored:
                raise CheckpointError(
                    f'{shard} and {INDEX_NAME} disagree: only the index has '
                    f'{listing(promised - stored)}, only the file has {listing(stored - promised)}',
                    'download or copy both again',
                )
            for name in stored:
                header = file.get_slice(name)
                if header.get_dtype() not in _DTYPES:
                    raise CheckpointError(
                        f'{shard}: {name} has dtype {header.get_dtype()}',
                        f'expected one of {", ".join(_DTYPES)}; if another tool quantised them, '
                        'take the weights from before, and set quantization',
                        value=header.get_dtype(),
                        expected=f'one of {", ".join(_DTYPES)}',
                    )
                self.dtypes.add(_DTYPES[header.get_dtype()])
                self.shapes[name] = tuple(header.get_shape())


def _weight_map(directory: Path, remember: Remember) -> dict[str, str]:
    """Return tensor name -> file name.

    The reference takes the single file where there is an index too, and ignores shards that its
    index does not name. Here both are errors, because it is unknown which weights are meant.
    """
    stored = _weight_files(directory)
    if INDEX_NAME in stored:
        source = INDEX_NAME
        weight_map = _read_index(directory / INDEX_NAME, remember)
    elif SINGLE_NAME in stored:
        source = SINGLE_NAME
        with opened_safetensors(directory / SINGLE_NAME, remember) as file:
            weight_map = dict.fromkeys(file.keys(), SINGLE_NAME)
    else:
        reason, advice = _why_no_weights(directory, stored)
        raise CheckpointError(f'{directory} has no weights: {reason}', advice)
    others = stored - {source, *weight_map.values()}
    if others:
        raise CheckpointError(
            f'{directory} has weights from two sources: {source}, and beside what it names '
            f'{listing(others)}',
            'move what is not meant out of the folder',
        )
    return weight_map


def _why_no_weights(directory: Path, stored: set[str]) -> tuple[str, str]:
    """Return the reason, and what to do."""
    neither = f'neither {INDEX_NAME} nor {SINGLE_NAME} is there'
    if stored:
        return (
            f'{neither} to say what {listing(stored)} is',
            'write, download or copy it again, into a new folder: it may have been interrupted',
        )
    pickles = {path.name for path in directory.iterdir() if path.suffix in PICKLE_SUFFIXES}
    if pickles:
        return (
            f'they are pickle files ({listing(pickles)}), which can run code when loaded',
            'convert them to safetensors (save_pretrained writes these)',
        )
    return neither, 'download or copy the checkpoint again, or name another'


def _weight_files(directory: Path) -> set[str]:
    """Return the names of all safetensors in the folder, and of all indexes."""
    names = {path.name for path in directory.iterdir()}
    return {
        name
        for name in names
        if (name.endswith('.safetensors') and not is_training_state(name))
        or fnmatch(name, '*.safetensors.index*.json')
    }


def _read_index(path: Path, remember: Remember) -> dict[str, str]:
    weight_map = read_json(path, remember).get('weight_map')
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f'{path} has no weight_map', 'download or copy it again')
    if not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(
            f'{path}: weight_map has values that are no text', expected='file names'
        )
    shards = set(weight_map.values())
    elsewhere = {name for name in shards if Path(name).name != name or name == '..'}
    if elsewhere:
        raise CheckpointError(
            f'{path} names {listing(map(repr, elsewhere))}, expected are files beside it, '
            'without a folder',
            'do not use this checkpoint unless you know why',
            expected='names of files beside it, without a folder',
        )
    absent = {name for name in shards if not os.path.lexists(path.parent / name)}
    if absent:
        raise CheckpointError(
            f'{path.parent} lacks {listing(absent)}, which {INDEX_NAME} names',
            'download or copy them again: it may have been interrupted',
        )
    return weight_map


def opened_safetensors(path: Path, remember: Remember = unwatched) -> safe_open:
    """Open a regular safetensors file: a device or a named pipe could block without limit.

    :raises CheckpointError: if it is missing, damaged or of another kind.
    """
    if not os.path.isfile(path):
        raise CheckpointError(
            f'{path} is no regular file, nor a link to one that can be found',
            'download or copy the checkpoint again',
        )
    try:
        remember(path)
        with path.open('rb') as file:
            beginning = file.read(64)
        check_no_pointer(beginning, path)
        header_bytes = int.from_bytes(beginning[:8], 'little')
        if _MAX_HEADER_BYTES < header_bytes <= path.stat().st_size:
            raise CheckpointError(
                f'{path} has a header of {header_bytes} bytes, at most {_MAX_HEADER_BYTES} are '
                'allowed',
                'put a file of an OpenVLA checkpoint there',
            )
        return safe_open(path, framework='pt', device='cpu')
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error}') from error
    except SafetensorError as error:
        raise CheckpointError(
            f'{path} ({path.stat().st_size} bytes) is truncated or no safetensors file: {error}',
            'download or copy it again',
        ) from error


def _check_finite(tensor: Tensor, name: str, shard: Path) -> None:
    """Check the extremes, which are NaN where any value is: one pass at memory bandwidth."""
    if all(extreme.isfinite() for extreme in tensor.aminmax()):
        return
    broken = tensor.numel() - int(tensor.isfinite().sum())
    raise CheckpointError(
        f'{shard}: {name} has {broken} of {tensor.numel()} values that are NaN or infinite',
        'download or copy it again, or take an earlier checkpoint of the training',
    )
