"""Writes a checkpoint in the released layout with random weights: for demonstrations and tests.

Its actions mean nothing, but they are always valid tokens and depend on picture and instruction.
The same shape and seed give the same files on one version of torch.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from vla_ros.synthetic.checkpoint_writer import PLACEHOLDER_NORM_STATS, write_checkpoint

_WRITER = 'vla_checkpoint'


def write_random_checkpoint(directory: Path, shape: str = 'tiny', seed: int = 0) -> Path:
    """Write it, the index last; replaces an older one of these, nothing else.

    :param shape: one of checkpoint_writer's ``SHAPES``.
    :returns: ``directory``.
    :raises CheckpointError: if there is anything else in the folder.
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
    """bfloat16; scaled so that signals neither die nor explode on their way."""
    weights = torch.zeros(shape, dtype=torch.bfloat16)
    if key.endswith('.bias'):
        return weights
    if 'norm' in key or key.endswith('.gamma'):
        return weights.fill_(1)
    if key == 'language_model.lm_head.weight':
        # Zero but for the action tokens: one of these always has the highest logit.
        first, last = 32000 - 256, 32000
        weights[first:last].normal_(0, 1 / math.sqrt(shape[1]), generator=generator)
        return weights
    if len(shape) < 2 or 'embed' in key.rsplit('.', 2)[-2] or key.endswith(('_embed', '_token')):
        return weights.normal_(0, 1, generator=generator)
    # Sharper attention than usual, so that single patches and words matter.
    gain = 2 if 'self_attn.q_proj' in key or 'self_attn.k_proj' in key else 1
    fan_in = math.prod(shape[1:])
    return weights.normal_(0, gain / math.sqrt(fan_in), generator=generator)
