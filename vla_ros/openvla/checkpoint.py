"""Finds a checkpoint's files, checks them whole, and hands out tensors by memory map.

Reads safetensors only: pickle files can run code when loaded. Runs in the thread that builds the
policy. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vla_ros.openvla.config import read_json
from vla_ros.openvla.errors import CheckpointError, listing

INDEX_NAME = 'model.safetensors.index.json'
SINGLE_NAME = 'model.safetensors'
_PICKLE_PATTERNS = ('*.bin', '*.pt', '*.pth', '*.ckpt')
_DTYPES = ('F32', 'F16', 'BF16')


class Checkpoint:
    """The weights in a folder; every shard has been opened once when this exists.

    :raises CheckpointError: if files are missing, damaged or of another kind.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._shards = {name: directory / shard for name, shard in _weight_map(directory).items()}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for shard in sorted(set(self._shards.values())):
            self._read_header(shard)

    def check_shapes(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Hold the stored tensors against those a model has.

        :raises CheckpointError: if one is missing, surplus, or of another shape.
        """
        missing = expected.keys() - self._shapes.keys()
        if missing:
            raise CheckpointError(
                f'{self.directory} lacks {len(missing)} of {len(expected)} tensors: '
                f'{listing(missing)}'
            )
        surplus = self._shapes.keys() - expected.keys()
        if surplus:
            raise CheckpointError(
                f'{self.directory} has {len(surplus)} tensors that this model has not: '
                f'{listing(surplus)}; is config.json of another model, or are these adapter '
                'weights that were never merged?'
            )
        for name, shape in expected.items():
            if self._shapes[name] != shape:
                raise CheckpointError(
                    f'{self._shards[name]}: {name} has shape {self._shapes[name]}, expected '
                    f'{shape} by config.json'
                )

    def tensors(self, names: set[str]) -> Iterator[tuple[str, Tensor]]:
        """The named tensors, shard by shard, each a view of the mapped file until it is moved."""
        for shard in sorted(set(self._shards.values())):
            wanted = sorted(name for name in names if self._shards[name] == shard)
            with _opened(shard) as file:
                for name in wanted:
                    yield name, file.get_tensor(name)

    def _read_header(self, shard: Path) -> None:
        promised = {name for name, path in self._shards.items() if path == shard}
        with _opened(shard) as file:
            stored = set(file.keys())
            if promised != stored:
                raise CheckpointError(
                    f'{shard} and {INDEX_NAME} disagree: only the index has '
                    f'{listing(promised - stored)}; only the file has {listing(stored - promised)}'
                )
            for name in stored:
                header = file.get_slice(name)
                if header.get_dtype() not in _DTYPES:
                    raise CheckpointError(
                        f'{shard}: {name} has dtype {header.get_dtype()}; '
                        f'allowed: {", ".join(_DTYPES)}'
                    )
                self._shapes[name] = tuple(header.get_shape())


def _weight_map(directory: Path) -> dict[str, str]:
    """Tensor name -> file name."""
    if (directory / INDEX_NAME).exists():
        weight_map = read_json(directory / INDEX_NAME).get('weight_map')
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f'{directory / INDEX_NAME} has no weight_map')
        if not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f'{directory / INDEX_NAME}: weight_map must hold file names')
        absent = {name for name in weight_map.values() if not (directory / name).is_file()}
        if absent:
            raise CheckpointError(
                f'{directory} lacks {listing(absent)}, which {INDEX_NAME} names; '
                'was the download or copy interrupted?'
            )
        return weight_map
    if (directory / SINGLE_NAME).is_file():
        with _opened(directory / SINGLE_NAME) as file:
            return dict.fromkeys(file.keys(), SINGLE_NAME)
    pickles = {path.name for pattern in _PICKLE_PATTERNS for path in directory.glob(pattern)}
    if pickles:
        raise CheckpointError(
            f'{directory} has its weights as pickle files ({listing(pickles)}), which can run code '
            'when loaded; convert them to safetensors (save_pretrained writes these)'
        )
    raise CheckpointError(
        f'{directory} has no weights: neither {INDEX_NAME} nor {SINGLE_NAME} is there'
    )


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework='pt', device='cpu')
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size if path.exists() else 0
        raise CheckpointError(
            f'{path} ({size} bytes) is truncated or no safetensors file: {error}; '
            'download or copy it again'
        ) from error
