# SPDX-License-Identifier: Apache-2.0
"""The network that makes a chunk of actions of decoded codes, as MiniVLA with VQ has it.

Runs on the CPU in float32, whatever the model's dtype is: it is small, and so it was trained. Runs
in the policy's thread. Independent of tokens and units.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vla_ros.openvla.layout import Codes


class CodeDecoder(nn.Module):
    """Vectors of codes, whose sum is decoded to a chunk; other parameters have released names.

    :param size: codes of a group.
    :param horizon: K, rows of a chunk.
    :param action_dim: D, values of an action.
    """

    def __init__(self, codes: Codes, size: int, horizon: int, action_dim: int) -> None:
        super().__init__()
        self.shape = horizon, action_dim
        self._scale = codes.scale
        hidden = codes.hidden_dim
        self.codebooks = nn.Parameter(torch.zeros(codes.groups, size, codes.latent_dim))
        self.encoder = nn.Sequential(
            nn.Linear(codes.latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.fc = nn.Linear(hidden, horizon * action_dim)

    def forward(self, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the normalised chunk, float32 [K, D].

        :param codes: int64 [groups], of each group the number of its code.
        """
        groups = torch.arange(len(codes))
        latent = self.codebooks[groups, torch.from_numpy(codes)].sum(dim=0)  # [latent_dim]
        chunk: NDArray[np.float32] = (self.fc(self.encoder(latent)) * self._scale).numpy()
        return chunk.reshape(self.shape)
