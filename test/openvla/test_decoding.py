# SPDX-License-Identifier: Apache-2.0
"""Guesses change how many passes there are, never the tokens: with a model that is a table."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_ros.openvla.decoding import Generation

Ids = NDArray[np.int64]
ACTION = 7


class Table:
    """A model that chooses a token by all tokens before it; it keeps them like a kv-cache.

    :param variety: number of different tokens: with few of them many guesses are right.
    """

    def __init__(self, seed: int, variety: int, batch_size: int) -> None:
        self._seed, self._variety = seed, variety
        self.cache: list[dict[int, int]] = [{} for _ in range(batch_size)]

    def chosen(self, row: int, before: list[int]) -> int:
        digest = hashlib.sha256(repr((self._seed, row, before)).encode()).digest()
        return digest[0] % self._variety

    def run(self, token_ids: Ids, offsets: Ids) -> Ids:
        """What is chosen after each input; an input replaces what was at its place."""
        for row, (tokens, places) in enumerate(zip(token_ids, offsets, strict=True)):
            self.cache[row].update(zip(places.tolist(), tokens.tolist(), strict=True))
        return np.array(
            [
                [self.chosen(row, [self.cache[row][i] for i in range(last + 1)]) for last in places]
                for row, places in enumerate(offsets.tolist())
            ]
        )


def one_by_one(table: Table, row: int, steps: int) -> list[int]:
    tokens: list[int] = []
    for _ in range(steps):
        tokens.append(table.chosen(row, tokens))
    return tokens


def some_guesses(random: np.random.Generator, wanted: list[list[int]], variety: int) -> Ids:
    """None, all, or the first few; half right and half of any kind."""
    guesses = np.full((len(wanted), ACTION - 1), -1)
    for row, tokens in enumerate(wanted):
        count = min(random.integers(0, ACTION), len(tokens))
        anything = random.integers(0, variety, count)
        right = random.random(count) < random.choice([0.0, 0.5, 1.0])
        guesses[row, :count] = np.where(right, tokens[:count], anything)
    return guesses


@pytest.mark.parametrize('anew', [True, False])
@pytest.mark.parametrize('block_cost', [1.0, 1.1, 2.0, 4.0, math.inf])
def test_the_tokens_are_those_of_decoding_one_by_one(block_cost: float, anew: bool) -> None:
    """150 batches each: one to four rows of one to seven tokens, which are compared one by one."""
    random, saved = np.random.default_rng(5), 0
    for seed in range(150):
        batch_size, variety = int(random.integers(1, 5)), int(random.integers(2, 9))
        steps = random.integers(1, ACTION + 1, batch_size)
        table = Table(seed, variety, batch_size)
        wanted = [one_by_one(table, row, int(count)) for row, count in enumerate(steps)]
        guesses = some_guesses(random, wanted, variety)
        generation = Generation(steps, guesses, anew)
        # The prefill: the prompt's last place, and the guesses behind it; pads after their end.
        inputs = np.concatenate([np.zeros((batch_size, 1), int), guesses.clip(min=0)], axis=1)
        shown = [table.run(inputs[:, 1:], np.tile(np.arange(ACTION - 1), (batch_size, 1)))]
        first = np.array([[table.chosen(row, [])] for row in range(batch_size)])
        shown[0] = np.concatenate([first, shown[0]], axis=1)
        generation.accept(shown[0])
        while not generation.is_done():
            token_ids, offsets = generation.next_tokens(block_cost)
            assert token_ids.shape[1] in (1, ACTION - 1)
            shown.append(table.run(token_ids, offsets))
            generation.accept(shown[-1])
        assert len(shown) <= steps.max()
        saved += steps.max() - len(shown)
        everything = np.concatenate(shown, axis=1)
        for row, tokens in enumerate(wanted):
            assert generation.token_ids[row].tolist() == tokens + [-1] * (
                int(steps.max()) - len(tokens)
            )
            # Their logits are found where they were chosen.
            found = everything[row, generation.sources[row, : len(tokens)]]
            assert found.tolist() == tokens
    assert saved > 50  # a guess of the first token only counts, too: the prefill verifies it


def test_a_wrong_guess_is_replaced_by_what_the_pass_showed() -> None:
    generation = Generation(np.array([7]), np.full((1, 6), 5))
    generation.accept(np.array([[8, 5, 7, 7, 6, 6, 6]]))
    token_ids, offsets = generation.next_tokens(block_cost=2.0)
    assert token_ids.tolist() == [[8, 5, 7, 7, 6, 6]]
    assert offsets.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_after_a_wrong_guess_a_dear_block_waits() -> None:
    generation = Generation(np.array([7]), np.full((1, 6), 5))
    generation.accept(np.array([[8, 5, 7, 7, 6, 6, 6]]))
    assert generation.next_tokens(block_cost=2.1)[0].tolist() == [[8]]
    generation.accept(np.array([[5]]))
    assert generation.next_tokens(block_cost=2.1)[0].tolist() == [[5, 7, 7, 6, 6, 0]]
