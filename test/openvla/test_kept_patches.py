# SPDX-License-Identifier: Apache-2.0
"""Patches that changed little are kept from the last inference of the same robot, if that is asked.

What is exact about it is tested here: nothing changed, or everything that changed was recomputed.
What it costs in success is measured (docs/benchmarks/success.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from support import family_golden, minivla_golden
from support.golden import CASES, picture
from support.places import GOLDEN, ROOT
from support.shapes import record_shapes
from vla_ros.measure.agreement import tokens_of
from vla_ros.openvla import OpenVLAPolicy, kept_patches
from vla_ros.openvla.costs import robot_bytes
from vla_ros.openvla.errors import PlacementError
from vla_ros.openvla.kept_patches import (
    PatchMemory,
    PatchPass,
    check_share,
    most_changed,
    prefill_chosen,
)
from vla_ros.openvla.language import KVCache, Llama
from vla_ros.openvla.request import Request
from vla_ros.openvla.session import OpenVLASession
from vla_ros.policies import resolve
from vla_ros.policy_request import PolicyRequest
from vla_ros.types import (
    InferenceCancelled,
    Observation,
    PolicyError,
    Prediction,
    SelfCheckError,
    all_predicted,
)

MODEL = ROOT / 'models' / 'blocks'
NAME = 'openvla_tiny'  # with random weights
VALID = [key for key, (_, case) in CASES.items() if not case['flags']]
INVALID = next(key for key, (_, case) in CASES.items() if case['flags'])
ROBOTS = ('push the red block', 'pick up the blue block and put it on the plate')  # instructions


@cache
def policy(
    folder: Path = MODEL, share: float = 0.5, dtype: str = 'float32', quantization: str = 'none'
) -> OpenVLAPolicy:
    """A policy, the trained one unless another is named: its actions are valid, and do not tie."""
    return OpenVLAPolicy.from_pretrained(
        folder,
        device='cpu',
        dtype=dtype,
        quantization=quantization,
        max_batch_size=2,
        recomputed_patches=share,
    )


def golden(key: str) -> Observation:
    case = CASES[key][1]
    return Observation.of_one(picture(case), case['instruction'], 0)


def observation(robot: int = 0, roll: int = 0) -> Observation:
    image = picture(CASES[VALID[robot]][1])
    return Observation.of_one(np.roll(image, 20 * roll), ROBOTS[robot], 0)


def ask(one: OpenVLAPolicy, session: OpenVLASession, asked: Observation) -> Prediction:
    [prediction] = all_predicted(one.predict([(session, asked)]))
    return prediction


def equal_bits(first: Prediction, second: Prediction) -> bool:
    """Whether tokens and their probabilities are the same."""
    assert first.tokens is not None and second.tokens is not None
    return (
        first.tokens.ids.tolist() == second.tokens.ids.tolist()
        and first.tokens.probabilities.tobytes() == second.tokens.probabilities.tobytes()
    )


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many patches each prefill computed."""
    counts: list[int] = []
    restore = PatchPass.restore

    def counted(self: PatchPass, cache: KVCache) -> tuple[Tensor, ...]:
        chosen = restore(self, cache)
        counts.append(chosen[0].shape[1] if chosen else self._embeds.shape[1])
        return chosen

    monkeypatch.setattr(PatchPass, 'restore', counted)
    yield counts


def test_by_default_nothing_is_kept_and_every_bit_is_as_before(computed: list[int]) -> None:
    default = OpenVLAPolicy.from_pretrained(MODEL, device='cpu', dtype='float32')
    explicit = policy(share=1.0)
    assert default.info.recomputed_patches == explicit.info.recomputed_patches == 1
    assert explicit.session().spec.deterministic
    sessions = default.session(), explicit.session()
    for roll in range(3):
        exact, same = (
            ask(one, session, observation(roll=roll))
            for one, session in zip((default, explicit), sessions, strict=True)
        )
        assert equal_bits(exact, same)
    assert set(computed) == {max(computed)}  # all of them, always


