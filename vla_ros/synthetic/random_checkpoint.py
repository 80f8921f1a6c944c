# SPDX-License-Identifier: Apache-2.0
"""Writer of checkpoints in the released layout with random weights, for demonstrations and tests.

The actions have no meaning, but are always valid and depend on images, instruction and state. The
same shape and seed give the same files on one version of torch.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from vla_ros.synthetic.checkpoint_writer import write_checkpoint
from vla_ros.synthetic.shapes import PLACEHOLDER_NORM_STATS, config_of

_WRITER = 'vla_checkpoint'
# Sharper attention than usual, so that single patches, words and the state change the action.
_GAINS = {
    'self_attn.q_proj': 2,
    'self_attn.k_proj': 2,
    'state_projector.fc2': 4,
    '.k_adapter': 3,
    '.v_adapter': 3,
}


def write_random_checkpoint(directory: Path, shape: str = 'tiny', seed: int = 0) -> Path:
    """Write a checkpoint, its index last; replace only an older one of this function.

    :param shape: one of ``shapes.SHAPES``.
    :returns: ``directory``.
    :raises CheckpointError: if the folder has other files.
    """
    generator = torch.Generator().manual_seed(seed)
    config = config_of(shape, PLACEHOLDER_NORM_STATS)
    last = config['text_config']['vocab_size'] - config['pad_to_multiple_of']
    action_ids = slice(last - config['n_action_bins'], last)
    is_tied = shape.startswith('minivla')  # and its logits are used
    return write_checkpoint(
        directory,
        shape,
        PLACEHOLDER_NORM_STATS,
        lambda key, size: (
            _tied_embedding(size, action_ids, generator)
            if is_tied and key == 'language_model.model.embed_tokens.weight'
            else _random_weights(key, size, action_ids, generator)
        ),
        writer=_WRITER,
    )


def _tied_embedding(shape: torch.Size, action_ids: slice, generator: torch.Generator) -> Tensor:
    """Return an embedding that makes the logits, too: those of action tokens are the highest.

    It is small beside what the layers add, or each token would be followed by itself.
    """
    std = 1 / math.sqrt(shape[1])
    weights = torch.zeros(shape, dtype=torch.bfloat16).normal_(0, 0.1 * std, generator=generator)
    weights[action_ids].normal_(0, std, generator=generator)
    return weights


def _random_weights(
    key: str, shape: torch.Size, action_ids: slice, generator: torch.Generator
) -> Tensor:
    """Return bfloat16 weights, scaled so that activations neither vanish nor overflow.

    :param action_ids: those of action tokens.
    """
    weights = torch.zeros(shape, dtype=torch.bfloat16)
    if key == 'action_head.layer_norm1.bias':
        # All that VLA-Adapter's head begins with.
        return weights.normal_(0, 1, generator=generator)
    if key.endswith('.bias'):
        return weights
    if 'norm' in key or key.endswith(('.gamma', '.ffn.0.weight')):
        return weights.fill_(1)
    if key == 'language_model.lm_head.weight':
        # Zero except for the action tokens, so that one of these always has the highest logit.
        weights[action_ids].normal_(0, 1 / math.sqrt(shape[1]), generator=generator)
        return weights
    if key in (
        'action_head.fc2.weight',
        'code_decoder.fc.weight',
    ):  # so that actions are well within [-1, 1]
        return weights.normal_(0, 0.3 / math.sqrt(shape[1]), generator=generator)
    if key == 'code_decoder.codebooks':  # one vector of each is added
        return weights.normal_(0, 1 / math.sqrt(shape[0]), generator=generator)
    if key == 'action_queries.weight':
        return weights.normal_(0, 1, generator=generator)
    if len(shape) < 2 or 'embed' in key.rsplit('.', 2)[-2] or key.endswith(('_embed', '_token')):
        return weights.normal_(0, 1, generator=generator)
    gain = next((gain for part, gain in _GAINS.items() if part in key), 1)
    fan_in = math.prod(shape[1:])
    return weights.normal_(0, gain / math.sqrt(fan_in), generator=generator)
