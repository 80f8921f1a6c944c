# SPDX-License-Identifier: Apache-2.0
"""Action tokens to normalised values.

The last ``n_action_bins`` ids of the text vocabulary are action tokens: 256 edges over [-1, 1]
bound 255 bins, and the values are the bins' centres. Where tokens are codes, each id is one code.
Runs in the policy's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ActionTokenizer:
    """The table of action tokens.

    :param vocab_size: the id behind the last action token: the size of the text vocabulary without
        padding rows (32000 for Llama 2).
    :param n_action_bins: number of its last ids that are action tokens (256).
    """

    vocab_size: int = 32000
    n_action_bins: int = 256

    @property
    def first_id(self) -> int:
        """The lowest action token, which means the highest value."""
        return self.vocab_size - self.n_action_bins

    @cached_property
    def bin_edges(self) -> NDArray[np.float64]:
        """The edges of the bins, float64 [n_action_bins], rising."""
        return np.linspace(-1, 1, self.n_action_bins)

    @cached_property
    def bin_centers(self) -> NDArray[np.float64]:
        """The values, float64 [n_action_bins - 1], rising."""
        return (self.bin_edges[:-1] + self.bin_edges[1:]) / 2.0

    def is_action(self, token_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which are action tokens: bool, of the shape of ``token_ids``."""
        return (token_ids >= self.first_id) & (token_ids < self.vocab_size)

    def codes(self, token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of codes, from 0, int64 of the shape of ``token_ids``.

        An id outside the action tokens gives the nearest code, as in :meth:`decode`.
        """
        return np.clip(self.vocab_size - 1 - token_ids, 0, self.n_action_bins - 1)

    def decode(self, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return normalised values, float64 of the shape of ``token_ids``.

        As in the reference, an id outside the action tokens gives the value of the nearest one; the
        caller must check with :meth:`is_action`.
        """
        bins = np.clip(self.vocab_size - token_ids - 1, 0, self.n_action_bins - 2)
        return self.bin_centers[bins]

    def encode(self, normalized: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the token ids of normalised values in [-1, 1]; the inverse of :meth:`decode`.

        As in OpenVLA's training, except for the highest value: there it has its own token, which
        decodes to the same value as its neighbour.

        :param normalized: float64 of any shape.
        """
        bins = np.digitize(normalized, self.bin_edges).clip(max=len(self.bin_centers))
        return self.vocab_size - bins
