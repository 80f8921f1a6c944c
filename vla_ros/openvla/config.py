# SPDX-License-Identifier: Apache-2.0
"""The configuration in a checkpoint's JSON files, read and checked.

The layout is that of openvla-7b, its fine-tunes, and openvla-v01-7b; vla_ros.json adds to
it. Runs in the thread that builds the policy.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from vla_ros.openvla.action_tokenizer import ActionTokenizer
from vla_ros.openvla.errors import CheckpointError, listing
from vla_ros.openvla.files import Remember, unwatched
from vla_ros.openvla.json_files import read_json
from vla_ros.openvla.layout import Layout, read_layout
from vla_ros.openvla.normalization import ActionStatistics, read_norm_stats
from vla_ros.openvla.plain import check_config
from vla_ros.types import ONE_CAMERA

# vision_backbone_id -> timm ids; used where config.json does not list them itself.
_TIMM_IDS = {
    'siglip-vit-so400m': ('vit_so400m_patch14_siglip_224',),
    'dinosiglip-vit-so-224px': (
        'vit_large_patch14_reg4_dinov2.lvd142m',
        'vit_so400m_patch14_siglip_224',
    ),
}

# The defaults of transformers' LlamaConfig and Qwen2Config when the checkpoints were written: their
# config.json stores only other values. Pinned here, because a library's defaults may change.
# rms_norm_eps: Meta's is 1e-5, the published OpenVLA port runs with 1e-6.
_LLAMA_DEFAULTS = {
    'vocab_size': 32000,
    'hidden_size': 4096,
    'intermediate_size': 11008,
    'num_hidden_layers': 32,
    'num_attention_heads': 32,
    'rms_norm_eps': 1e-6,
    'rope_theta': 10000.0,
    'bos_token_id': 1,
    'eos_token_id': 2,
    'tie_word_embeddings': False,
}
_QWEN2_DEFAULTS = {
    **_LLAMA_DEFAULTS,
    'vocab_size': 151936,
    'intermediate_size': 22016,
    'num_key_value_heads': 32,
    'bos_token_id': 151643,
    'eos_token_id': 151643,
}
_LLAMA_SIZES = (
    'vocab_size',
    'hidden_size',
    'intermediate_size',
    'num_hidden_layers',
    'num_attention_heads',
    'num_key_value_heads',
)
_LLAMA_TOKENS = ('bos_token_id', 'eos_token_id', 'pad_token_id')
# What language.py implements: the only value of a field of text_config.
_LLAMA_KIND = {
    'model_type': 'llama',
    'hidden_act': 'silu',
    'attention_bias': False,
    'mlp_bias': False,
    'tie_word_embeddings': False,
}
_QWEN2_KIND = {'model_type': 'qwen2', 'hidden_act': 'silu', 'use_sliding_window': False}

_MAX_LAYERS = 1000  # each is built before it is compared with the weights

PROMPT_LLAMA = 'In: What action should the robot take to {instruction}?\nOut:'
PROMPT_VICUNA = (
    'A chat between a curious user and an artificial intelligence assistant. '
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    'USER: What action should the robot take to {instruction}? ASSISTANT:'
)
PROMPT_QWEN = (  # ChatML
    '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.'
    '<|im_end|>\n<|im_start|>user\nWhat action should the robot take to {instruction}?'
    '<|im_end|>\n<|im_start|>assistant\n'
)


@dataclass(frozen=True)
class TowerConfig:
    """One vision tower.

    :param image_size: pixels, height and width of its input.
    """

    timm_id: str
    image_size: int
    act_layer: str | None


@dataclass(frozen=True)
class LlamaConfig:
    """The language model, a Llama or a Qwen2; the names are those of a Hugging Face config.json.

    :param vocab_size: rows of the embedding, padding included.
    :param head_dim: values per attention head; even.
    :param num_key_value_heads: divides ``num_attention_heads``; fewer means grouped queries.
    :param attention_bias: whether queries, keys and values have a bias: those of Qwen2 have.
    :param tie_word_embeddings: whether the head is the embedding.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    attention_bias: bool = False
    tie_word_embeddings: bool = False


