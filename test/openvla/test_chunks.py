# SPDX-License-Identifier: Apache-2.0
"""The pass that makes chunks: gradients, pads, and what depends on what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from support.places import GOLDEN
from vla_ros.openvla.chunks import embed_images, mean_embedding, run_chunk
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.layout import Layout
from vla_ros.openvla.model import OpenVLAModel

OFT = Layout('l1', 8, 7, ('image', 'wrist_image'), 8, 'q01_q99', False, 'openvla')
LAYOUTS = {
    'l1': OFT,
    'l1 with film': replace(OFT, film=True),
    'l1 without a state': replace(OFT, state_dim=0, cameras=('image',)),
    'bridge_pro': replace(OFT, action_head='bridge_pro'),
    'bridge': replace(OFT, action_head='bridge'),
}


def build(layout: Layout) -> OpenVLAModel:
    torch.manual_seed(0)
    config = replace(OpenVLAConfig.from_directory(GOLDEN / 'openvla_tiny'), layout=layout)
    model = OpenVLAModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.vision_backbone.prune()
    return model


def chunk(model: OpenVLAModel, ids: Tensor, lengths: Tensor, pixels: Tensor) -> Tensor:
    """:param pixels: [B, cameras, 6, 224, 224]."""
    layout = model.layout
    assert layout is not None
    film = mean_embedding(model, ids, lengths) if layout.film else None
    if film is not None:
        film = film.repeat_interleave(len(layout.cameras), dim=0)
    embeds = embed_images(model, pixels.flatten(0, 1), film).unflatten(0, (len(ids), -1))
    state = torch.linspace(-1, 1, len(ids) * layout.state_dim).view(len(ids), -1)
    return run_chunk(model, ids, lengths, embeds.flatten(1, 2), state if layout.state_dim else None)


def inputs(layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Two prompts of different lengths with pads, and the images."""
    ids = torch.randint(3, 400, (2, 12))
    return ids, torch.tensor([12, 9]), torch.randn(2, len(layout.cameras), 6, 224, 224)


@pytest.mark.parametrize('name', LAYOUTS)
def test_every_weight_learns(name: str) -> None:
    layout = LAYOUTS[name]
    model = build(layout)
    actions = chunk(model, *inputs(layout))
    assert actions.shape == (2, 8, 7)
    (actions - 0.3).abs().mean().backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]


@pytest.mark.parametrize('name', LAYOUTS)
@torch.no_grad()
def test_pads_change_nothing(name: str) -> None:
    layout = LAYOUTS[name]
    model = build(layout)
    ids, lengths, pixels = inputs(layout)
    together = chunk(model, ids, lengths, pixels)
    other = ids.clone()
    other[1, 9:] = 7
    torch.testing.assert_close(chunk(model, other, lengths, pixels), together)
    for row, length in enumerate(lengths):
        state = torch.linspace(-1, 1, 2 * layout.state_dim).view(2, -1)[row : row + 1]
        own = slice(row, row + 1)
        film = mean_embedding(model, ids[own], lengths[own]) if layout.film else None
        film = film if film is None else film.expand(len(layout.cameras), -1)
        embeds = embed_images(model, pixels[row], film).flatten(0, 1)[None]
        alone = run_chunk(
            model, ids[own, :length], lengths[own], embeds, state if layout.state_dim else None
        )
        torch.testing.assert_close(alone, together[own], rtol=1e-4, atol=1e-5)
