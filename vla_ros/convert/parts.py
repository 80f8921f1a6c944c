# SPDX-License-Identifier: Apache-2.0
"""The parts of a policy beside its language model, under the names that the node reads.

Trainings save each part in a ``.pt`` file, under the names of the training's own modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from vla_ros.convert.adapters import merged
from vla_ros.convert.errors import ConvertError
from vla_ros.convert.reading import tensors_to_safetensors
from vla_ros.convert.weights import Weight, opened_weights
from vla_ros.openvla.errors import listing

# Names that no check of foreign files takes for those of a training.
_FILES = {'head': 'model-head.safetensors', 'state': 'model-state.safetensors'}
_VISION_FILE = 'model-vision.safetensors'
_UNUSED = 'film_gen'  # stored in the head of VLA-Adapter-Pro, and never used
_BLOCK = re.compile(r'(.*\.blocks\.\d+)\.block\.(.*)')
_BASE = '.base_layer.'
_DOWN, _UP = '.lora_A.default.weight', '.lora_B.default.weight'
_FILM_ALPHA = 16  # or the rank, if that is less: fixed in the training's code


def read_part(path: Path, scratch: Path, beginning: str, kind: str) -> dict[str, Weight]:
    """Return the tensors of a head or of a projector of the state, by the name to write.

    :param scratch: folder for the safetensors that are read.
    :param beginning: of all names: ``action_head`` or ``state_projector``.
    :param kind: ``head`` or ``state``.
    :raises ConvertError: if the file is not one of ``torch.save`` with tensors only.
    """
    found: dict[str, Weight] = {}
    for name, weight in _read(path, scratch).items():
        if f'.{_UNUSED}.' in name:
            continue
        own = f'{beginning}.{name.removeprefix("model.")}'
        if own in found:
            raise ConvertError(f'{path} has {name} twice', 'take the file of one training')
        found[own] = replace(weight, file=_FILES[kind])
    return found


def read_towers(
    path: Path, scratch: Path, weights: Mapping[str, Weight], dtype: torch.dtype
) -> dict[str, Weight]:
    """Return the base's weights, with all of its towers replaced by those of a FiLM training.

    Their adapters are merged.

    :param weights: of the base, by name.
    :param dtype: of what the adapters change.
    :raises ConvertError: if these are other towers than the base's.
    """
    plain: dict[str, Weight] = {}
    halves: dict[str, dict[str, Weight]] = {}
    for name, weight in _read(path, scratch).items():
        half = _DOWN if name.endswith(_DOWN) else _UP if name.endswith(_UP) else ''
        if half:
            layer = _inner(name.removesuffix(half))
            halves.setdefault(f'{layer}.weight', {})['A' if half == _DOWN else 'B'] = weight
        else:
            plain[_inner(name.replace(_BASE, '.'))] = replace(weight, file=_VISION_FILE)
    missing = halves.keys() - plain.keys()
    if missing:
        raise ConvertError(
            f'{path} has adapters without the weights that they change: {listing(missing)}',
            'download or copy it again',
        )
    for name, pair in halves.items():
        plain[name] = merged(plain[name], pair, lambda rank: min(rank, _FILM_ALPHA) / rank, dtype)
    _check_towers(path, plain, weights)
    kept = {name: one for name, one in weights.items() if not name.startswith('vision_backbone.')}
    return kept | plain


def _read(path: Path, scratch: Path) -> dict[str, Weight]:
    """Return the tensors of a ``.pt`` file, without the prefix of a parallel training."""
    readable = scratch / f'{path.name}.safetensors'
    tensors_to_safetensors(path, readable)
    found: dict[str, Weight] = {}
    for name, weight in opened_weights(readable, path).items():
        plain = name.removeprefix('module.')
        if plain in found:
            raise ConvertError(f'{path} has {plain} twice', 'take the file of one training')
        found[plain] = weight
    return found


def _inner(name: str) -> str:
    """Return the name of a tensor in a tower whose blocks are not wrapped."""
    match = _BLOCK.fullmatch(name)
    return f'{match[1]}.{match[2]}' if match else name


def _check_towers(path: Path, towers: Mapping[str, Weight], base: Mapping[str, Weight]) -> None:
    film = re.compile(r'vision_backbone\.(fused_)?featurizer\.blocks\.\d+\.(scale|shift)\..*')
    own = {name: weight.shape for name, weight in towers.items() if not film.fullmatch(name)}
    expected = {
        name: weight.shape for name, weight in base.items() if name.startswith('vision_backbone.')
    }
    if own != expected:
        different = {
            name for name in own.keys() | expected.keys() if own.get(name) != expected.get(name)
        }
        raise ConvertError(
            f'{path} has other towers than the weights beside it: {listing(different)}',
            'take both from the same training',
        )