@pytest.mark.parametrize('key', VALID)
def test_an_unchanged_image_gives_the_reference_s_tokens(key: str, computed: list[int]) -> None:
    name, case = CASES[key]
    one = policy(GOLDEN / name)
    session = one.session(case['unnorm_key'])
    for _ in range(3):
        tokens = ask(one, session, golden(key)).tokens
        assert tokens and tokens.ids.tolist() == case['new_tokens']
    assert computed == [256, 128, 128]
    assert tokens.drafted == tokens.accepted > 0


@pytest.mark.parametrize('quantization', ['int8', 'int4'])
def test_an_unchanged_image_gives_the_same_tokens_in_fewer_bits(
    quantization: str, computed: list[int]
) -> None:
    one = policy(quantization=quantization)
    session = one.session()
    first, *others = (ask(one, session, observation()).tokens for _ in range(3))
    for again in others:
        assert first and again and again.ids.tolist() == first.ids.tolist()
        np.testing.assert_allclose(again.probabilities, first.probabilities, atol=0.02)
    assert computed == [64, 32, 32]


@pytest.mark.parametrize('case', minivla_golden.CASES.values(), ids=list(minivla_golden.CASES))
def test_minivla_keeps_the_patches_of_all_cameras(
    case: minivla_golden.Case, computed: list[int]
) -> None:
    one = OpenVLAPolicy.from_pretrained(
        case.folder(), device='cpu', dtype='float32', recomputed_patches=0.25
    )
    pictures = case.pictures(one)
    asked = Observation(pictures, case.facts['instruction'], dict.fromkeys(pictures, 0))
    session = one.session(case.facts['unnorm_key'])
    first, again = (ask(one, session, asked) for _ in range(2))
    assert first.tokens and again.tokens
    assert first.tokens.ids.tolist() == again.tokens.ids.tolist()
    assert first.invalid or computed[1] * 4 == computed[0]


class Prefill:
    """The prefill of noise in place of images, for two robots, by the tiny language model."""

    patches, text, rows = 12, 9, 3

    def __init__(self) -> None:
        self.llama: Llama = policy()._model.language_model
        self.memories = [PatchMemory(), PatchMemory()]
        self.lengths = torch.tensor([1 + 12 + 6, 1 + 12 + 4])
        torch.manual_seed(0)
        hidden = self.llama.config.hidden_size
        self.bos, self.words = torch.randn(2, 1, hidden), torch.randn(2, self.text, hidden)
        self.embeds = torch.randn(2, self.patches, hidden)

    @torch.inference_mode()
    def __call__(self, embeds: Tensor, share: float = 0.5) -> tuple[Tensor, KVCache]:
        x = torch.cat([self.bos, embeds, self.words], dim=1)
        cache = KVCache.empty(self.llama.config, x, x.shape[1] + 1)
        requests = [
            Request((), words, patches=memory)
            for words, memory in zip('ab', self.memories, strict=True)
        ]
        one = PatchPass(share, requests, embeds)
        chosen = one.restore(cache)
        inputs = self.llama, x, self.lengths, cache, self.rows
        logits = prefill_chosen(*inputs, *chosen, 12) if chosen else Llama.prefill(*inputs)
        one.remember(cache, [True, True])
        return logits, cache

    def whole(self, embeds: Tensor) -> Tensor:
        for memory in self.memories:
            memory.forget()
        return self(embeds)[0]


def test_if_all_that_changed_is_recomputed_the_result_is_that_of_a_whole_prefill() -> None:
    """A patch attends to those before it: so the last ones may change, and no kept one is stale."""
    run = Prefill()
    before = run(run.embeds)[0]
    embeds = run.embeds.clone()
    embeds[0, -6:] += 1
    embeds[1, -2:] -= 1
    kept, _ = run(embeds)
    exact = run.whole(embeds)
    assert (exact - before).abs().max() > 1e-2
    torch.testing.assert_close(kept, exact, rtol=0, atol=1e-5)
    # What was kept is the memory of the next inference: half of these again, and no others.
    again, _ = run(embeds)
    torch.testing.assert_close(again, exact, rtol=0, atol=1e-5)


