# SPDX-License-Identifier: Apache-2.0
"""The shapes of synthetic checkpoints: what config.json, vla_ros.json and the statistics say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vla_ros.openvla.layout import Codes, Layout

_TINY_LLAMA = {
    'hidden_size': 64,
    'intermediate_size': 172,
    'num_attention_heads': 4,
    'num_hidden_layers': 3,
}
_FUSED = {
    'arch_specifier': 'no-align+fused-gelu-mlp',
    'llm_backbone_id': 'llama2-7b-pure',
    'vision_backbone_id': 'dinosiglip-vit-so-224px',
    'use_fused_vision_backbone': True,
    'image_resize_strategy': 'resize-naive',
}
_TINY_TOWERS = {
    'timm_model_ids': ['vit_vlatiny_patch14_reg4_dinov2', 'vit_vlatiny_patch14_siglip_224']
}
_FULL_TOWERS = {
    'timm_model_ids': ['vit_large_patch14_reg4_dinov2.lvd142m', 'vit_so400m_patch14_siglip_224']
}
_QWEN = {'llm_backbone_id': 'qwen25-0_5b-extra', 'hf_llm_id': ''}
_QWEN_TEXT = {
    'model_type': 'qwen2',
    'tie_word_embeddings': True,
    'rope_theta': 1000000.0,
    'use_sliding_window': False,
}
_FULL_QWEN = {
    **_QWEN_TEXT,
    'vocab_size': 151936,
    'bos_token_id': 151643,
    'eos_token_id': 151643,
    'hidden_size': 896,
    'intermediate_size': 4864,
    'num_attention_heads': 14,
    'num_hidden_layers': 24,
    'num_key_value_heads': 2,
}
_TINY_QWEN = {
    **_QWEN_TEXT,
    **_TINY_LLAMA,
    'pad_token_id': 0,
    'vocab_size': 1024,
    'bos_token_id': 900,
    'eos_token_id': 900,
    'num_key_value_heads': 2,
}
_SHAPES: dict[str, dict[str, Any]] = {
    'tiny': {
        **_FUSED,
        **_TINY_TOWERS,
        'text_config': _TINY_LLAMA,
    },
    'blocks': {  # trained by training/train.py
        **_FUSED,
        'timm_model_ids': ['vit_vlablocks_patch28_reg4_dinov2', 'vit_vlablocks_patch28_siglip_224'],
        'text_config': {**_TINY_LLAMA, 'num_hidden_layers': 4},
    },
    'openvla-7b': {
        **_FUSED,
        **_FULL_TOWERS,
        'text_config': {},
    },
    'openvla-v01-7b': {
        'arch_specifier': 'no-align+gelu-mlp',
        'llm_backbone_id': 'vicuna-v15-7b',
        'vision_backbone_id': 'siglip-vit-so400m',
        'use_fused_vision_backbone': False,
        'image_resize_strategy': 'letterbox',
        'timm_model_ids': ['vit_so400m_patch14_siglip_224'],
        'text_config': {},
    },
}
_SHAPES |= {  # of chunks
    'vla-adapter-pro': {
        **_FUSED,
        **_FULL_TOWERS,
        **_QWEN,
        'text_config': _FULL_QWEN,
    },
    'vla-adapter-pro-tiny': {
        **_FUSED,
        **_TINY_TOWERS,
        **_QWEN,
        'pad_token_id': 0,
        'text_config': _TINY_QWEN,
    },
    'openvla-oft': {**_FUSED, **_FULL_TOWERS, 'text_config': {}},
    'openvla-oft-tiny': {**_FUSED, **_TINY_TOWERS, 'text_config': _TINY_LLAMA},
}
EXTRA_TOKENS = 256  # of MiniVLA, behind Qwen's; codes have the last 128
_MINIVLA = {**_FUSED, **_FULL_TOWERS, **_QWEN, 'pad_to_multiple_of': 15, 'text_config': _FULL_QWEN}
_MINIVLA_TINY = {
    **_MINIVLA,
    **_TINY_TOWERS,
    'pad_token_id': 0,
    'text_config': {**_TINY_QWEN, 'vocab_size': 1193},
}
_SHAPES |= {
    'minivla': _MINIVLA,
    'minivla-vq': {**_MINIVLA, 'n_action_bins': 128},
    'minivla-tiny': _MINIVLA_TINY,
    'minivla-vq-tiny': {**_MINIVLA_TINY, 'n_action_bins': 128},
}
SHAPES = tuple(_SHAPES)

_ROWS, _VALUES, _STATE = 8, 7, 8  # of LIBERO's checkpoints, which most people use


def layout_of(shape: str) -> Layout | None:
    """Return the layout of one of ``SHAPES``; None for OpenVLA."""
    if shape.startswith('minivla'):
        return _minivla(has_codes='-vq' in shape)
    if not shape.startswith(('vla-adapter', 'openvla-oft')):
        return None
    is_bridge = shape.startswith('vla-adapter')
    return Layout(
        action_head='bridge_pro' if is_bridge else 'l1',
        horizon=_ROWS,
        action_dim=_VALUES,
        cameras=('image', 'wrist_image'),
        state_dim=_STATE,
        normalization='q01_q99',
        film=False,
        prompt='qwen' if is_bridge else 'openvla',
    )


def _minivla(has_codes: bool) -> Layout:
    """Return the layout of the released MiniVLAs: with codes they have two cameras."""
    return Layout(
        action_head='decoded_tokens',
        horizon=_ROWS if has_codes else 1,
        action_dim=_VALUES,
        cameras=('image', 'wrist_image') if has_codes else ('image',),
        state_dim=0,
        normalization='q01_q99',
        film=False,
        prompt='minivla',
        codes=Codes(groups=7, latent_dim=512, hidden_dim=128, scale=1.0) if has_codes else None,
    )


# Ranges as wide as bridge_orig's. The actions have no meaning.
PLACEHOLDER_NORM_STATS = {
    'random': {
        'action': {
            'q01': [-0.03, -0.04, -0.03, -0.08, -0.09, -0.2, 0.0],
            'q99': [0.03, 0.04, 0.04, 0.08, 0.08, 0.2, 1.0],
            'mask': [True, True, True, True, True, True, False],
        },
        'proprio': {'q01': [-1.0] * _STATE, 'q99': [1.0] * _STATE},
        'num_trajectories': 0,
        'num_transitions': 0,
    }
}


def config_of(shape: str, norm_stats: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of config.json."""
    own = dict(_SHAPES[shape])
    towers = len(own['timm_model_ids'])
    text_config = {
        'model_type': 'llama',
        'pad_token_id': 32000,
        'torch_dtype': 'bfloat16',
        'vocab_size': 32064,
        **own.pop('text_config'),
    }
    return {
        'architectures': ['OpenVLAForActionPrediction'],
        'model_type': 'openvla',
        'image_sizes': [224] * towers,
        'llm_max_length': 2048,
        'n_action_bins': 256,
        'norm_stats': norm_stats,
        'pad_to_multiple_of': 64,
        'pad_token_id': 32000,
        'timm_override_act_layers': [None] * towers,
        'torch_dtype': 'bfloat16',
        **own,
        'text_config': text_config,
    }
