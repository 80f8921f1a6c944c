# SPDX-License-Identifier: Apache-2.0
"""A draft changes how soon an action comes, never the action."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from support.asking import predict
from support.drafts import DRAFTS
from support.golden import CASES
from support.places import GOLDEN
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.decoding import Generation
from vla_ros.openvla.language import KVCache, Llama
from vla_ros.openvla.request import Request

Ids = NDArray[np.int64]


@cache
def policy(name: str) -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(GOLDEN / name, device='cpu', dtype='float32')


def request(key: str, draft: Ids | None) -> tuple[OpenVLAPolicy, Request, Ids]:
    """The policy, what it is asked, and the token ids that the reference emits."""
    name, case = CASES[key]
    with Image.open(GOLDEN / case['image']) as image:
        picture = np.asarray(image.convert('RGB'))
    asked = Request((picture,), case['instruction'], case['unnorm_key'], draft)
    return policy(name), asked, np.array(case['new_tokens'])


@contextmanager
def counted_decodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many tokens each pass after the prefill took."""
    widths: list[int] = []
    decode = Llama.decode

    def counted(
        self: Llama, token_ids: torch.Tensor, positions: torch.Tensor, cache: KVCache
    ) -> torch.Tensor:
        widths.append(token_ids.shape[1])
        return decode(self, token_ids, positions, cache)

    with monkeypatch.context() as patched:
        patched.setattr(Llama, 'decode', counted)
        yield widths


def set_block_cost(one: OpenVLAPolicy, cost: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one._predictor.block_costs, 'of', lambda batch_size: cost)


@pytest.mark.parametrize('kind', DRAFTS)
@pytest.mark.parametrize('key', CASES)
def test_the_token_ids_are_the_reference_s(key: str, kind: str) -> None:
    """200 cases."""
    ids = request(key, None)[2]
    draft = DRAFTS[kind](ids)
    one, asked, _ = request(key, draft)
    (prediction,) = predict(one, [asked])
    assert prediction.tokens.ids.tolist() == ids.tolist()
    drafted = min(len(draft), len(prediction.action) - 1)
    assert prediction.tokens.drafted == drafted
    if len(ids) == len(prediction.action):  # else: what comes behind the end is no one's guess
        assert prediction.tokens.accepted == int((draft[:drafted] == ids[:drafted]).sum())


def test_there_are_200_of_them() -> None:
    assert len(DRAFTS) * len(CASES) == 200


@pytest.mark.parametrize(
    ('cost', 'kind', 'widths'),
    [
        # Where a block costs little more than a token, one is tried as long as there is a guess.
        (1.0, 'right', []),
        # (This checkpoint of random weights contradicts itself as soon as a token changes.)
        (1.0, 'first wrong', [6, 6, 6, 6, 6, 1]),
        (2.0, 'last wrong', []),
        (2.0, 'short', [1, 1, 1]),
        # Otherwise after a guess that was right, if enough others follow.
        (2.1, 'right', []),
        (2.1, 'short', [1, 1, 1]),
        (math.inf, 'first wrong', [1, 1, 1, 1, 1, 1]),
    ],
)
def test_it_saves_passes(
    cost: float, kind: str, widths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = request('openvla_tiny-vga', None)[2]
    one, asked, _ = request('openvla_tiny-vga', DRAFTS[kind](ids))
    set_block_cost(one, cost, monkeypatch)
    with counted_decodes(monkeypatch) as seen:
        (prediction,) = predict(one, [asked])
    assert seen == widths
    assert prediction.tokens.passes == len(widths)
    assert prediction.tokens.ids.tolist() == ids.tolist()


def test_without_a_draft_it_guesses_that_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    one, asked, ids = request('openvla_tiny-vga', None)
    guesses: list[Ids] = []
    init = Generation.__init__

    def noted(self: Generation, steps: Ids, first: Ids, guesses_anew: bool = True) -> None:
        guesses.append(first)
        init(self, steps, first, guesses_anew)

    monkeypatch.setattr(Generation, '__init__', noted)
    (prediction,) = predict(one, [asked])
    assert prediction.tokens.ids.tolist() == ids.tolist()
    assert (prediction.tokens.drafted, prediction.tokens.accepted) == (0, 0)
    statistics = one.config.norm_stats[asked.unnorm_key]
    tokenizer = one.config.action_tokenizer
    still = statistics.unnormalize(np.append(tokenizer.decode(guesses[0][0]), 0.0))
    bin_widths = (statistics.high - statistics.low)[:6] / (tokenizer.n_action_bins - 1)
    assert (abs(still[:6]) <= bin_widths).all()


@pytest.mark.parametrize('draft', [[[31900]], [31900] * 8, [-1], [32064]])
def test_what_is_no_draft_is_refused(draft: list[object]) -> None:
    one, asked, _ = request('openvla_tiny-vga', np.array(draft))
    with pytest.raises(ValueError, match='expected at most 7 token ids below 32064'):
        predict(one, [asked])