@dataclass(frozen=True)
class OpenVLAConfig:
    """Everything that the model and its prompts and actions depend on, except the weights.

    :param towers: one, or two whose features are fused.
    :param prompt_template: with ``{instruction}`` in it.
    :param layout: what vla_ros.json says; None for OpenVLA.
    """

    towers: tuple[TowerConfig, ...]
    llama: LlamaConfig
    prompt_template: str
    action_tokenizer: ActionTokenizer
    norm_stats: Mapping[str, ActionStatistics]
    layout: Layout | None = None

    @cached_property
    def longest_key(self) -> str:
        """The unnorm_key whose actions have the most values."""
        return max(self.norm_stats, key=lambda key: self.norm_stats[key].action_dim)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names in the model's order."""
        return (ONE_CAMERA,) if self.layout is None else self.layout.cameras

    @property
    def decodes(self) -> bool:
        """Whether tokens are decoded one after the other, which drafts can shorten."""
        return self.layout is None or self.layout.decodes

    def decoded_tokens(self, action_dim: int) -> int:
        """Return the number of tokens of an action or, with codes, of a chunk."""
        codes = None if self.layout is None else self.layout.codes
        return action_dim if codes is None else codes.groups

    @classmethod
    def from_directory(cls, directory: Path, remember: Remember = unwatched) -> OpenVLAConfig:
        """Read config.json and, where they exist, dataset_statistics.json and vla_ros.json.

        :param remember: called with each file immediately before it is opened.
        :raises CheckpointError: if a file is missing or is not of OpenVLA.
        """
        path = directory / 'config.json'
        config = read_json(path, remember)
        layout = read_layout(directory, remember)
        try:
            check_config(config, path, layout)
            llama = _read_llama(config, path, layout)
            return cls(
                towers=_read_towers(config, path),
                llama=llama,
                prompt_template=_prompt_template(config, layout),
                action_tokenizer=_read_action_tokenizer(config, llama.vocab_size, path),
                norm_stats=_read_statistics(directory, config, layout, remember),
                layout=layout,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f'{path} is malformed: {error!r}') from error


def _read_towers(config: Mapping[str, Any], path: Path) -> tuple[TowerConfig, ...]:
    backbone_id = config.get('vision_backbone_id', '')
    timm_ids = config.get('timm_model_ids') or _TIMM_IDS.get(backbone_id)
    if not timm_ids:
        raise CheckpointError(
            f'{path}: vision_backbone_id {backbone_id!r} is unknown and timm_model_ids is absent',
            value=backbone_id,
            expected=f'one of {listing(_TIMM_IDS)}',
        )
    fused = config.get('use_fused_vision_backbone')
    if fused is None:
        fused = backbone_id.startswith(('dinosiglip', 'dinoclip'))
    if len(timm_ids) != (2 if fused else 1):
        raise CheckpointError(
            f'{path}: use_fused_vision_backbone is {fused}, but timm_model_ids lists '
            f'{len(timm_ids)}: {timm_ids}'
        )
    sizes = config.get('image_sizes') or [224] * len(timm_ids)
    act_layers = config.get('timm_override_act_layers') or [None] * len(timm_ids)
    return tuple(
        TowerConfig(timm_id, int(size), act_layer)
        for timm_id, size, act_layer in zip(timm_ids, sizes, act_layers, strict=True)
    )


def _read_llama(config: Mapping[str, Any], path: Path, layout: Layout | None) -> LlamaConfig:
    """Read the configuration of the language model.

    :raises CheckpointError: if language.py does not implement the model.
    """
    text_config = config.get('text_config', {})
    # OpenVLA has a Llama only; with a Qwen2 it would be a policy that nobody described.
    is_qwen2 = layout is not None and text_config.get('model_type') == 'qwen2'
    kind, defaults = (_QWEN2_KIND, _QWEN2_DEFAULTS) if is_qwen2 else (_LLAMA_KIND, _LLAMA_DEFAULTS)
    for name, only in kind.items():
        if text_config.get(name, only) != only:
            raise CheckpointError(
                f'{path}: text_config has {name} {text_config[name]!r}',
                value=text_config[name],
                expected=repr(only),
            )
    llama = {**defaults, 'pad_token_id': config.get('pad_token_id', 32000), **text_config}
    llama['attention_bias'] = is_qwen2
    # As transformers 5 writes it.
    rope = llama.get('rope_parameters') or llama.get('rope_scaling') or {}
    rope_type = rope.get('rope_type', rope.get('type', 'default'))
    if rope_type != 'default':
        raise CheckpointError(
            f'{path}: text_config has rope_type {rope_type!r}', value=rope_type, expected='default'
        )
    llama['rope_theta'] = rope.get('rope_theta', llama['rope_theta'])
    if llama.get('num_key_value_heads') is None:
        llama['num_key_value_heads'] = llama['num_attention_heads']
    _check_llama(llama, path)
    if llama.get('head_dim') is None:
        llama['head_dim'] = llama['hidden_size'] // llama['num_attention_heads']
    return LlamaConfig(**{field.name: llama[field.name] for field in fields(LlamaConfig)})


