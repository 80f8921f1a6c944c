# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters (LoRA), merged into the weights that they change.

An adapter replaces the weight W of a layer by W + s * B A with two narrow matrices, A [r, in] and
B [out, r]. Source of the layout and of s: PEFT. Every setting of PEFT that changes this formula is
rejected. Sums are computed in float32.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla_ros.convert.errors import ConvertError
from vla_ros.convert.weights import Weight, opened_weights
from vla_ros.openvla.errors import listing
from vla_ros.openvla.json_files import read_json
from vla_ros.openvla.pages import release_pages
from vla_ros.text import quoted

CONFIG_NAME, WEIGHTS_NAME = 'adapter_config.json', 'adapter_model.safetensors'
# Settings that do not change the formula, at any value; others must be off.
_HARMLESS = {
    *('alpha_pattern', 'auto_mapping', 'base_model_name_or_path', 'bias', 'ensure_weight_tying'),
    *('ephemeral_gpu_offload', 'eva_config', 'exclude_modules', 'inference_mode'),
    *('init_lora_weights', 'layers_pattern', 'layers_to_transform', 'lora_alpha', 'lora_dropout'),
    *('megatron_core', 'peft_type', 'peft_version', 'qalora_group_size', 'r', 'rank_pattern'),
    *('revision', 'runtime_config', 'target_modules', 'task_type', 'use_rslora'),
}
# Other ways to begin a training (pissa, olora, loftq, corda) change the base's weights as well.
_BEGINNINGS = (None, True, False, 'gaussian', 'eva', 'orthogonal')
_TENSOR = re.compile(r'base_model\.model\.(.+)\.lora_(A|B)\.weight')


@dataclass(frozen=True)
class Scaling:
    """The factor s of each layer.

    :param patterns: exceptions from ``alpha``: a layer's name, or a pattern of its end.
    :param by_root: divide by the root of the rank, as rank-stabilised LoRA does.
    """

    alpha: float
    patterns: Mapping[str, float]
    by_root: bool

    def of(self, layer: str, rank: int) -> float:
        alpha = self.alpha
        for pattern, own in self.patterns.items():
            if re.match(rf'(.*\.)?({pattern})$', layer):
                alpha = own
                break
        return alpha / (math.sqrt(rank) if self.by_root else rank)


def merge_adapter(
    weights: Mapping[str, Weight], directory: Path, dtype: torch.dtype
) -> dict[str, Weight]:
    """Return the weights of a base with those replaced that an adapter changes.

    :param weights: of the base, by name.
    :param directory: with adapter_config.json and adapter_model.safetensors.
    :param dtype: of the replaced weights.
    :raises ConvertError: if the adapter is of another kind, or of another base.
    """
    scaling = _read_scaling(directory)
    halves: dict[str, dict[str, Weight]] = {}
    for name, weight in opened_weights(directory / WEIGHTS_NAME).items():
        match = _TENSOR.fullmatch(name)
        if not match:
            raise ConvertError(
                f'{directory / WEIGHTS_NAME} has {quoted(name)}, which is not of a LoRA adapter of '
                'linear layers',
                expected='names of the form base_model.model.LAYER.lora_A.weight',
            )
        halves.setdefault(match[1], {})[match[2]] = weight
    if not halves:
        raise ConvertError(f'{directory / WEIGHTS_NAME} has no tensors', 'copy it again')
    missing = {layer for layer in halves if f'{layer}.weight' not in weights}
    if missing:
        raise ConvertError(
            f'{directory} is an adapter of another base: {len(missing)} of its {len(halves)} '
            f'layers are not in the weights: {listing(missing)}',
            f'take the base that {CONFIG_NAME} names',
        )
    return {
        **weights,
        **{
            f'{layer}.weight': merged(
                weights[f'{layer}.weight'], pair, functools.partial(scaling.of, layer), dtype
            )
            for layer, pair in halves.items()
        },
    }


def merged(
    base: Weight, pair: Mapping[str, Weight], scale: Callable[[int], float], dtype: torch.dtype
) -> Weight:
    """Return the merged weight of one linear layer or convolution.

    :param pair: ``A`` and ``B``.
    :param scale: the factor for a rank.
    :raises ConvertError: if the shapes do not go together.
    """
    if set(pair) != {'A', 'B'}:
        raise ConvertError(f'{base.name} has only one half of an adapter', 'copy it again')
    down, up = pair['A'], pair['B']
    rank = down.shape[0] if down.shape else 0
    fits = (
        rank > 0
        and len(base.shape) in (2, 4)
        and down.shape[1:] == base.shape[1:]
        and up.shape == (base.shape[0], rank, *(1 for _ in base.shape[2:]))
    )
    if not fits:
        raise ConvertError(
            f'the adapter of {base.name} {base.shape} has the shapes {down.shape} and {up.shape}',
            'take the adapter of this base',
        )
    factor = scale(rank)

    def load() -> Tensor:
        stored = base.load()
        product = up.load().float().flatten(1) @ down.load().float().flatten(1)
        total = stored.float() + factor * product.reshape(base.shape)
        release_pages(stored)
        if not total.isfinite().all():
            raise ConvertError(f'{base.name} is not finite once merged', 'copy the adapter again')
        return total.to(dtype)

    return Weight(base.name, dtype, base.shape, base.file, load)


def _read_scaling(directory: Path) -> Scaling:
    config = read_json(directory / CONFIG_NAME)
    path = directory / CONFIG_NAME
    if config.get('peft_type') != 'LORA':
        raise ConvertError(
            f'{path} has peft_type {quoted(config.get("peft_type"))}', expected="'LORA'"
        )
    others = {key for key, value in config.items() if value and key not in _HARMLESS}
    if config.get('bias', 'none') != 'none':
        others.add('bias')
    if config.get('init_lora_weights') not in _BEGINNINGS:
        others.add('init_lora_weights')
    if others:
        raise ConvertError(
            f'{path} has settings that are not supported: {listing(others)}',
            'merge it with PEFT (merge_and_unload), and convert the merged folder',
        )
    alpha, patterns = config.get('lora_alpha'), config.get('alpha_pattern') or {}
    if alpha is None or not _is_number(alpha) or not isinstance(patterns, dict):
        raise ConvertError(f'{path} has lora_alpha {quoted(alpha)}', expected='a number')
    if not all(_is_number(value) and _is_plain(key) for key, value in patterns.items()):
        raise ConvertError(
            f'{path} has alpha_pattern {quoted(patterns)}',
            expected='a number for each name of a layer',
        )
    return Scaling(float(alpha), patterns, bool(config.get('use_rslora')))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_plain(pattern: Any) -> bool:
    """Return whether a pattern is a name: a hostile expression could run without end."""
    return isinstance(pattern, str) and bool(re.fullmatch(r'[\w.\\]{1,500}', pattern))
