# SPDX-License-Identifier: Apache-2.0
"""After the warm-up no shape is new, nothing is compiled, and the policy is checked."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._dynamo.utils import counters

from support.golden import CASES, picture
from support.places import GOLDEN
from support.shapes import record_shapes
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.model import OpenVLAModel
from vla_ros.openvla.self_check import check, plan_trials
from vla_ros.types import (
    InferenceCancelled,
    InstructionError,
    Invalid,
    InvalidReason,
    PolicyError,
    Prediction,
    Progress,
    SelfCheckError,
)

SHARD = 'model-00001-of-00001.safetensors'
WORDS = (
    *('pick', 'put', 'the', 'red', 'cup', 'into', 'drawer', 'x-y', '42', '...'),
    *('Łódź', '漢字', 'naïve', '🤖', '<b>', '{a}', '%s'),
)
NOISE = np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def load(folder: Path, dtype: str = 'float32', compile: bool = False) -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(folder, device='cpu', dtype=dtype, compile=compile)


def some_key(policy: OpenVLAPolicy) -> str:
    return next(iter(policy.config.norm_stats))


def instructions(policy: OpenVLAPolicy, count: int) -> Iterator[str]:
    """Random ones that are permitted, of every length there is."""
    chance = random.Random(0)
    lengths = set()
    while count:
        words = chance.choices(WORDS, k=int(1.2 ** chance.randint(0, 24)))
        instruction = ' ' * chance.randint(0, 2) + ' '.join(words)
        try:
            tokens = policy._prompt_tokenizer(instruction).shape[1]
        except InstructionError:
            continue
        lengths.add(policy._prompt_tokenizer.padded_length(tokens))
        count -= 1
        yield instruction
    assert lengths == set(policy._prompt_tokenizer.prompt_lengths)


def pictures(count: int) -> list[NDArray[np.uint8]]:
    sizes = np.random.default_rng(1).integers(1, 700, (count, 2))
    return [np.resize(NOISE, (height, width, 3)) for height, width in sizes]


def some_draft(number: int) -> NDArray[np.int64] | None:
    """None, or up to seven tokens."""
    random = np.random.default_rng(number)
    length = random.integers(-1, 8)
    return None if length < 0 else random.integers(31744, 32000, length)


@pytest.mark.parametrize('name', ['openvla_tiny', 'openvla_v01_tiny'])
def test_no_shape_is_new_after_the_warmup(name: str) -> None:
    policy = load(GOLDEN / name)
    seen = record_shapes(policy)
    policy.warmup()
    warm = set(seen)
    prefills = {shapes for shapes in warm if shapes[0] == 'language_model.model.layers.0'}
    # Of each prompt length: the prefill, one token, and a block of tokens with the draft.
    assert len(prefills) == 3 * len(policy._prompt_tokenizer.prompt_lengths)
    some_pictures = pictures(20)
    for number, instruction in enumerate(instructions(policy, 40)):
        picture = some_pictures[number % 20]
        policy.predict_action(picture, instruction, 'bridge_orig', draft=some_draft(number))
    assert not seen - warm


def test_lengths_that_no_prompt_has_are_not_visited() -> None:
    assert load(GOLDEN / 'openvla_tiny')._prompt_tokenizer.prompt_lengths == (24, 32, 64, 128)
    assert load(GOLDEN / 'openvla_v01_tiny')._prompt_tokenizer.prompt_lengths == (64, 128)


@pytest.mark.parametrize('name', ['openvla_tiny', 'openvla_v01_tiny'])
def test_compiled_it_gives_the_same_and_compiles_nothing_later(name: str) -> None:
    policy, eager = load(GOLDEN / name, compile=True), load(GOLDEN / name)
    assert policy.info.compiled and not eager.info.compiled
    torch.compiler.reset()
    counters.clear()
    policy.warmup()
    graphs = counters['stats']['unique_graphs']
    lengths = len(policy._prompt_tokenizer.prompt_lengths)
    # However many layers there are; the prefill's last one keeps a few rows only.
    assert graphs == len(policy.config.towers) + 4 * lengths
    some_pictures = pictures(20)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for number, instruction in enumerate(instructions(policy, 40)):
            image = some_pictures[number % 20]
            policy.predict_action(image, instruction, 'bridge_orig', draft=some_draft(number))
        for case in (case for key, case in CASES.values() if key == name):
            arguments = picture(case), case['instruction'], case['unnorm_key']
            compiled, expected = (
                one.predict_action(*arguments, return_logits=True) for one in (policy, eager)
            )
            assert compiled.tokens.ids.tolist() == expected.tokens.ids.tolist()
            np.testing.assert_allclose(
                compiled.tokens.logits, expected.tokens.logits, rtol=0, atol=1e-4
            )
    assert counters['stats']['unique_graphs'] == graphs


def test_compiled_in_bfloat16_it_passes_the_self_checks_and_can_be_cancelled() -> None:
    policy = load(GOLDEN / 'openvla_v01_tiny', 'bfloat16', compile=True)
    policy.warmup()

    class AfterTen:
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 10

    cancel = AfterTen()
    with pytest.raises(InferenceCancelled):
        policy.predict_action(NOISE, 'go', 'bridge_orig', cancel)
    assert cancel.asked == 11


def test_without_a_compiler_it_says_so(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path))
    policy = load(tiny_checkpoint, compile=True)
    told = r'torch.compile does not work on cpu.*/nowhere/g\+\+'
    # Not by monkeypatch, which would leave the setting deleted.
    with (
        torch._inductor.config.patch({'cpp.cxx': ('/nowhere/g++',)}),
        pytest.raises(PolicyError, match=told),
    ):
        policy.warmup()


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_sound_checkpoints_pass_the_self_checks(dtype: str, tiny_checkpoint: Path) -> None:
    for folder in (tiny_checkpoint, GOLDEN / 'openvla_tiny', GOLDEN / 'openvla_v01_tiny'):
        told: list[Progress] = []
        times = load(folder, dtype).warmup(told.append)
        assert times.total_s > times.first_inference_s > 0
        assert times.total_s > times.steady_inference_s > 0
        assert [progress.done for progress in told] == list(range(len(told)))
        assert {progress.total for progress in told} == {len(told)}
        assert 'first inference, prompts up to 128 tokens' in [p.text for p in told]
        assert 'self-check: black, white and noise images' in [p.text for p in told]


def damaged(checkpoint: Path, folder: Path, name: str, damage: Callable[[Tensor], object]) -> Path:
    """A copy with one tensor changed in place."""
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / SHARD)
    damage(tensors[name])
    save_file(tensors, folder / SHARD)
    return folder


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('projector.fc1.weight', 'self-check of the image failed: black and white .* by 0 of'),
        ('projector.fc3.weight', 'self-check of the image failed: black and white .* by 0 of'),
        (
            'language_model.model.embed_tokens.weight',
            'self-check of the instruction failed: .* by 0 of',
        ),
        ('language_model.lm_head.weight', 'self-check of a choice failed'),
    ],
)
def test_zeroed_weights_are_refused(
    name: str, words: str, dtype: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = damaged(tiny_checkpoint, tmp_path / 'zeroed', name, lambda tensor: tensor.zero_())
    with pytest.raises(SelfCheckError, match=words) as caught:
        load(folder, dtype).warmup()
    assert '\n' not in str(caught.value)


def test_weights_too_large_for_the_dtype_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    name = 'language_model.lm_head.weight'
    folder = damaged(
        tiny_checkpoint, tmp_path / 'large', name, lambda tensor: tensor[31800, 3].fill_(1e5)
    )
    load(folder, 'float32').warmup()
    with pytest.raises(
        SelfCheckError, match=r'self-check of finite numbers failed.* try dtype bfloat16'
    ):
        load(folder, 'float16').warmup()


@pytest.mark.parametrize('name', ['projector.fc2.bias', 'language_model.model.norm.weight'])
def test_weights_that_are_no_numbers_are_refused(name: str, tiny_checkpoint: Path) -> None:
    """The checkpoint's reader refuses them first: here they turned so in memory."""
    policy = load(tiny_checkpoint, 'float32')
    policy._model.get_parameter(name)[3] = float('nan')
    with pytest.raises(SelfCheckError, match='self-check of finite numbers failed'):
        policy.warmup()


