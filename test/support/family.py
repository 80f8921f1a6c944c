# SPDX-License-Identifier: Apache-2.0
"""Released checkpoints of OpenVLA's family as vla_ros loads them, for the tests alone.

``vla_convert`` does the same with files that nobody trusts.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vla_ros.openvla.checkpoint import SINGLE_NAME
from vla_ros.openvla.layout import Layout, write_layout

_LORA_FACTOR = 0.5  # alpha 16, rank 32


def write_family(source: Path, directory: Path, layout: Layout) -> Path:
    """Write the checkpoint in ``source`` with those of its parts that the layout names.

    :param source: a folder as released: safetensors, and heads as ``.pt``.
    :param directory: made here.
    :returns: ``directory``.
    """
    directory.mkdir(parents=True)
    for path in source.glob('*.json'):
        if 'index' not in path.name:
            shutil.copyfile(path, directory / path.name)
    tensors: dict[str, Tensor] = {}
    for path in sorted(source.glob('*.safetensors')):
        tensors |= load_file(path)
    if layout.film:
        towers = _merged(_pickled(source, 'vision_backbone'))
        tensors = {key: one for key, one in tensors.items() if key not in towers} | towers
    if not layout.emits_tokens:
        head = _pickled(source, 'action_head')
        tensors |= {
            f'action_head.{key.removeprefix("model.")}': value
            for key, value in head.items()
            if 'film_gen' not in key
        }
        tensors.pop('language_model.lm_head.weight', None)
    if layout.state_dim:
        state = _pickled(source, 'proprio_projector')
        tensors |= {f'state_projector.{key}': value for key, value in state.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, directory / SINGLE_NAME)
    write_layout(directory, layout)
    return directory


def _pickled(source: Path, word: str) -> dict[str, Tensor]:
    (path,) = source.glob(f'{word}--*.pt')
    weights = torch.load(path, weights_only=True)
    return {key.removeprefix('module.'): value for key, value in weights.items()}


def _merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the towers with their LoRA in them, in float32, under the names that vla_ros has."""
    merged = {}
    for key, value in weights.items():
        if '.lora_' in key:
            continue
        base = key.removesuffix('.base_layer.weight')
        if base != key:
            low, high = (weights[f'{base}.lora_{one}.default.weight'].float() for one in 'AB')
            product = (high.flatten(1) @ low.flatten(1)).view(value.shape)
            value = value.float() + _LORA_FACTOR * product
        name = key.replace('.base_layer.', '.').replace('.block.', '.')
        merged[name] = value.float()
    return merged
