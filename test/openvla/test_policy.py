# SPDX-License-Identifier: Apache-2.0
"""What the policy promises beyond the golden values."""

from __future__ import annotations

import threading
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from support.places import GOLDEN
from vla_ros.openvla import OpenVLAPolicy, PlacementError, UnnormKeyError
from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.language import KVCache, Llama
from vla_ros.openvla.token_batch import TokenPredictor
from vla_ros.types import InferenceCancelled, Invalid, PolicyError

NOISE = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def policy(tiny_checkpoint: Path) -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', dtype='float32')


def test_picture_and_instruction_matter(policy: OpenVLAPolicy) -> None:
    pictures = [np.zeros_like(NOISE), np.full_like(NOISE, 255), NOISE]
    actions = {
        tuple(policy.predict_action(picture, instruction).action)
        for picture in pictures
        for instruction in ('pick up the red cup', 'open the drawer')
    }
    assert len(actions) == 6


def test_the_same_asked_twice_gives_the_same(policy: OpenVLAPolicy) -> None:
    first, second = (policy.predict_action(NOISE, 'go', return_logits=True) for _ in range(2))
    assert first.invalid is None and second.invalid is None
    assert first.tokens.logits is not None and second.tokens.logits is not None
    assert (first.tokens.logits == second.tokens.logits).all()
    assert first.tokens.ids.tolist() == second.tokens.ids.tolist()


def test_shapes_and_dtypes(policy: OpenVLAPolicy) -> None:
    prediction = policy.predict_action(NOISE, 'go', return_logits=True)
    assert prediction.action.dtype == prediction.normalized_actions[0].dtype == np.float64
    assert prediction.action.shape == prediction.normalized_actions[0].shape == (7,)
    assert prediction.tokens.ids.dtype == np.int64
    assert prediction.tokens.probabilities.dtype == np.float32
    assert prediction.tokens.logits is not None
    assert prediction.tokens.logits.shape == (7, 256)
    assert prediction.tokens.logits.dtype == np.float32
    chosen = np.exp(prediction.tokens.logits - prediction.tokens.logits.max(axis=1, keepdims=True))
    chosen /= chosen.sum(axis=1, keepdims=True)
    columns = prediction.tokens.ids - 31744
    np.testing.assert_allclose(
        prediction.tokens.probabilities, chosen[np.arange(7), columns], rtol=1e-5
    )
    assert prediction.unnorm_key == 'random'
    assert policy.predict_action(NOISE, 'go').tokens.logits is None


def test_every_stage_is_timed(policy: OpenVLAPolicy) -> None:
    policy.reset()
    timings = policy.predict_action(NOISE, 'go').timings
    stages = ['preprocess', 'vision', 'projector', 'prefill', 'decode', 'postprocess']
    assert list(timings) == stages
    assert all(seconds > 0 for seconds in timings.values())
    again = policy.predict_action(NOISE, 'go').timings  # the same image: embedded already
    assert list(again) == stages
    assert [stage for stage, seconds in again.items() if seconds == 0] == ['vision', 'projector']


def test_info_says_what_was_chosen(policy: OpenVLAPolicy, tiny_checkpoint: Path) -> None:
    info = policy.info
    assert (info.model, info.revision) == (str(tiny_checkpoint), '')
    assert (info.device, info.dtype, info.quantization) == ('cpu', 'float32', 'none')
    auto = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu').info
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert auto.dtype == ('bfloat16' if has_bfloat16 else 'float32')


def test_placement_is_checked_before_the_checkpoint() -> None:
    with pytest.raises(PlacementError):
        OpenVLAPolicy.from_pretrained('/nowhere', device='abacus')
    with pytest.raises(PlacementError):
        OpenVLAPolicy.from_pretrained('/nowhere', device='cpu', dtype='decimal')
    with pytest.raises(PlacementError):
        OpenVLAPolicy.from_pretrained('/nowhere', device='cpu', quantization='int3')


def test_the_right_statistics_are_asked_for() -> None:
    golden = OpenVLAPolicy.from_pretrained(GOLDEN / 'openvla_tiny', device='cpu')
    assert golden.spec('bridge_orig').action_dim == 7
    assert golden.spec('toy_nomask').action_dim == 5
    for ask in (golden.spec, partial(golden.predict_action, NOISE, 'go')):
        with pytest.raises(UnnormKeyError, match='bridge_orig, toy_nomask'):
            ask()
    with pytest.raises(UnnormKeyError, match="'kuka' is not in this checkpoint"):
        golden.spec('kuka')
    assert len(golden.predict_action(NOISE, 'go', 'toy_nomask').action) == 5


