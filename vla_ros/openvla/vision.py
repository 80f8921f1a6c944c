# SPDX-License-Identifier: Apache-2.0
"""The vision backbone and the projector: images to embeddings of the language model.

The backbone is one or two timm towers; it gives the patch features of their second-to-last block.
Runs in the policy's thread. Independent of files and text.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from vla_ros.openvla.config import TowerConfig
from vla_ros.openvla.errors import CheckpointError
from vla_ros.openvla.towers import TOWERS


class VisionBackbone(nn.Module):
    """Images to patch features. Its parts have the names of the checkpoint's keys.

    :param film_dim: size of the language model's embeddings, where the instruction scales and
        shifts the features; None where it does not.
    """

    def __init__(self, towers: tuple[TowerConfig, ...], film_dim: int | None = None) -> None:
        super().__init__()
        self.has_film = film_dim is not None
        self.featurizer: VisionTransformer = _build_tower(towers[0], film_dim)
        self.fused_featurizer: VisionTransformer | None = (
            _build_tower(towers[1], film_dim) if len(towers) == 2 else None
        )

    @property
    def _towers(self) -> list[VisionTransformer]:
        return [tower for tower in (self.featurizer, self.fused_featurizer) if tower is not None]

    @property
    def embed_dim(self) -> int:
        return sum(tower.embed_dim for tower in self._towers)

    @property
    def patches(self) -> int:
        """Number of patches of an image, N."""
        return self.featurizer.patch_embed.num_patches

    def prune(self) -> None:
        """Remove what never runs: each tower's last block, final norm and pooling head."""
        for tower in self._towers:
            tower.prune_intermediate_layers([len(tower.blocks) - 2], prune_norm=True)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the transformer blocks of all towers."""
        for tower in self._towers:
            yield from tower.blocks

    def forward(self, pixel_values: Tensor, instruction: Tensor | None = None) -> Tensor:
        """Return the patch features, those of the towers side by side.

        :param pixel_values: [B, 3 * towers, H, W], three channels for each tower, in their order.
        :param instruction: [B, film_dim], what FiLM makes scales and shifts of; only with FiLM.
        :returns: [B, N, embed_dim], N = 256 patches at 224 pixels; no class or register tokens.
        """
        per_tower = pixel_values.split(3, dim=1)  # [B, 3, H, W] each
        features = [
            _features(tower, pixels)
            if instruction is None
            else _film_features(tower, pixels, instruction)
            for tower, pixels in zip(self._towers, per_tower, strict=True)
        ]  # [B, N, C] each
        return torch.cat(features, dim=2)


class FilmBlock(Block):
    """A block of a tower whose features the instruction scales and shifts after the attention.

    Perez et al. 2018, arXiv:1709.07871, as OpenVLA-OFT+ has it.
    """

    def __init__(self, film_dim: int, dim: int, **options: Any) -> None:
        super().__init__(dim, **options)
        self.scale = nn.Linear(film_dim, dim)
        self.shift = nn.Linear(film_dim, dim)

    def forward(self, x: Tensor, instruction: Tensor) -> Tensor:
        """Return the output [B, N, dim] of [B, N, dim] and the instruction [B, film_dim]."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        x = x * (1 + self.scale(instruction)[:, None]) + self.shift(instruction)[:, None]
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchConv(nn.Conv2d):
    """The convolution that makes embeddings of patches; its stride is its size.

    cuDNN rounds the factors of float32 to TF32 unless the whole process is told otherwise. So on
    CUDA it is a product of matrices in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings [B, C, h, w] of [B, 3, H, W]."""
        if x.is_cuda and x.dtype == torch.float32:
            return self.product(x)
        return super().forward(x)

    def product(self, x: Tensor) -> Tensor:
        """Return the same as a product of matrices."""
        height, width = self.kernel_size
        patches = x.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # [B, 3, h, p, w, p]
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)  # [B, h, w, 3 * p * p]
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def _exact_patches(tower: VisionTransformer) -> VisionTransformer:
    """Return the tower with its convolution of patches replaced; the weights stay."""
    old = tower.patch_embed.proj
    if old.kernel_size == old.stride and old.padding == (0, 0):
        new = PatchConv(
            old.in_channels, old.out_channels, old.kernel_size, old.stride, device='meta'
        )
        new.weight, new.bias = old.weight, old.bias
        tower.patch_embed.proj = new
    return tower


def _features(tower: VisionTransformer, pixels: Tensor) -> Tensor:
    """Return the output of the last block that is left: [B, N, C] of [B, 3, H, W]."""
    features: Tensor = tower.forward_intermediates(
        pixels, indices=1, norm=False, output_fmt='NLC', intermediates_only=True
    )[0]
    return features


def _film_features(tower: VisionTransformer, pixels: Tensor, instruction: Tensor) -> Tensor:
    """Return the same with FiLM; timm gives its blocks one input only."""
    x = tower.norm_pre(tower.patch_drop(tower._pos_embed(tower.patch_embed(pixels))))
    for block in tower.blocks:
        x = block(x, instruction)
    return x[:, tower.num_prefix_tokens :]


class Projector(nn.Module):
    """Patch features to embeddings of the language model; three layers for fused towers."""

    def __init__(self, vision_dim: int, llm_dim: int, fused: bool) -> None:
        super().__init__()
        hidden_dim = 4 * vision_dim if fused else llm_dim
        self.fc1 = nn.Linear(vision_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, llm_dim)
        self.fc3 = nn.Linear(llm_dim, llm_dim) if fused else None
        self.act = nn.GELU()  # erf, not tanh

    def forward(self, features: Tensor) -> Tensor:
        """Return the embeddings [B, N, llm_dim] of features [B, N, vision_dim]."""
        projected = self.fc2(self.act(self.fc1(features)))
        return projected if self.fc3 is None else self.fc3(self.act(projected))


def _build_tower(tower: TowerConfig, film_dim: int | None) -> VisionTransformer:
    """Build the tower.

    :raises CheckpointError: if the tower is unknown.
    """
    options: dict[str, Any] = {'num_classes': 0, 'img_size': tower.image_size}
    if film_dim is not None:
        options['block_fn'] = partial(FilmBlock, film_dim)
    if tower.act_layer is not None:
        options['act_layer'] = tower.act_layer
    if tower.timm_id in TOWERS:
        return _exact_patches(TOWERS[tower.timm_id](**options))
    if not timm.is_model(tower.timm_id):
        raise CheckpointError(
            f'config.json names the vision tower {tower.timm_id!r}, which timm '
            f'{timm.__version__} does not know',
            'install a version of timm that has it',
            value=tower.timm_id,
        )
    return _exact_patches(timm.create_model(tower.timm_id, pretrained=False, **options))
