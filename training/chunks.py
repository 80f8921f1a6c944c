# SPDX-License-Identifier: Apache-2.0
"""The model of models/blocks4 in training: a chunk of actions for every instruction.

The forward is the one of inference, with gradients, for a batch of every instruction with every
image. The vocabulary has only the tokens that occur; all other rows of the checkpoint's are zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.imitation import PlaceHead
from vla_ros.openvla.chunks import embed_images, run_chunk
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.language import Llama
from vla_ros.openvla.model import OpenVLAModel
from vla_ros.openvla.processor import load_processors

_EMBED = 'language_model.model.embed_tokens.weight'
_ROW_SIGMA = 0.1
_PADS = 7  # make the sequences as long as the GPU's attention likes: a multiple of 8


class Chunker(nn.Module):
    """The model, and the prompts of its instructions.

    ``statistics`` are those of its actions and states.

    :param directory: a checkpoint with a layout; its weights are not used.
    :param places: number of values that the second task predicts.
    """

    black: Tensor
    per_level: Tensor
    prompts: Tensor
    lengths: Tensor

    def __init__(self, directory: Path, instructions: Sequence[str], places: int) -> None:
        super().__init__()
        config = OpenVLAConfig.from_directory(directory)
        [self.statistics] = config.norm_stats.values()
        image_processor, prompts = load_processors(directory, config)
        black, white = (
            image_processor(np.full((224, 224, 3), level, np.uint8))[..., :1, :1]
            for level in (0, 255)
        )  # [1, 6, 1, 1]
        self.register_buffer('black', black, persistent=False)
        self.register_buffer('per_level', (white - black) / 255, persistent=False)
        self.model = OpenVLAModel(config)
        for name, parameter in self.model.named_parameters():
            if name.endswith(('_embed', '_token')):
                nn.init.normal_(parameter, std=_ROW_SIGMA)
        self._complete = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.vision_backbone.prune()
        for tower in self.model.vision_backbone.children():
            patches: Any = tower.patch_embed
            patches.proj = _Patches.like(patches.proj)
        self._shrink(
            self.model.language_model, [prompts(text)[0].tolist() for text in instructions]
        )
        self.places = PlaceHead(config.llama.hidden_size, places)
        self._seen: Tensor | None = None
        self.model.language_model.model.layers[-2].register_forward_hook(self._see)

    def _shrink(self, language: Llama, prompts: Sequence[Sequence[int]]) -> None:
        """Keep the rows of the vocabulary that occur, and number the prompts' tokens by them.

        ``prompts`` is int64 [I, T], ``lengths`` int64 [I].
        """
        config = language.config
        self._used = sorted({config.eos_token_id}.union(*prompts))
        row = {token: number for number, token in enumerate(self._used)}
        rows = nn.Embedding(len(self._used), config.hidden_size)
        nn.init.normal_(rows.weight, std=_ROW_SIGMA)
        language.model.embed_tokens = rows
        language.config = dataclasses.replace(config, eos_token_id=row[config.eos_token_id])
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        ids = torch.zeros(len(prompts), int(lengths.max()) + _PADS, dtype=torch.int64)
        for number, prompt in enumerate(prompts):
            ids[number, : len(prompt)] = torch.tensor([row[token] for token in prompt])
        self.register_buffer('prompts', ids, persistent=False)
        self.register_buffer('lengths', lengths, persistent=False)

    def _see(self, _: nn.Module, __: object, output: Tensor) -> None:
        self._seen = output  # [B I, T, hidden]

    def learning(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return dict(self.named_parameters())

    def forward(
        self, pixel_values: Tensor, states: Tensor, which: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Return the chunks and the places.

        :param pixel_values: [B, 6, 224, 224].
        :param states: [B, S], normalised.
        :param which: the instructions to answer, I of them.
        :returns: [B, I, K, D], normalised, and [B, PLACES].
        """
        ids, lengths = self.prompts[which], self.lengths[which]
        batch, count = len(states), len(ids)
        images = embed_images(self.model, pixel_values)
        chunks = run_chunk(
            self.model,
            ids.repeat(batch, 1),
            lengths.repeat(batch),
            images.repeat_interleave(count, dim=0),
            states.repeat_interleave(count, dim=0),
        )
        assert self._seen is not None
        shown, self._seen = self._seen[::count, 1 : 1 + images.shape[1]], None
        return chunks.unflatten(0, (batch, count)), self.places(shown)

    def pixel_values(self, images: Tensor) -> Tensor:
        """Return the processor's pixel values: linear in the levels.

        :param images: [B, 3, 224, 224], levels from 0 to 255, float.
        :returns: [B, 6, 224, 224].
        """
        levels = torch.cat([images, images], dim=1)
        return levels * self.per_level.to(levels.dtype) + self.black.to(levels.dtype)

    def tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all tensors of a checkpoint by the model's names.

        Those that never run have their initial values, or are zero.

        :param state: the trained parameters, current or averaged.
        """
        prefix = 'model.'
        learned = {
            name.removeprefix(prefix): value.detach().cpu()
            for name, value in state.items()
            if name.startswith(prefix)
        }
        embed = torch.zeros_like(self._complete[_EMBED])
        embed[self._used] = learned[_EMBED]
        return self._complete | learned | {_EMBED: embed}


class _Patches(nn.Conv2d):
    """The convolution of a tower's patches, as one matrix product: faster backwards."""

    @classmethod
    def like(cls, proj: nn.Conv2d) -> _Patches:
        side = proj.kernel_size[0]
        made = cls(proj.in_channels, proj.out_channels, side, side)
        made.load_state_dict(proj.state_dict())
        return made

    def forward(self, x: Tensor) -> Tensor:
        side = self.kernel_size[0]
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height // side, side, width // side, side)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3)  # [B, H/28, W/28, C 28 28]
        return nn.functional.linear(x, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