class CancelAfter:
    """Set from the n-th question on."""

    def __init__(self, questions: int) -> None:
        self.asked = 0
        self._questions = questions

    def is_set(self) -> bool:
        self.asked += 1
        return self.asked > self._questions


def test_cancel_is_looked_at_before_every_layer(
    policy: OpenVLAPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without guesses every action has as many passes.
    monkeypatch.setattr(TokenPredictor, '_still', lambda self, batch, drafts: drafts)
    never = CancelAfter(1_000_000)
    policy.predict_action(~NOISE, 'go', cancel=never)
    # Once at the start; 3 + 4 vision blocks; 3 language layers in the prefill and in 6 decodes.
    layers = 1 + 3 + 4 + 3 + 6 * 3
    assert never.asked == layers
    for questions in range(layers):
        cancel = CancelAfter(questions)
        unseen = NOISE ^ np.uint8(questions + 1)
        with pytest.raises(InferenceCancelled):
            policy.predict_action(unseen, 'go', cancel=cancel)
        assert cancel.asked == questions + 1
    assert policy.predict_action(NOISE, 'go').invalid is None


def test_a_cancel_of_before_is_forgotten(policy: OpenVLAPolicy) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(InferenceCancelled):
        policy.predict_action(NOISE, 'go', cancel=cancel)
    assert policy.predict_action(NOISE, 'go').invalid is None


def test_logits_that_are_not_finite_make_it_invalid(tiny_checkpoint: Path) -> None:
    broken = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', dtype='float32')
    with torch.no_grad():
        broken._model.projector.fc1.bias.fill_(float('nan'))
    prediction = broken.predict_action(NOISE, 'go')
    assert prediction.invalid.kind is Invalid.NOT_FINITE
    assert str(prediction.invalid) == 'a logit of step 0 is nan, which is not finite'


@pytest.mark.parametrize(
    'error',
    [
        torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.\nSee more'),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError('MPS backend out of memory (MPS allocated: 9 GB)'),
        MemoryError(),
    ],
)
def test_it_outlives_a_lack_of_memory(
    error: Exception, policy: OpenVLAPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[weakref.ref[torch.Tensor]] = []

    def decode(self: Llama, ids: torch.Tensor, at: torch.Tensor, cache: KVCache) -> torch.Tensor:
        caches.extend(map(weakref.ref, cache.layers))
        raise type(error)(*error.args)

    with monkeypatch.context() as patched:
        patched.setattr(Llama, 'decode', decode)
        with pytest.raises(PolicyError, match=r'^out of memory on cpu .*; end what else') as caught:
            policy.predict_action(NOISE, 'go')
    assert '\n' not in str(caught.value)
    assert [cache() for cache in caches] == [None] * policy.config.llama.num_hidden_layers
    assert policy.predict_action(NOISE, 'go').invalid is None


def test_a_lack_of_memory_while_loading_is_one_sentence(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tensors(self: Checkpoint, names: set[str]) -> None:
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')

    monkeypatch.setattr(Checkpoint, 'tensors', tensors)
    with pytest.raises(PolicyError, match=r'^out of memory on cpu during loading .*; end what'):
        OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu')


def test_other_faults_keep_their_name(
    policy: OpenVLAPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(self: Llama, *_: object) -> torch.Tensor:
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    monkeypatch.setattr(Llama, 'decode', decode)
    with pytest.raises(RuntimeError, match='illegal memory access'):
        policy.predict_action(NOISE, 'go')


def test_no_kv_cache_outlives_its_inference(
    policy: OpenVLAPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[weakref.ref[torch.Tensor]] = []
    prefill = Llama.prefill

    def noted(
        self: Llama, embeds: torch.Tensor, lengths: torch.Tensor, cache: KVCache, rows: int
    ) -> torch.Tensor:
        assert not [tensor for tensor in caches if tensor() is not None]
        caches.extend(map(weakref.ref, cache.layers))
        return prefill(self, embeds, lengths, cache, rows)

    monkeypatch.setattr(Llama, 'prefill', noted)
    for instruction in ('go', 'put ' * 30, 'go'):
        policy.predict_action(NOISE, instruction)
    layers = policy.config.llama.num_hidden_layers
    assert [cache() for cache in caches] == [None] * 3 * layers
