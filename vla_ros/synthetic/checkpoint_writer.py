# SPDX-License-Identifier: Apache-2.0
"""Writer of checkpoints in the released layout, with weights that the caller gives.

For demonstrations, tests, and the training of models/blocks.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vla_ros.openvla.checkpoint import INDEX_NAME
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.layout import LAYOUT_NAME, layout_text, write_layout
from vla_ros.openvla.model import OpenVLAModel, stored_key
from vla_ros.openvla.preprocessor_config import preprocessor_config
from vla_ros.synthetic.own_folder import OwnFolder
from vla_ros.synthetic.shapes import EXTRA_TOKENS, PLACEHOLDER_NORM_STATS, config_of, layout_of
from vla_ros.synthetic.tokenizers import tokenizer_of

_SHARD_BYTES = 5_000_000_000


def write_checkpoint(
    directory: Path,
    shape: str,
    norm_stats: Mapping[str, Any],
    weights: Callable[[str, torch.Size], Tensor],
    writer: str,
) -> Path:
    """Write a checkpoint, its index last; replace only what the same writer has written there.

    :param shape: one of ``SHAPES``.
    :param norm_stats: statistics for config.json:
        ``{unnorm_key: {'action': {'q01': [...], ...}}}``.
    :param weights: called for every parameter with its name in the model and its shape.
    :param writer: name of the writer, for the marker in the folder.
    :returns: ``directory``.
    :raises CheckpointError: if the folder has a file that this writer did not write.
    """
    folder = OwnFolder(directory, writer)
    _describe(folder, shape, norm_stats)
    shapes = _shapes(directory)
    shards = _split(shapes)
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(shards, start=1):
        name = f'model-{number:05d}-of-{len(shards):05d}.safetensors'
        tensors = {stored_key(key): weights(key, shapes[key]) for key in keys}
        folder.write(name, partial(save_file, tensors, metadata={'format': 'pt'}))
        weight_map.update(dict.fromkeys(tensors, name))
    index = {'metadata': {}, 'weight_map': weight_map}
    folder.write(INDEX_NAME, partial(_write_json, content=index))
    return directory


def write_description(directory: Path, shape: str, writer: str) -> Path:
    """Write all of a checkpoint but its weights; see :func:`write_checkpoint`."""
    _describe(OwnFolder(directory, writer), shape, PLACEHOLDER_NORM_STATS)
    return directory


def _describe(folder: OwnFolder, shape: str, norm_stats: Mapping[str, Any]) -> None:
    config, layout = config_of(shape, norm_stats), layout_of(shape)
    folder.write('config.json', partial(_write_json, content=config))
    preprocessor = preprocessor_config(
        fused=config['use_fused_vision_backbone'],
        letterbox=config['image_resize_strategy'] == 'letterbox',
        rounded=not shape.startswith('minivla'),
    )
    folder.write('preprocessor_config.json', partial(_write_json, content=preprocessor))
    tokenizer = tokenizer_of(config, EXTRA_TOKENS if shape.startswith('minivla') else 0)
    folder.write('tokenizer.json', lambda path: tokenizer.save(str(path)))
    if layout is not None:
        text = layout_text(layout)
        folder.write(LAYOUT_NAME, lambda path: path.write_text(text, encoding='utf-8'))


def checkpoint_bytes(shape: str) -> int:
    """Return the bytes on the disk of the weights of one of ``SHAPES``, in bfloat16."""
    with tempfile.TemporaryDirectory() as directory:
        _write_json(Path(directory) / 'config.json', config_of(shape, PLACEHOLDER_NORM_STATS))
        layout = layout_of(shape)
        if layout is not None:
            write_layout(Path(directory), layout)
        return 2 * sum(size.numel() for size in _shapes(Path(directory)).values())


def _shapes(directory: Path) -> dict[str, torch.Size]:
    """Return the shapes of the model that config.json describes, by name in the model."""
    with torch.device('meta'):
        model = OpenVLAModel(OpenVLAConfig.from_directory(directory))
    return {key: value.shape for key, value in model.state_dict().items()}


def _split(shapes: Mapping[str, torch.Size]) -> list[list[str]]:
    """Return the keys of each shard, in order, each at most ``_SHARD_BYTES`` of bfloat16."""
    shards: list[list[str]] = [[]]
    size = 0
    for key, shape in shapes.items():
        size += 2 * shape.numel()
        if size > _SHARD_BYTES:
            shards.append([])
            size = 2 * shape.numel()
        shards[-1].append(key)
    return shards


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
