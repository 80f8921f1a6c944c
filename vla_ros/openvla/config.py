"""Reads and checks what a checkpoint's JSON files say; builds nothing.

Follows the released layout of openvla-7b, its fine-tunes, and openvla-v01-7b. Runs in the thread
that builds the policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.openvla.action_tokenizer import ActionTokenizer
from vla_ros.openvla.errors import CheckpointError, listing
from vla_ros.openvla.normalization import ActionStatistics, read_norm_stats

# vision_backbone_id -> timm ids; used where config.json does not list them itself.
_TIMM_IDS = {
    'siglip-vit-so400m': ('vit_so400m_patch14_siglip_224',),
    'dinosiglip-vit-so-224px': (
        'vit_large_patch14_reg4_dinov2.lvd142m',
        'vit_so400m_patch14_siglip_224',
    ),
}

# What transformers' LlamaConfig defaulted to when the checkpoints were written: their config.json
# stores only what differs. Pinned here, since a library's defaults may change.
# rms_norm_eps: Meta's own is 1e-5, the published OpenVLA port runs with 1e-6.
_LLAMA_DEFAULTS = {
    'vocab_size': 32000,
    'hidden_size': 4096,
    'intermediate_size': 11008,
    'num_hidden_layers': 32,
    'num_attention_heads': 32,
    'hidden_act': 'silu',
    'max_position_embeddings': 2048,
    'rms_norm_eps': 1e-6,
    'rope_theta': 10000.0,
    'attention_bias': False,
    'mlp_bias': False,
    'tie_word_embeddings': False,
    'bos_token_id': 1,
    'eos_token_id': 2,
}

_LLAMA_SIZES = (
    'vocab_size',
    'hidden_size',
    'intermediate_size',
    'num_hidden_layers',
    'num_attention_heads',
    'num_key_value_heads',
    'max_position_embeddings',
)

PROMPT_LLAMA = 'In: What action should the robot take to {instruction}?\nOut:'
PROMPT_VICUNA = (
    'A chat between a curious user and an artificial intelligence assistant. '
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    'USER: What action should the robot take to {instruction}? ASSISTANT:'
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
class OpenVLAConfig:
    """All that is needed to build the model and to speak to it.

    :param towers: one, or two whose features are fused.
    :param llama: the arguments of a LlamaConfig.
    :param prompt_template: with ``{instruction}`` in it.
    """

    towers: tuple[TowerConfig, ...]
    llama: Mapping[str, Any]
    prompt_template: str
    action_tokenizer: ActionTokenizer
    norm_stats: Mapping[str, ActionStatistics]

    @classmethod
    def from_directory(cls, directory: Path) -> OpenVLAConfig:
        """Read config.json and, where it is there, dataset_statistics.json.

        :raises CheckpointError: if a file is missing or is no OpenVLA's.
        """
        path = directory / 'config.json'
        config = read_json(path)
        if config.get('model_type') != 'openvla':
            raise CheckpointError(
                f'{path} is the config of another model: model_type is '
                f"{config.get('model_type')!r}, expected 'openvla'"
            )
        try:
            llama = _read_llama(config, path)
            return cls(
                towers=_read_towers(config, path),
                llama=llama,
                prompt_template=_prompt_template(config),
                action_tokenizer=_read_action_tokenizer(config, llama['vocab_size'], path),
                norm_stats=_read_statistics(directory, config),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f'{path} is malformed: {error!r}') from error


def read_json(path: Path) -> dict[str, Any]:
    """:raises CheckpointError: if the file is missing, or holds no JSON object."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise CheckpointError(f'{path} is missing; an OpenVLA checkpoint has one') from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f'{path} can not be read as JSON: {error}') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds {type(content).__name__}, expected a JSON object')
    return content


def _read_towers(config: Mapping[str, Any], path: Path) -> tuple[TowerConfig, ...]:
    backbone_id = config.get('vision_backbone_id', '')
    timm_ids = config.get('timm_model_ids') or _TIMM_IDS.get(backbone_id)
    if not timm_ids:
        raise CheckpointError(
            f'{path}: vision_backbone_id {backbone_id!r} is unknown and timm_model_ids is absent; '
            f'known: {listing(_TIMM_IDS)}'
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


def _read_llama(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    text_config = config.get('text_config', {})
    if text_config.get('model_type', 'llama') != 'llama':
        raise CheckpointError(
            f'{path}: text_config has model_type {text_config["model_type"]!r}; '
            "only 'llama' is supported"
        )
    left_out = ('model_type', 'torch_dtype', 'dtype', 'architectures', '_name_or_path')
    llama = {
        **_LLAMA_DEFAULTS,
        **{key: value for key, value in text_config.items() if key not in left_out},
    }
    # As transformers 5 writes it.
    rope = llama.pop('rope_parameters', None) or llama.pop('rope_scaling', None) or {}
    if rope.get('rope_type', 'default') != 'default':
        raise CheckpointError(
            f'{path}: text_config has rope_type {rope["rope_type"]!r}; only default'
        )
    llama['rope_theta'] = rope.get('rope_theta', llama['rope_theta'])
    llama.setdefault('num_key_value_heads', llama['num_attention_heads'])
    llama.setdefault('pad_token_id', config.get('pad_token_id', 32000))
    for name in _LLAMA_SIZES:
        if type(llama[name]) is not int or llama[name] < 1:
            raise CheckpointError(
                f'{path}: text_config has {name} {llama[name]!r}; expected a whole number above 0'
            )
    return llama


def _read_action_tokenizer(config: Mapping[str, Any], padded: int, path: Path) -> ActionTokenizer:
    """:param padded: rows of the embedding."""
    # Embedding and head were padded by this many rows: `<PAD>` and fillers.
    vocab_size = padded - config.get('pad_to_multiple_of', 64)
    n_action_bins = config.get('n_action_bins', 256)
    if not 2 <= n_action_bins < vocab_size <= padded:
        raise CheckpointError(
            f'{path}: n_action_bins is {n_action_bins} in a vocabulary of {vocab_size}, which is '
            f'{padded} less pad_to_multiple_of'
        )
    return ActionTokenizer(vocab_size, n_action_bins)


def _prompt_template(config: Mapping[str, Any]) -> str:
    # The reference goes by the folder's name; the language model's id says the same reliably.
    vicuna = str(config.get('llm_backbone_id', '')).startswith('vicuna')
    return PROMPT_VICUNA if vicuna else PROMPT_LLAMA


def _read_statistics(directory: Path, config: Mapping[str, Any]) -> dict[str, ActionStatistics]:
    # As the reference's scripts do, the file that a fine-tuning wrote wins over config.json.
    path = directory / 'dataset_statistics.json'
    if path.exists():
        return read_norm_stats(read_json(path), str(path))
    return read_norm_stats(config.get('norm_stats'), str(directory / 'config.json'))
