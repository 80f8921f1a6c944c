# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding of action tokens, with drafts that are verified in blocks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.openvla.language import KVCache, Llama


def decode_greedy(
    llama: Llama,
    logits: Tensor,
    lengths: Tensor,
    cache: KVCache,
    steps: NDArray[np.int64],
    drafts: NDArray[np.int64] | None = None,
    always_block: bool = False,
) -> tuple[NDArray[np.int64], Tensor]:
    """Emit the most likely token ``steps`` times, also after an end-of-sequence token.

    A draft is a guess at the tokens (speculative decoding, Leviathan et al. 2022, arXiv:2211.17192,
    in its greedy form). It goes through the layers in one pass, and is accepted up to the first
    token that the logits before it do not choose. The result is that of decoding one by one.

    :param logits: float32 [B, rows, vocab], from :meth:`Llama.prefill`.
    :param lengths: int64 [B], as in the prefill.
    :param cache: as the prefill left it; written to.
    :param steps: [B], the number of tokens of each row.
    :param drafts: int64 [B, rows - 1], as in the prefill; -1 where a row's draft has ended. Blocks
        have ``rows`` - 1 tokens too, so that there are few shapes.
    :param always_block: decode drafts in blocks whatever that costs: the warm-up runs all shapes.
    :returns: token ids [B, most steps], -1 after the last one of a row, and their logits
        float32 [B, most steps, vocab] on the CPU.
    """
    generation = Generation(steps, drafts, logits)
    block_cost = 1.0 if always_block else llama.block_cost
    while True:
        generation.accept(logits)
        if generation.is_done():
            return generation.token_ids, generation.logits
        token_ids, offsets = generation.next_tokens(block_cost)
        positions = lengths[:, None] + torch.from_numpy(offsets).to(lengths.device)
        logits = llama.decode(torch.from_numpy(token_ids).to(lengths.device), positions, cache)


class Generation:
    """The decoded tokens of a batch, and the drafts of the next ones.

    :param logits: [B, rows, vocab], for their dtype and vocabulary; the rest as in
        :func:`decode_greedy`.
    """

    def __init__(
        self, steps: NDArray[np.int64], drafts: NDArray[np.int64] | None, logits: Tensor
    ) -> None:
        batch_size, most = len(steps), int(steps.max())
        self.token_ids = np.full((batch_size, most), -1)
        self.logits = torch.zeros(batch_size, most, logits.shape[2], dtype=logits.dtype)
        self._steps = steps
        self._emitted = np.zeros(batch_size, dtype=np.int64)
        if drafts is None:
            drafts = np.full((batch_size, 0), -1)
        self._block = max(1, drafts.shape[1])  # tokens of a pass that follows a draft
        self._guesses = np.full((batch_size, most + self._block), -1)
        self._guesses[:, : drafts.shape[1]] = drafts
        # A row's last token is never an input: a guess at it saves no pass.
        self._guesses[np.arange(most + self._block) >= steps[:, None] - 1] = -1

    def is_done(self) -> bool:
        """Return whether every row has all of its tokens."""
        return bool((self._emitted == self._steps).all())

    def accept(self, logits: Tensor) -> None:
        """Append the tokens that the logits [B, T, vocab] of the last pass choose.

        A pass begins behind the last token that was accepted. It gives one token more than it had
        right guesses: the token that follows them.
        """
        chosen = logits.argmax(dim=2).cpu().numpy()  # [B, T]
        for row, steps in enumerate(self._steps):
            done = int(self._emitted[row])
            agreed = chosen[row] == self._guesses[row, done : done + chosen.shape[1]]
            count = min(int(np.argmin([*agreed, False])) + 1, len(agreed), steps - done)
            self.token_ids[row, done : done + count] = chosen[row, :count]
            self.logits[row, done : done + count] = logits[row, :count].cpu()
            self._emitted[row] += count

    def next_tokens(self, block_cost: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the input of the next pass.

        It is each row's last token, followed by a block of draft tokens if that saves time.

        :returns: token ids [B, T], and their places [B, T] after the prompt.
        """
        rows = np.arange(len(self._steps))
        width = self._block if self._follows_drafts(block_cost) else 1
        offsets = self._emitted[:, None] - 1 + np.arange(width)  # [B, T]
        token_ids = self._guesses[rows[:, None], offsets].clip(min=0)
        token_ids[:, 0] = self.token_ids[rows, self._emitted - 1]
        return token_ids, offsets

    def _follows_drafts(self, block_cost: float) -> bool:
        """Return whether a block of draft tokens saves time.

        Where a block costs more than a token, a draft must have been right about the last token,
        and must be able to save more passes than the block costs.
        """
        rows, emitted, guesses = np.arange(len(self._steps)), self._emitted, self._guesses
        left = ((guesses >= 0) & (np.arange(guesses.shape[1]) >= emitted[:, None])).sum(axis=1)
        was_right = guesses[rows, emitted - 1] == self.token_ids[rows, emitted - 1]
        trusted = was_right | (block_cost <= 1)
        return bool((trusted & (left + 1 > block_cost)).any())
