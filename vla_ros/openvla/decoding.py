# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding of action tokens, with guesses that are verified in blocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.openvla.placement import to_device

# Passes of one token that a block saves after a wrong guess, as measured (docs/benchmarks/cpu.md).
_GAIN_AFTER_WRONG = 1.0


class Choices(NamedTuple):
    """What a pass chose after each of its places.

    :param token_ids: int64 [B, T], the most likely tokens of the whole vocabulary.
    :param logits: float32 [B, T, bins], of the action tokens.
    """

    token_ids: Tensor
    logits: Tensor

    @classmethod
    def of(cls, logits: Tensor, bins: slice) -> Choices:
        """Return the choices of logits.

        :param logits: float32 [B, T, vocab].
        :param bins: the ids of the action tokens.
        """
        return cls(logits.argmax(dim=2), logits[:, :, bins])


# Of int64 [2, B, T] on the device: tokens, and their places behind the prompts.
Step = Callable[[Tensor], Choices]


@dataclass(frozen=True)
class Decoded:
    """The tokens of a batch.

    :param token_ids: int64 [B, most steps], -1 after the last one of a row.
    :param logits: float32 [B, most steps, bins] on the CPU, of the action tokens; of any value
        after the last token of a row.
    :param passes: of each pass after the prefill: its number of tokens of a row, and its
        duration [s].
    """

    token_ids: NDArray[np.int64]
    logits: Tensor
    passes: list[tuple[int, float]]


def decode_greedy(
    first: Choices, step: Step, generation: Generation, block_cost: float = 1.0
) -> Decoded:
    """Emit the most likely token again and again, also after an end-of-sequence token.

    Guesses at the tokens go through the layers in one pass (speculative decoding, Leviathan et al.
    2022, arXiv:2211.17192, in its greedy form). They are accepted up to the first token that the
    logits before it do not choose. The result is that of decoding one by one.

    The only wait of a pass is for the chosen ids.

    :param first: from the prefill, of the prompt's last place and of its guesses.
    :param step: one pass.
    :param generation: new, with the guesses of the prefill.
    :param block_cost: cost of a pass of a block, in passes of one token. It affects the duration.
    """
    device = first.logits.device
    kept, passes = [first.logits], []
    generation.accept(first.token_ids.cpu().numpy())
    while not generation.is_done():
        started = time.monotonic()
        token_ids, offsets = generation.next_tokens(block_cost)
        chosen = step(to_device(torch.from_numpy(np.stack([token_ids, offsets])), device))
        kept.append(chosen.logits)
        generation.accept(chosen.token_ids.cpu().numpy())
        passes.append((token_ids.shape[1], time.monotonic() - started))
    return Decoded(generation.token_ids, _gathered(kept, generation.sources), passes)


def _gathered(kept: list[Tensor], sources: NDArray[np.int64]) -> Tensor:
    """Return the logits of the emitted tokens on the CPU, [B, steps, bins], in one copy.

    :param kept: of each pass [B, T, bins].
    :param sources: int64 [B, steps], the places among those of all passes.
    """
    logits = torch.cat(kept, dim=1)
    places = to_device(torch.from_numpy(sources), logits.device)[:, :, None]
    return logits.gather(1, places.expand(-1, -1, logits.shape[2])).cpu()


class Generation:
    """The decoded tokens of a batch, and the guesses at the next ones.

    A pass shows what the model chooses at each place of its block, also behind a wrong guess. That
    is the next guess at these places (Jacobi iteration, Song et al. 2020, arXiv:2002.03629).

    :param steps: int64 [B], the number of tokens of each row.
    :param guesses: int64 [B, N], at the first tokens; -1 where a row has none. A block has N
        tokens, too, so that there are few shapes.
    :param guesses_anew: False: a guess stays the first one, so that the passes are the same for
        every checkpoint. For the warm-up, which runs all shapes.

    ``token_ids`` is int64 [B, most steps], -1 where no token was emitted yet; ``sources``, of the
    same shape, says where its logits are among those of all passes.
    """

    def __init__(
        self,
        steps: NDArray[np.int64],
        guesses: NDArray[np.int64] | None = None,
        guesses_anew: bool = True,
    ) -> None:
        batch_size, most = len(steps), int(steps.max())
        self.token_ids = np.full((batch_size, most), -1)
        self.sources = np.zeros((batch_size, most), dtype=np.int64)
        self._seen = 0  # places of all passes so far
        self._steps = steps
        self._emitted = np.zeros(batch_size, dtype=np.int64)
        self._guesses_anew = guesses_anew
        if guesses is None:
            guesses = np.full((batch_size, 0), -1)
        self._block = max(1, guesses.shape[1])
        self._guesses = np.full((batch_size, most + self._block), -1)
        self._guesses[:, : guesses.shape[1]] = guesses
        # A row's last token is never an input: a guess at it saves no pass.
        self._guesses[np.arange(most + self._block) >= steps[:, None] - 1] = -1

    def is_done(self) -> bool:
        """Return whether every row has all of its tokens."""
        return bool((self._emitted == self._steps).all())

    def accept(self, chosen: NDArray[np.int64]) -> None:
        """Append the tokens that a pass chose.

        A pass begins behind the last token that was accepted. It gives one token more than it had
        right guesses: the token that follows them.

        :param chosen: int64 [B, T].
        """
        width = chosen.shape[1]
        for row, steps in enumerate(self._steps):
            done = int(self._emitted[row])
            guesses = self._guesses[row, done : done + width]
            agreed = chosen[row] == guesses
            count = min(int(np.argmin([*agreed, False])) + 1, width, steps - done)
            self.token_ids[row, done : done + count] = chosen[row, :count]
            self.sources[row, done : done + count] = self._seen + np.arange(count)
            self._emitted[row] += count
            if self._guesses_anew:
                guesses[count:] = np.where(guesses < 0, -1, chosen[row])[count:]
        self._seen += width

    def next_tokens(self, block_cost: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the input of the next pass.

        It is each row's last token, followed by a block of guesses if that saves time.

        :returns: token ids [B, T], and their places [B, T] after the prompt.
        """
        rows = np.arange(len(self._steps))
        width = self._block if self._follows_guesses(block_cost) else 1
        offsets = self._emitted[:, None] - 1 + np.arange(width)  # [B, T]
        token_ids = self._guesses[rows[:, None], offsets].clip(min=0)
        token_ids[:, 0] = self.token_ids[rows, self._emitted - 1]
        return token_ids, offsets

    def _follows_guesses(self, block_cost: float) -> bool:
        """Return whether a block of guesses saves time.

        It must be able to save more passes than it costs. After a guess that was wrong it saves few
        of them, so it must cost little more than a token.
        """
        rows, emitted, guesses = np.arange(len(self._steps)), self._emitted, self._guesses
        left = ((guesses >= 0) & (np.arange(guesses.shape[1]) >= emitted[:, None])).sum(axis=1)
        was_right = guesses[rows, emitted - 1] == self.token_ids[rows, emitted - 1]
        trusted = was_right | (block_cost <= 1 + _GAIN_AFTER_WRONG)
        return bool((trusted & (left + 1 > block_cost)).any())