def test_the_patches_that_changed_most_are_recomputed_and_no_others() -> None:
    run = Prefill()
    _, first = run(run.embeds)
    embeds = run.embeds.clone()
    changed = [[0, 3, 4, 7, 8, 11], [1, 2, 5, 6, 9, 10]]
    for row, patches in enumerate(changed):
        embeds[row, patches] += 2.0
    embeds[0, 1] += 0.01  # less than the others
    _, second = run(embeds)
    for before, after in zip(first.layers, second.layers, strict=True):
        same = (before == after).all(dim=4).all(dim=2).all(dim=0)  # [B, S]
        for row, patches in enumerate(changed):
            stale = same[row, 1 : 1 + run.patches].nonzero().flatten().tolist()
            assert stale == [one for one in range(run.patches) if one not in patches]
            assert same[row, 0]
    # A change adds up over inferences, until the patch is one of those that changed most.
    kept = run.memories[0].of('a', embeds[0])
    assert kept is not None
    torch.testing.assert_close(kept.embeds[1], run.embeds[0, 1], rtol=0, atol=0)


def test_a_change_is_in_relation_to_the_size() -> None:
    old = torch.tensor([[[100.0, 0], [1, 0], [0, 1], [50, 0]]])
    new = torch.tensor([[[102.0, 0], [1, 1], [0, 1.5], [50, 0]]])
    assert most_changed(old, new, 2).tolist() == [[1, 2]]
    assert most_changed(torch.zeros(1, 3, 2), torch.eye(3)[None, :, :2], 2).tolist() == [[0, 1]]


def test_the_memory_of_what_is_kept_is_counted_before_anything_is_loaded() -> None:
    one = policy()
    session = one.session()
    ask(one, session, observation())
    kept = session._patches._kept  # type: ignore[union-attr]
    assert kept is not None
    counted = robot_bytes(one.config, torch.float32, keeps_patches=True)[1]
    assert counted == kept.layers.nbytes + kept.embeds.nbytes


def test_sessions_do_not_mix() -> None:
    """Each of a batch is what it is alone, where images, words and lengths differ."""
    one = policy()
    alone = []
    for robot in (0, 1):
        session = one.session()
        alone.append([ask(one, session, observation(robot, roll)) for roll in range(4)])
    sessions = one.session(), one.session()
    for roll in range(4):
        order = (1, 0) if roll == 1 else (0, 1)  # rows are not robots
        batch = [(sessions[robot], observation(robot, roll)) for robot in order]
        for robot, answer in zip(order, all_predicted(one.predict(batch)), strict=True):
            expected = alone[robot][roll]
            assert answer.tokens and expected.tokens
            assert answer.tokens.ids.tolist() == expected.tokens.ids.tolist()
            np.testing.assert_allclose(
                answer.tokens.probabilities, expected.tokens.probabilities, atol=1e-4
            )


def test_what_makes_an_inference_whole(computed: list[int]) -> None:
    one, asked = policy(), observation()
    session, other = one.session(), one.session()
    whole, part = 64, 32
    for _ in range(2):
        ask(one, session, asked)
    session.reset()
    after_reset = ask(one, session, asked)
    ask(one, session, asked)
    new_words = dataclasses.replace(asked, instruction=ROBOTS[1])
    for _ in range(2):
        ask(one, session, new_words)
    assert computed == [whole, part] * 3
    exact = policy(share=1.0)
    assert equal_bits(after_reset, ask(exact, exact.session(), asked))
    computed.clear()
    for _ in range(2):  # at first, other is new
        all_predicted(one.predict([(session, new_words), (other, asked)]))
    one.predict_action(asked.image, asked.instruction)  # without a session
    assert computed == [whole, part, whole]


def test_after_an_invalid_action_all_patches_are_computed(computed: list[int]) -> None:
    name, case = CASES[INVALID]
    one = policy(GOLDEN / name)
    session = one.session(case['unnorm_key'])
    for _ in range(2):
        assert ask(one, session, golden(INVALID)).invalid is not None
    assert computed == [256, 256]


