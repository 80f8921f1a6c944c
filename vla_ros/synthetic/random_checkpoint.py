# SPDX-License-Identifier: Apache-2.0
"""Writer of checkpoints in the released layout with random weights, for demonstrations and tests.

The actions have no meaning, but are always valid and depend on images, instruction and state. The
same shape and seed give the same files on one version of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from vla_ros.synthetic.checkpoint_writer import write_checkpoint, write_description
from vla_ros.synthetic.shapes import PLACEHOLDER_NORM_STATS, config_of
from vla_ros.types import Cancel, InferenceCancelled

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
    draw = _drawing(shape, torch.Generator().manual_seed(seed))
    return write_checkpoint(directory, shape, PLACEHOLDER_NORM_STATS, draw, writer=_WRITER)


def describe_random_checkpoint(directory: Path, shape: str) -> Path:
    """Write what such a checkpoint has beside its weights, for :class:`RandomWeights`."""
    return write_description(directory, shape, writer=_WRITER)


class RandomWeights:
    """Random weights that are drawn on a device when they are loaded, and are in no file.

    They are the same in every run on one kind of device.

    :param directory: what :func:`describe_random_checkpoint` wrote.
    :param shape: one of ``shapes.SHAPES``.
    """

    is_mapped = False

    def __init__(
        self, directory: Path, shape: str, device: torch.device, cancel: Cancel | None = None
    ) -> None:
        self.directory = directory
        self._shape = shape
        self._device = device
        self._cancel = cancel
        self._shapes: dict[str, tuple[int, ...]] = {}

    def check_shapes(
        self, expected: Mapping[str, tuple[int, ...]], unused: Collection[str] = ()
    ) -> None:
        """Remember the shapes that a model needs."""
        self._shapes = dict(expected)

    def tensors(self, names: set[str]) -> Iterator[tuple[str, Tensor]]:
        """Draw the named tensors.

        :raises InferenceCancelled: soon after ``cancel`` is set.
        """
        draw = _drawing(self._shape, torch.Generator(self._device).manual_seed(0))
        for name, size in self._shapes.items():
            if self._cancel is not None and self._cancel.is_set():
                raise InferenceCancelled
            if name in names:
                yield name, draw(name, torch.Size(size))


def _drawing(shape: str, generator: torch.Generator) -> Callable[[str, torch.Size], Tensor]:
    """Return a function that draws a tensor of a shape, by its name and its size."""
    config = config_of(shape, PLACEHOLDER_NORM_STATS)
    last = config['text_config']['vocab_size'] - config['pad_to_multiple_of']
    action_ids = slice(last - config['n_action_bins'], last)
    is_tied = shape.startswith('minivla')  # and its logits are used

    def draw(key: str, size: torch.Size) -> Tensor:
        if is_tied and key == 'language_model.model.embed_tokens.weight':
            return _tied_embedding(size, action_ids, generator)
        return _random_weights(key, size, action_ids, generator)

    return draw


def _tied_embedding(shape: torch.Size, action_ids: slice, generator: torch.Generator) -> Tensor:
    """Return an embedding that makes the logits, too: those of action tokens are the highest.

    It is small beside what the layers add, or each token would be followed by itself.
    """
    std = 1 / math.sqrt(shape[1])
    weights = _zeros(shape, generator).normal_(0, 0.1 * std, generator=generator)
    weights[action_ids].normal_(0, std, generator=generator)
    return weights


def _random_weights(
    key: str, shape: torch.Size, action_ids: slice, generator: torch.Generator
) -> Tensor:
    """Return weights, scaled so that activations neither vanish nor overflow.

    :param action_ids: those of action tokens.
    """
    weights = _zeros(shape, generator)
    if key == 'action_head.layer_norm1.bias':
        # All that VLA-Adapter's head begins with.
        return weights.normal_(0, 1, generator=generator)
    if key.endswith('.bias'):
        return weights
    if 'norm' in key or key.endswith(('.gamma', '.scale_factor', '.ffn.0.weight')):
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


def _zeros(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return zeros in bfloat16; on MPS, which may not draw that, in float32."""
    dtype = torch.float32 if generator.device.type == 'mps' else torch.bfloat16
    return torch.zeros(shape, dtype=dtype, device=generator.device)