def _check_llama(llama: Mapping[str, Any], path: Path) -> None:
    for name in _LLAMA_SIZES:
        _check(llama, name, _is_whole(llama[name], 1), 'a whole number above 0', path)
    few = llama['num_hidden_layers'] <= _MAX_LAYERS
    _check(llama, 'num_hidden_layers', few, f'at most {_MAX_LAYERS}', path)
    tied = llama['tie_word_embeddings']
    _check(llama, 'tie_word_embeddings', type(tied) is bool, 'true or false', path)
    for name in _LLAMA_TOKENS:
        fits = _is_whole(llama[name], 0) and llama[name] < llama['vocab_size']
        _check(llama, name, fits, f'a token id below vocab_size {llama["vocab_size"]}', path)
    for name in ('rms_norm_eps', 'rope_theta'):
        positive = type(llama[name]) in (int, float) and 0 < llama[name] < math.inf
        _check(llama, name, positive, 'a number above 0', path)
    heads = llama['num_attention_heads']
    divides = heads % llama['num_key_value_heads'] == 0
    _check(llama, 'num_key_value_heads', divides, f'a divisor of {heads} attention heads', path)
    if llama.get('head_dim') is None:
        even = llama['hidden_size'] % (2 * heads) == 0
        _check(llama, 'hidden_size', even, f'an even number for each of {heads} heads', path)
    else:
        even = _is_whole(llama['head_dim'], 2) and llama['head_dim'] % 2 == 0
        _check(llama, 'head_dim', even, 'an even number above 0', path)


def _check(llama: Mapping[str, Any], name: str, is_right: bool, expected: str, path: Path) -> None:
    if not is_right:
        raise CheckpointError(
            f'{path}: text_config has {name} {llama[name]!r}', value=llama[name], expected=expected
        )


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _read_action_tokenizer(config: Mapping[str, Any], padded: int, path: Path) -> ActionTokenizer:
    """Return the action tokenizer.

    :param padded: rows of the embedding.
    """
    # Embedding and head were padded by this many rows: `<PAD>` and fillers.
    vocab_size = padded - config.get('pad_to_multiple_of', 64)
    n_action_bins = config.get('n_action_bins', 256)
    if not 2 <= n_action_bins < vocab_size <= padded:
        raise CheckpointError(
            f'{path}: n_action_bins is {n_action_bins} in a vocabulary of {vocab_size}, which is '
            f'{padded} less pad_to_multiple_of'
        )
    return ActionTokenizer(vocab_size, n_action_bins)


def _prompt_template(config: Mapping[str, Any], layout: Layout | None) -> str:
    if layout is not None and layout.prompt != 'openvla':
        return PROMPT_QWEN
    # The reference goes by the folder's name; the language model's id is reliable.
    vicuna = str(config.get('llm_backbone_id', '')).startswith('vicuna')
    return PROMPT_VICUNA if vicuna else PROMPT_LLAMA


def _read_statistics(
    directory: Path, config: Mapping[str, Any], layout: Layout | None, remember: Remember
) -> dict[str, ActionStatistics]:
    # As in the reference's scripts, the file of a fine-tuning comes before config.json. A broken
    # link is an error, because config.json has the base model's statistics.
    path = directory / 'dataset_statistics.json'
    if os.path.lexists(path):
        return read_norm_stats(read_json(path, remember), str(path), layout)
    return read_norm_stats(config.get('norm_stats'), str(directory / 'config.json'), layout)
