# SPDX-License-Identifier: Apache-2.0
"""Parts of a policy as trainings save them, in the sizes of the tiny checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor

HIDDEN, ROWS, VALUES, STATE = 64, 8, 7, 8
HEAD = 'action_head--1_checkpoint.pt'
PROJECTOR = 'proprio_projector--1_checkpoint.pt'


def noise(*shapes: tuple[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator).to(torch.bfloat16) for name, shape in shapes
    }


def linear(name: str, inputs: int, outputs: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f'{name}.weight', (outputs, inputs)), (f'{name}.bias', (outputs,))]


def norm(name: str, size: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f'{name}.weight', (size,)), (f'{name}.bias', (size,))]


def l1_head() -> dict[str, Tensor]:
    blocks = [
        shape
        for number in (0, 1)
        for shape in (
            *norm(f'module.model.mlp_resnet_blocks.{number}.ffn.0', HIDDEN),
            *linear(f'module.model.mlp_resnet_blocks.{number}.ffn.1', HIDDEN, HIDDEN),
        )
    ]
    return noise(
        *norm('module.model.layer_norm1', VALUES * HIDDEN),
        *linear('module.model.fc1', VALUES * HIDDEN, HIDDEN),
        *blocks,
        *norm('module.model.layer_norm2', HIDDEN),
        *linear('module.model.fc2', HIDDEN, VALUES),
    )


def projector() -> dict[str, Tensor]:
    return noise(*linear('module.fc1', STATE, HIDDEN), *linear('module.fc2', HIDDEN, HIDDEN))
