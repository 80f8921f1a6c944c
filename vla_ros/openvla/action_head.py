# SPDX-License-Identifier: Apache-2.0
"""Heads that make a chunk of actions of the language model's output, without tokens.

Their parameters have the released names, less ``module.`` and ``model.``. Runs in the policy's
thread. Independent of prompts, images and units.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vla_ros.openvla.quantization import project

_L1_BLOCKS = 2
BRIDGE_HEADS = 8
_BRIDGE_ROPE_BASE = 10000.0


class StateProjector(nn.Module):
    """The robot's state as one embedding of the language model."""

    def __init__(self, state_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(state_dim, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, state: Tensor) -> Tensor:
        """Return [B, 1, hidden] of normalised states [B, S]."""
        projected: Tensor = self.fc2(F.gelu(self.fc1(state)))  # erf, not tanh
        return projected[:, None]


class L1Head(nn.Module):
    """OpenVLA-OFT's head: each row of the chunk from the D positions that stand for it."""

    def __init__(self, hidden_size: int, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.layer_norm1 = nn.LayerNorm(action_dim * hidden_size)
        self.fc1 = nn.Linear(action_dim * hidden_size, hidden_size)
        self.mlp_resnet_blocks = nn.ModuleList(_L1Block(hidden_size) for _ in range(_L1_BLOCKS))
        self.layer_norm2 = nn.LayerNorm(hidden_size)
        self.fc2 = nn.Linear(hidden_size, action_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return normalised actions [B, K, D] of the positions' output [B, K * D, hidden]."""
        rows = hidden.unflatten(1, (-1, self.action_dim)).flatten(2)  # [B, K, D * hidden]
        x = F.relu(self.fc1(self.layer_norm1(rows)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        actions: Tensor = self.fc2(self.layer_norm2(x))
        return actions


class _L1Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, size), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(x)


class BridgeHead(nn.Module):
    """VLA-Adapter's head: rows of a chunk that attend to every layer of the language model.

    :param horizon: K, rows of a chunk.
    :param layers: of the language model; the head has as many blocks.
    :param pro: whether the three groups of keys and values have weights and positions of their
        own. Without them nothing tells the rows apart, and all are equal.
    """

    def __init__(
        self, hidden_size: int, action_dim: int, horizon: int, layers: int, pro: bool
    ) -> None:
        super().__init__()
        self.horizon = horizon
        self.pro = pro
        self.layer_norm1 = nn.LayerNorm(action_dim * hidden_size)
        self.fc1 = nn.Linear(action_dim * hidden_size, hidden_size)
        self.mlp_resnet_blocks = nn.ModuleList(
            _BridgeBlock(hidden_size, pro) for _ in range(layers)
        )
        self.layer_norm2 = nn.LayerNorm(hidden_size)
        self.fc2 = nn.Linear(hidden_size, action_dim)

    def forward(self, task: Sequence[Tensor], adapter: Sequence[Tensor]) -> Tensor:
        """Return normalised actions [B, K, D].

        :param task: for each layer [B, N, hidden], its output at the images' positions.
        :param adapter: for each layer [B, A, hidden], its output at the action queries, and the
            robot's state.
        """
        rotary = None
        if self.pro:
            size = max(self.horizon, task[0].shape[1], adapter[0].shape[1])
            head_dim = self.fc1.out_features // BRIDGE_HEADS
            rotary = bridge_rotary_tables(size, head_dim, task[0].device).to(task[0].dtype)
        # What begins as zeros is the norm's bias: the same learned row for every batch.
        start = task[0].new_zeros(len(task[0]), self.horizon, self.fc1.in_features)
        x = F.relu(self.fc1(self.layer_norm1(start)))
        for block, seen, asked in zip(self.mlp_resnet_blocks, task, adapter, strict=True):
            x = block(x, seen, asked, rotary)
        actions: Tensor = self.fc2(self.layer_norm2(x))
        return actions


class _BridgeBlock(nn.Module):
    """Attention to the chunk's rows, the queries and the images, and a feed-forward part."""

    def __init__(self, size: int, pro: bool) -> None:
        super().__init__()
        self._groups = ('self', 'adapter', 'task') if pro else ('proj',) * 3
        self.gating_factor = nn.Parameter(torch.zeros(1))
        self.ffn = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, size), nn.ReLU())
        self.q_proj = nn.Linear(size, size)
        self.o_proj = nn.Linear(size, size)
        for group in dict.fromkeys(self._groups):
            self.add_module(f'k_{group}', nn.Linear(size, size))
            self.add_module(f'v_{group}', nn.Linear(size, size))

    def forward(self, x: Tensor, task: Tensor, adapter: Tensor, rotary: Tensor | None) -> Tensor:
        """Return the output, of the shape [B, K, hidden] of ``x``; see :class:`BridgeHead`.

        :param rotary: see :func:`bridge_rotary_tables`; each group is counted from 0.
        """
        query = _heads(self.q_proj(x), rotary)
        keys, values = [], []
        for group, rows in zip(self._groups, (x, adapter, task), strict=True):
            layers = (self.get_submodule(f'{part}_{group}') for part in 'kv')
            key, value = project(rows, *layers)
            keys.append(_heads(key, rotary))
            values.append(_heads(value))
        # The gate weighs the scores of the images, before the softmax.
        keys[-1] = keys[-1] * self.gating_factor.tanh()
        attended = F.scaled_dot_product_attention(query, torch.cat(keys, 2), torch.cat(values, 2))
        # No residual around the feed-forward part.
        output: Tensor = self.ffn(self.o_proj(attended.transpose(1, 2).flatten(2)) + x)
        return output


def bridge_rotary_tables(size: int, head_dim: int, device: torch.device) -> Tensor:
    """Return the cosines and sines of the positions 0 to ``size`` - 1.

    They are computed in bfloat16, whatever the model's dtype is: so they were when VLA-Adapter was
    trained, and other numbers would be another network. Positions above 256 are rounded to even.

    :returns: bfloat16 [2, size, head_dim]; the second half of a row repeats the first.
    """
    exponents = torch.arange(0, head_dim, 2, device=device).float() / head_dim
    frequencies = (1.0 / _BRIDGE_ROPE_BASE**exponents).bfloat16()  # [head_dim / 2]
    positions = torch.arange(size, device=device).bfloat16()
    angles = (positions[:, None] * frequencies).repeat(1, 2)
    return torch.stack([angles.cos(), angles.sin()])


def rotate_neighbours(x: Tensor, tables: Tensor) -> Tensor:
    """Rotate each pair of neighbouring values of [B, H, T, E], as VLA-Adapter was trained.

    The tables are laid out for pairs of halves: the two values of a pair have different angles, so
    this is no rotation, but it is what the network learned with.
    """
    cosines, sines = tables[:, : x.shape[2]]
    turned = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    return x * cosines + turned * sines


def _heads(x: Tensor, rotary: Tensor | None = None) -> Tensor:
    """Return [B, T, hidden] as [B, H, T, E], rotated by the positions of its rows."""
    heads = x.unflatten(2, (BRIDGE_HEADS, -1)).transpose(1, 2)
    return heads if rotary is None else rotate_neighbours(heads, rotary)