def test_a_cancelled_inference_leaves_what_was_kept(computed: list[int]) -> None:
    class Late:
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 8

    one = policy()
    session, undisturbed = one.session(), one.session()
    for each in (session, undisturbed):
        ask(one, each, observation())
    with pytest.raises(InferenceCancelled):
        one.predict([(session, observation(roll=5))], Late())
    first, second = (ask(one, each, observation(roll=1)) for each in (session, undisturbed))
    assert equal_bits(first, second)
    assert computed[-1] == 32


def test_no_shape_is_new_after_the_warmup() -> None:
    one = OpenVLAPolicy.from_pretrained(
        GOLDEN / NAME, device='cpu', dtype='float32', max_batch_size=2, recomputed_patches=0.4
    )
    seen = record_shapes(one)
    texts: list[str] = []
    one.warmup(lambda step: texts.append(step.text))
    assert 'self-check: kept patches, black, white and noise images' in texts
    warm = set(seen)
    sessions = one.session('bridge_orig'), one.session('bridge_orig')
    for roll in range(3):
        ask(one, sessions[0], observation(roll=roll))
        one.predict([(each, observation(roll=roll)) for each in sessions])
    assert not seen - warm


def _keeps_zeros(self: PatchMemory, kept: kept_patches._Kept) -> None:
    self._kept = dataclasses.replace(kept, layers=torch.zeros_like(kept.layers))


def _keeps_the_first(self: PatchMemory, kept: kept_patches._Kept) -> None:
    self._kept = self._kept or kept


@pytest.mark.parametrize(
    ('owner', 'name', 'planted', 'words'),
    [
        (PatchMemory, 'keep', _keeps_zeros, 'two equal calls differ with and without kept patches'),
        (
            kept_patches,
            'most_changed',
            lambda old, new, count: torch.zeros(len(old), 0, dtype=torch.int64),
            'images, with kept patches change .* by 0 of',
        ),
    ],
)
def test_the_warmup_checks_the_kept_patches(
    owner: object,
    name: str,
    planted: Callable[..., object],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory that is lost, and a policy that never looks again."""
    one = OpenVLAPolicy.from_pretrained(
        GOLDEN / NAME, device='cpu', dtype='float32', recomputed_patches=0.5
    )
    monkeypatch.setattr(owner, name, planted)
    if name == 'most_changed':
        init = PatchPass.__init__

        def blind(self: PatchPass, *arguments: object) -> None:
            init(self, *arguments)
            self._count = 0

        monkeypatch.setattr(PatchPass, '__init__', blind)
    with pytest.raises(SelfCheckError, match=words):
        one.warmup()


def test_an_agreement_is_measured_along_episodes(computed: list[int]) -> None:
    one = policy()
    [key] = one.config.norm_stats
    seen = [observation(roll=roll) for roll in range(3)]
    tokens_of(one, seen, key, starts={0, 2})
    tokens_of(one, seen, key)
    assert computed == [64, 32, 64] + [64] * 3


def test_it_says_that_it_is_inexact() -> None:
    one = policy()
    assert one.info.recomputed_patches == 0.5
    assert not one.spec().deterministic


@pytest.mark.parametrize('share', [0.0, 0.05, 1.01, -1.0, float('nan')])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(PlacementError, match=r'recomputed_patches is .*expected 0\.1 to 1'):
        check_share(share, compile=False)


def test_what_does_not_go_with_it_is_refused() -> None:
    check_share(1.0, compile=True)
    with pytest.raises(PlacementError, match=r'recomputed_patches 0\.5 does not go with compile'):
        resolve(PolicyRequest(str(GOLDEN / NAME), compile=True, recomputed_patches=0.5))
    for folder in (family_golden.OFT_CASE.folder(), family_golden.PRO_CASE.folder()):
        with pytest.raises(PlacementError, match='needs a policy that decodes tokens one by one'):
            OpenVLAPolicy.from_pretrained(folder, device='cpu', recomputed_patches=0.5)
    with pytest.raises(PolicyError, match='has no device, dtype, quantization, recomputed_patches'):
        resolve(PolicyRequest('scripted', recomputed_patches=0.5))