def test_an_instruction_that_does_not_reach_the_model_is_refused(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = OpenVLAModel.embed

    def deaf(self: OpenVLAModel, input_ids: Tensor, image_embeds: Tensor) -> Tensor:
        return embed(self, torch.ones_like(input_ids), image_embeds)

    monkeypatch.setattr(OpenVLAModel, 'embed', deaf)
    with pytest.raises(SelfCheckError, match='self-check of the instruction failed'):
        load(tiny_checkpoint).warmup()


@pytest.fixture(scope='module')
def predictions(tiny_checkpoint: Path) -> dict[str, Prediction]:
    policy = load(tiny_checkpoint)
    trials = plan_trials(policy._prompt_tokenizer, policy.config, 1, compiled=False)
    return {
        name: policy.predict_action(trial.images[0], trial.instruction, return_logits=True)
        for name, trial in trials.items()
    }


def changed(prediction: Prediction, amount: float, seed: int = 0) -> Prediction:
    """As if every sum had been made in another order."""
    noise = np.random.default_rng(seed).normal(0, amount, (7, 256)).astype(np.float32)
    assert prediction.tokens.logits is not None
    return with_tokens(prediction, logits=prediction.tokens.logits + noise)


def with_tokens(prediction: Prediction, **changes: object) -> Prediction:
    assert prediction.tokens is not None
    return dataclasses.replace(prediction, tokens=dataclasses.replace(prediction.tokens, **changes))


def test_two_equal_calls_must_agree(predictions: dict[str, Prediction]) -> None:
    check(predictions)
    again = predictions['noise again']
    check(predictions | {'noise again': changed(again, 0.01)})  # the logits' deviation is about 1
    with pytest.raises(SelfCheckError, match=r'self-check of repeatability failed.* at most 0.2'):
        check(predictions | {'noise again': changed(again, 0.3)})


def test_tokens_may_differ_where_logits_tie(predictions: dict[str, Prediction]) -> None:
    again = predictions['noise again']
    assert again.tokens.logits is not None
    token_ids, logits = again.tokens.ids.copy(), again.tokens.logits.copy()
    token_ids[2:] = 31744
    logits[3:] = -logits[3:]  # another sequence from here on
    check(predictions | {'noise again': with_tokens(again, ids=token_ids, logits=logits)})
    logits[2] = -logits[2]
    with pytest.raises(SelfCheckError, match='at step 2'):
        check(predictions | {'noise again': with_tokens(again, ids=token_ids, logits=logits)})


def test_what_changes_no_more_than_roundings_does_not_count(
    predictions: dict[str, Prediction],
) -> None:
    """On a device that rounds differently each time, an ignored picture changes the logits too."""
    noisy = {'noise again': changed(predictions['noise again'], 0.05)}
    blind = {
        'black image': changed(predictions['noise'], 0.06, seed=1),
        'white image': changed(predictions['noise'], 0.06, seed=2),
    }
    with pytest.raises(SelfCheckError, match='self-check of the image failed'):
        check(predictions | noisy | blind)


def test_a_black_picture_may_have_no_valid_action(predictions: dict[str, Prediction]) -> None:
    black = predictions['black image']
    actions = np.full_like(black.actions, np.nan)
    invalid = InvalidReason(Invalid.BY_POLICY)
    check(
        predictions | {'black image': dataclasses.replace(black, invalid=invalid, actions=actions)}
    )
    with pytest.raises(SelfCheckError, match='self-check of finite numbers failed'):
        check(predictions | {'black image': dataclasses.replace(black, actions=actions)})


def test_the_warmup_can_be_cancelled_at_every_step(tiny_checkpoint: Path) -> None:
    policy = load(tiny_checkpoint)
    for step in range(7):
        cancel = threading.Event()

        def tell(progress: Progress, step: int = step, cancel: threading.Event = cancel) -> None:
            assert progress.done <= step
            if progress.done == step:
                cancel.set()

        with pytest.raises(InferenceCancelled):
            policy.warmup(tell, cancel)
    assert policy.warmup().total_s > 0


def test_an_action_of_one_value_can_be_warmed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'one'
    shutil.copytree(tiny_checkpoint, folder)
    statistics = {'one': {'action': {'q01': [-1.0], 'q99': [1.0]}}}
    (folder / 'dataset_statistics.json').write_text(json.dumps(statistics))
    policy = load(folder)
    policy.warmup()
    assert policy.predict_action(NOISE, 'go').action.shape == (1,)
