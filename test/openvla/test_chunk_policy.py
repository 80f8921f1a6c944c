# SPDX-License-Identifier: Apache-2.0
"""What surrounds a chunk: batches, sessions, warm-up, self-checks, quantisation, cancelling."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._dynamo.utils import counters

from support.asking import predict
from support.family_golden import CASES, OFT_CASE, PRO_CASE, Case
from support.shapes import record_shapes
from vla_ros.openvla import OpenVLAPolicy, processor
from vla_ros.openvla.costs import count_costs, model_bytes
from vla_ros.openvla.request import Request
from vla_ros.openvla.vision import VisionBackbone
from vla_ros.types import (
    InferenceCancelled,
    InstructionError,
    Invalid,
    Observation,
    PolicyError,
    Prediction,
    SelfCheckError,
    invalid_reason,
)

BOTH = [PRO_CASE.name, OFT_CASE.name]
WORDS = ('go', 'pick up the red cup', 'put the bowl on the left plate', 'open ' * 12)
SHARED_FILM, SHARED_TOKENS = 'aloha-o1_full-shared', 'libero-o5_discrete-shared'


@cache
def policy(name: str, dtype: str = 'float32', batch: int = 3) -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(
        CASES[name].folder(), device='cpu', dtype=dtype, max_batch_size=batch
    )


def requests(case: Case, count: int = 4) -> list[Request]:
    """Different images, words and states; the prompts have different lengths."""
    random = np.random.default_rng(0)
    return [
        Request(
            tuple(
                random.integers(0, 256, (40 + row, 60, 3), np.uint8) for _ in case.layout.cameras
            ),
            WORDS[row % len(WORDS)],
            case.facts['unnorm_key'],
            state=random.normal(0, 0.3, case.layout.state_dim) if case.layout.state_dim else None,
        )
        for row in range(count)
    ]


@pytest.mark.parametrize('name', [*BOTH, SHARED_FILM, SHARED_TOKENS])
def test_each_of_a_batch_is_what_it_is_alone(name: str) -> None:
    if name not in CASES:
        pytest.skip('these golden values are not beside the repository')
    asked, one = requests(CASES[name]), policy(name)
    alone = [predict(one, [request])[0] for request in asked]
    for rows in ([0, 1, 2], [3, 0], [2, 2, 1]):
        together = predict(one, [asked[row] for row in rows])
        for row, prediction in zip(rows, together, strict=True):
            np.testing.assert_allclose(prediction.actions, alone[row].actions, rtol=0, atol=2e-5)
    assert np.abs(alone[0].actions - alone[1].actions).max() > 1e-3


@pytest.mark.parametrize('name', BOTH)
def test_no_session_offers_a_draft(name: str) -> None:
    case = CASES[name]
    one = policy(name)
    session = one.session(case.facts['unnorm_key'])
    spec = session.spec
    assert spec == one.spec(case.facts['unnorm_key'])
    assert (spec.cameras, spec.state_dim) == (case.layout.cameras, case.layout.state_dim)
    assert (spec.action_shape, spec.emits_tokens) == ((8, 7), False)
    first, second = (one.predict([(session, observed(case))])[0] for _ in range(2))
    np.testing.assert_array_equal(first.actions, second.actions)
    assert session.draft is None and first.tokens is None
    assert list(first.timings)[3:5] == ['prefill', 'head']


def observed(case: Case, **changes: object) -> Observation:
    pictures = case.pictures()
    whole = Observation(pictures, 'go', dict.fromkeys(pictures, 0), case.state())
    return replace(whole, **changes)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'state': None}, 'there is no state; expected 8 values'),
        ({'state': np.zeros(7)}, r'state has the shape \[7\]; expected 8 values'),
        ({'state': np.zeros((1, 8))}, r'state has the shape \[1, 8\]'),
        ({'state': np.array([0, 0, np.nan, 0, 0, 0, 0, 0])}, 'value 2 of the state is nan'),
        ({'state': np.array([0, 0, 0, -np.inf, 0, 0, 0, 0])}, 'value 3 of the state is -inf'),
        ({'images': {'image': np.zeros((9, 9, 3), np.uint8)}}, "the camera 'wrist_image'"),
        ({'instruction': 'go <|im_end|> left'}, r'special token .<\|im_end\|>'),
        ({'instruction': 'go <|IM_START|>'}, r'special token .<\|im_start\|>'),
        ({'instruction': 'a <tool_call>'}, 'special token .<tool_call>'),
        ({'instruction': 'a </s> b'}, 'special token .</s>'),
    ],
)
def test_what_one_robot_does_wrong_is_its_own_error(changes: dict[str, object], words: str) -> None:
    one, case = policy(PRO_CASE.name), PRO_CASE
    sessions = [one.session(case.facts['unnorm_key']) for _ in range(2)]
    batch = [(sessions[0], observed(case, **changes)), (sessions[1], observed(case))]
    wrong, right = one.predict(batch)
    assert isinstance(wrong, PolicyError) and isinstance(right, Prediction)
    with pytest.raises(PolicyError, match=words):
        raise wrong
    assert isinstance(wrong, InstructionError) == ('instruction' in changes)


def test_an_instruction_of_another_models_tokens_is_text_here() -> None:
    """What counts is tokenizer.json: to OpenVLA-OFT these are words."""
    policy(OFT_CASE.name).check_instruction('go <|im_end|>')


@pytest.mark.parametrize('name', BOTH)
def test_each_camera_is_looked_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    forward = VisionBackbone.forward

    def noted(self: VisionBackbone, pixel_values: Tensor) -> Tensor:
        looked.append(len(pixel_values))
        return forward(self, pixel_values)

    monkeypatch.setattr(VisionBackbone, 'forward', noted)
    one, (first, second, *_) = policy(name), requests(CASES[name])
    one.reset()
    whole = predict(one, [first])[0]
    predict(one, [replace(first, instruction='open')])
    moved = replace(first, images=(first.images[0], second.images[1]))
    predict(one, [moved])
    again = predict(one, [first])[0]
    assert looked == [2, 1, 1]
    np.testing.assert_array_equal(again.actions, whole.actions)


def test_with_film_an_image_is_looked_at_again_for_other_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if SHARED_FILM not in CASES:
        pytest.skip('the golden values of FiLM are not beside the repository')
    looked: list[int] = []
    forward = VisionBackbone.forward

    def noted(self: VisionBackbone, pixel_values: Tensor, words: Tensor) -> Tensor:
        looked.append(len(pixel_values))
        return forward(self, pixel_values, words)

    monkeypatch.setattr(VisionBackbone, 'forward', noted)
    one, (first, *_) = policy(SHARED_FILM), requests(CASES[SHARED_FILM])
    one.reset()
    for instruction in ('go', 'go', 'open', 'open'):
        predict(one, [replace(first, instruction=instruction)])
    assert looked == [3, 3]


@pytest.mark.parametrize('name', BOTH)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_sound_checkpoint_passes_the_self_checks(name: str, dtype: str) -> None:
    policy(name, dtype, batch=1).warmup()


def test_after_the_warmup_no_batch_has_a_new_shape() -> None:
    """Of the language model; images are looked at in any number, as they are new or not."""
    one = OpenVLAPolicy.from_pretrained(OFT_CASE.folder(), device='cpu', max_batch_size=2)
    seen = record_shapes(one)
    one.warmup()
    warm = {shape for shape in seen if 'featurizer' not in shape[0] and 'projector' not in shape[0]}
    asked = requests(OFT_CASE)
    for rows in ([0], [1, 2], [3], [2, 0]):
        predict(one, [asked[row] for row in rows])
    new = {one for one in seen if 'featurizer' not in one[0] and 'projector' not in one[0]}
    assert new == warm


@pytest.mark.parametrize(
    ('name', 'tensor', 'words'),
    [
        (PRO_CASE.name, 'state_projector.fc2.weight', 'of the state failed'),
        (PRO_CASE.name, 'projector.fc2.weight', 'of the image of image failed: black and white'),
        (PRO_CASE.name, 'action_head.fc2.weight', 'of the image of image failed'),
        (OFT_CASE.name, 'state_projector.fc1.weight', 'of the state failed'),
        (OFT_CASE.name, 'language_model.model.embed_tokens.weight', 'of the instruction failed'),
    ],
)
def test_zeroed_weights_are_refused(name: str, tensor: str, words: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CASES[name].folder(), tmp_path / 'zeroed'))
    tensors = load_file(folder / 'model.safetensors')
    tensors[tensor].zero_()
    save_file(tensors, folder / 'model.safetensors')
    with pytest.raises(SelfCheckError, match=words):
        OpenVLAPolicy.from_pretrained(folder, device='cpu', dtype='float32').warmup()


@pytest.mark.parametrize('name', BOTH)
@pytest.mark.parametrize('place', [0, 1])
def test_a_camera_that_is_ignored_is_named(
    name: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = OpenVLAPolicy.from_pretrained(CASES[name].folder(), device='cpu', dtype='float32')
    embed = one._embedder

    def blind(batch: object, stages: object) -> tuple[Tensor, list[tuple[NDArray[np.uint8], ...]]]:
        embeds, shown = embed(batch, stages)
        half = embeds.shape[1] // 2
        embeds = embeds.clone()
        embeds[:, place * half : (place + 1) * half] = 0.1
        return embeds, shown

    monkeypatch.setattr(one._predictor, '_embedder', blind)
    camera = CASES[name].layout.cameras[place]
    with pytest.raises(SelfCheckError, match=f'self-check of the image of {camera} failed'):
        one.warmup()


@pytest.mark.parametrize('name', BOTH)
@pytest.mark.parametrize(('quantization', 'bound'), [('int8', 0.1), ('int4', 1.0)])
def test_quantised_it_stays_near(name: str, quantization: str, bound: float) -> None:
    case = CASES[name]
    quantized = OpenVLAPolicy.from_pretrained(
        case.folder(), device='cpu', dtype='float32', quantization=quantization
    )
    quantized.warmup()
    own = case.predict(quantized).normalized_actions
    expected = case.predict(policy(name)).normalized_actions
    assert 0 < np.sqrt(((own - expected) ** 2).mean()) < bound
    # The ends of the head and the projector of the state keep the dtype.
    assert quantized._model.action_head.fc1.weight.dtype == torch.float32
    assert quantized._model.state_projector.fc1.weight.dtype == torch.float32


@pytest.mark.parametrize('name', BOTH)
def test_compiled_it_gives_the_same_and_compiles_nothing_later(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, 'PROMPT_LENGTHS', (64,))  # one is enough here
    case = CASES[name]
    compiled = OpenVLAPolicy.from_pretrained(
        case.folder(), device='cpu', dtype='float32', compile=True
    )
    torch.compiler.reset()
    compiled.warmup()
    graphs = counters['stats']['unique_graphs']
    with torch._dynamo.config.patch(error_on_recompile=True):
        error = np.abs(case.predict(compiled).actions - case.array('actions')).max()
        for request in requests(case):
            predict(compiled, [request])
            predict(compiled, [replace(request, images=(request.images[0],) * 2)])
    assert error < 1e-4
    assert counters['stats']['unique_graphs'] == graphs


@pytest.mark.parametrize('name', BOTH)
def test_it_can_be_cancelled_before_every_layer(name: str) -> None:
    one, case = policy(name), CASES[name]
    layers = one.config.llama.num_hidden_layers
    towers = sum(1 for _ in one._model.vision_backbone.blocks())
    head = len(one._model.action_head.mlp_resnet_blocks)

    class After:
        asked, most = 0, 10**6

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > self.most

    def ask(cancel: After) -> None:
        one.reset()
        one.predict_action(
            case.pictures(), 'go', case.facts['unnorm_key'], cancel, state=np.ones(8)
        )

    cancel = After()
    ask(cancel)
    assert cancel.asked == 1 + towers + layers + head
    for most in (0, 3, towers + 2, towers + layers, cancel.asked - 1):
        stopped = After()
        stopped.most = most
        with pytest.raises(InferenceCancelled):
            ask(stopped)


@pytest.mark.parametrize('name', BOTH)
def test_a_value_a_little_beyond_is_executed_and_an_absurd_one_is_not(name: str) -> None:
    spec = policy(name).spec(CASES[name].facts['unnorm_key'])
    actions = np.zeros(spec.action_shape)
    for value, kind in ((1.3, None), (-2.0, None), (2.01, Invalid.OUT_OF_BOUNDS)):
        normalized = actions.copy()
        normalized[3, 2] = value
        reason = invalid_reason(Prediction(actions, '', normalized), spec)
        assert (reason and reason.kind) == kind
    assert str(reason) == 'normalized value 23 is 2.01, not within -2 and 2'


@pytest.mark.parametrize('name', BOTH)
def test_costs(name: str) -> None:
    one, case = policy(name), CASES[name]
    costs = count_costs(one.config, torch.float32, 64)
    assert costs.model_bytes == sum(value.nbytes for value in one._model.parameters())
    assert costs.model_bytes == model_bytes(one.config, torch.float32)
    slots = 63 if case.layout.is_bridge else 1 + 56 + 1
    assert costs.positions == 512 + 64 + slots
    assert costs.decode_step_bytes == 0
    twice = count_costs(one.config, torch.float32, 64, batch_size=2)
    assert {stage: 2 * flops for stage, flops in costs.flops.items()} == twice.flops
    assert set(costs.flops) == {'vision', 'projector', 'prefill', 'head'}


def test_tokens_of_one_pass() -> None:
    if SHARED_TOKENS not in CASES:
        pytest.skip('the golden values of tokens are not beside the repository')
    case, one = CASES[SHARED_TOKENS], policy(SHARED_TOKENS)
    spec = one.spec(case.facts['unnorm_key'])
    assert spec.emits_tokens and spec.largest_normalized == 1
    session = one.session(case.facts['unnorm_key'])
    [prediction] = one.predict([(session, observed(case))])
    assert prediction.tokens.probabilities.shape == (56,) and session.draft is None
    assert invalid_reason(prediction, spec) is None
    one.warmup()


@pytest.fixture
def no_action(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes a token the most likely one of the fourth value."""

    def make(token: int) -> None:
        from vla_ros.openvla.language import Llama

        logits = Llama.logits

        def other(self: Llama, normalized: Tensor) -> Tensor:
            changed = logits(self, normalized)
            changed[:, 3, token] = 1e4
            return changed

        monkeypatch.setattr(Llama, 'logits', other)

    return make


@pytest.mark.parametrize('token', [2, 1234, 32005])
def test_a_token_without_a_value_is_reported(token: int, no_action: Callable[[int], None]) -> None:
    if SHARED_TOKENS not in CASES:
        pytest.skip('the golden values of tokens are not beside the repository')
    no_action(token)
    prediction = CASES[SHARED_TOKENS].predict()
    assert prediction.invalid is not None
    assert (prediction.invalid.kind, prediction.invalid.index) == (Invalid.TOKEN, 3)
