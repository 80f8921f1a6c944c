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
from vla_ros.synthetic.shapes import PLACEHOLDER_NORM_STATS

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
    return write_checkpoint(
        directory,
        shape,
        PLACEHOLDER_NORM_STATS,
        lambda key, size: _random_weights(key, size, generator),
        writer=_WRITER,
    )


def _random_weights(key: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return bfloat16 weights, scaled so that activations neither vanish nor overflow."""
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
        first, last = 32000 - 256, 32000
        weights[first:last].normal_(0, 1 / math.sqrt(shape[1]), generator=generator)
        return weights
    if key == 'action_head.fc2.weight':  # so that actions are well within [-1, 1]
        return weights.normal_(0, 0.3 / math.sqrt(shape[1]), generator=generator)
    if key == 'action_queries.weight':
        return weights.normal_(0, 1, generator=generator)
    if len(shape) < 2 or 'embed' in key.rsplit('.', 2)[-2] or key.endswith(('_embed', '_token')):
        return weights.normal_(0, 1, generator=generator)
    gain = next((gain for part, gain in _GAINS.items() if part in key), 1)
    fan_in = math.prod(shape[1:])
    return weights.normal_(0, gain / math.sqrt(fan_in), generator=generator)
