# SPDX-License-Identifier: Apache-2.0
"""MiniVLA against its reference's outputs, and the mistakes that would change them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from support.minivla_golden import CASES, RELEASED, TINY, TINY_VQ, Case
from support.mistakes import mask_forgotten
from vla_ros.openvla import OpenVLAPolicy, config
from vla_ros.openvla.action_tokenizer import ActionTokenizer
from vla_ros.openvla.batches import ImageEmbedder
from vla_ros.openvla.chunks import embed_images
from vla_ros.openvla.codes import CodeDecoder
from vla_ros.openvla.normalization import Statistics
from vla_ros.openvla.processor import ImageProcessor, PromptTokenizer
from vla_ros.openvla.token_batch import TokenPredictor
from vla_ros.types import (
    InstructionError,
    Invalid,
    InvalidReason,
    Observation,
    Prediction,
    all_predicted,
    invalid_reason,
)

LOGITS, CHUNK = 1e-4, 1e-6
# Of logits up to 44; a guess of several tokens is summed in another order than single ones.
LOGITS_OF_GUESSES = 2e-4


def test_all_cases_are_there() -> None:
    assert len(CASES) == (5 + 12 if RELEASED.is_dir() else 5)


@pytest.mark.parametrize('name', CASES)
def test_a_case(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    guessed = case.predict()
    assert guessed.tokens is not None
    assert guessed.tokens.ids.tolist() == case.facts['new_tokens']
    assert logits_error(case, guessed) <= LOGITS_OF_GUESSES
    no_guesses(monkeypatch)
    policy = case.policy()
    words = case.facts['instruction']
    assert policy._prompt_tokenizer(words)[0].tolist() == case.facts['input_ids']
    prediction = case.predict()
    assert prediction.tokens is not None
    assert prediction.tokens.ids.tolist() == case.facts['new_tokens']
    assert logits_error(case, prediction) <= LOGITS
    assert list(prediction.model_images) == list(policy.config.cameras)
    if not case.has_codes:
        np.testing.assert_array_equal(prediction.action, case.facts['action'])
        return
    chunk = case.array('normalized_chunk')
    np.testing.assert_allclose(prediction.normalized_actions, chunk, rtol=0, atol=CHUNK)
    np.testing.assert_allclose(prediction.action, case.facts['action'], rtol=0, atol=CHUNK)
    statistics = policy.config.norm_stats[case.facts['unnorm_key']]
    np.testing.assert_array_equal(statistics.unnormalize(chunk)[0], case.facts['action'])


def no_guesses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TokenPredictor, '_still', lambda self, batch, drafts: np.full(drafts.shape, -1))


def logits_error(case: Case, prediction: Prediction) -> float:
    """The worst difference of an action token's logit from the reference's."""
    assert prediction.tokens is not None
    logits = prediction.tokens.logits
    assert logits is not None
    # The reference has those of all 256 additional tokens; codes are the last of them.
    return float(np.abs(logits - case.array('logits_extra')[:, -logits.shape[1] :]).max())


@pytest.mark.parametrize('case', [TINY, TINY_VQ], ids=lambda case: case.name)
@torch.inference_mode()
def test_pixels_and_projected_patches(case: Case) -> None:
    policy = case.policy()
    pictures = list(case.pictures(policy).values())
    pixels = torch.cat([policy._image_processor(picture) for picture in pictures])
    for own, picture in zip(pixels, pictures, strict=True):  # of 224 pixels: nothing is resized
        unit = torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255
        for channels, mean, std in (
            (own[:3], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            (own[3:], (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ):
            mean_of, std_of = (torch.tensor(one)[:, None, None] for one in (mean, std))
            assert torch.equal(channels, (unit - mean_of) / std_of)
    embeds = embed_images(policy._model, pixels).flatten(0, 1)
    np.testing.assert_allclose(embeds.numpy(), case.array('projected'), rtol=0, atol=2e-5)


# -- mistakes that run without an error ----------------------------------------------------------


def fresh(case: Case) -> Prediction:
    policy = OpenVLAPolicy.from_pretrained(case.folder(), device='cpu', dtype='float32')
    return case.predict(policy)


def error(case: Case) -> float:
    """How often the prediction is off by more than the tolerance: above 1 is noticed."""
    prediction = fresh(case)
    chunk = 0.0
    if case.has_codes:
        found = prediction.normalized_actions
        chunk = float(np.abs(found - case.array('normalized_chunk')).max())
    assert prediction.tokens is not None
    if prediction.tokens.ids.tolist() != case.facts['new_tokens']:
        return 1e6
    action = float(np.abs(prediction.action - case.facts['action']).max())
    return max(logits_error(case, prediction) / LOGITS, chunk / CHUNK, action / CHUNK)


def rounded_constants(patch: pytest.MonkeyPatch) -> None:
    values = ImageProcessor.pixel_values
    scale, shift = (0.229 / 0.228515625), (0.485 - 0.484375) / 0.228515625

    def rounded(self: ImageProcessor, images: list[NDArray[np.uint8]]) -> Tensor:
        pixels = values(self, images)
        pixels[:, 0] = pixels[:, 0] * scale + shift
        return pixels

    patch.setattr(ImageProcessor, 'pixel_values', rounded)


def last_token_missing(patch: pytest.MonkeyPatch) -> None:
    encode = PromptTokenizer._encode
    patch.setattr(PromptTokenizer, '_encode', lambda self, text: encode(self, text)[:-1])


def no_default_system_prompt(patch: pytest.MonkeyPatch) -> None:
    prompt = PromptTokenizer.prompt
    patch.setattr(
        PromptTokenizer,
        'prompt',
        lambda self, text: prompt(self, text).partition('<|im_end|>\n')[2],
    )


def not_lower_case(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        PromptTokenizer,
        'prompt',
        lambda self, text: self._template.format(instruction=text.title()),
    )


def towers_swapped(patch: pytest.MonkeyPatch) -> None:
    values = ImageProcessor.pixel_values
    patch.setattr(
        ImageProcessor, 'pixel_values', lambda self, images: values(self, images).roll(3, 1)
    )


def changed_embeddings(change: Callable[[Tensor], Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    def mistake(patch: pytest.MonkeyPatch) -> None:
        embed = ImageEmbedder.__call__
        patch.setattr(
            ImageEmbedder,
            '__call__',
            lambda self, *given: (change((found := embed(self, *given))[0]), found[1]),
        )

    return mistake


def changed_config(**changes: object) -> Callable[[pytest.MonkeyPatch], None]:
    """Another configuration of the language model."""

    def mistake(patch: pytest.MonkeyPatch) -> None:
        read = config._read_llama
        patch.setattr(config, '_read_llama', lambda *given: replace(read(*given), **changes))

    return mistake


def vocabulary_of_text(patch: pytest.MonkeyPatch) -> None:
    """As without additional tokens: 488 tokens of the tiny Qwen, 256 of which would be actions."""
    patch.setattr(config, '_read_action_tokenizer', lambda *_: ActionTokenizer(488, 256))


def vocabulary_with_padding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(config, '_read_action_tokenizer', lambda *_: ActionTokenizer(768, 256))


def epsilon_of_oft(patch: pytest.MonkeyPatch) -> None:
    scale = Statistics.unnormalize
    patch.setattr(Statistics, 'unnormalize', lambda self, x: scale(replace(self, epsilon=1e-4), x))


def changed_codes(
    change: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> Callable[[pytest.MonkeyPatch], None]:
    def mistake(patch: pytest.MonkeyPatch) -> None:
        decode = CodeDecoder.forward
        patch.setattr(CodeDecoder, 'forward', lambda self, codes: decode(self, change(codes)))

    return mistake


def one_codebook_for_all(patch: pytest.MonkeyPatch) -> None:
    decode = CodeDecoder.forward

    def first(self: CodeDecoder, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        books = self.codebooks.clone()
        self.codebooks[:] = books[0]
        return decode(self, codes)

    patch.setattr(CodeDecoder, 'forward', first)


def no_relu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(F, 'relu', lambda x, inplace=False: x)


def chunk_changed(
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Callable[[pytest.MonkeyPatch], None]:
    def mistake(patch: pytest.MonkeyPatch) -> None:
        decode = CodeDecoder.forward
        patch.setattr(CodeDecoder, 'forward', lambda self, codes: change(decode(self, codes)))

    return mistake


MISTAKES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    'constants rounded to bfloat16': rounded_constants,
    'without the newline of ChatML': last_token_missing,
    'without the system prompt': no_default_system_prompt,
    'instruction in capitals': not_lower_case,
    'towers swapped': towers_swapped,
    'rope theta of Llama': changed_config(rope_theta=10000.0),
    'eps of Meta': changed_config(rms_norm_eps=1e-5),
    'vocabulary of text': vocabulary_of_text,
    'vocabulary with padding': vocabulary_with_padding,
    'mask forgotten': mask_forgotten,
    'an epsilon': epsilon_of_oft,
    'one patch missing': changed_embeddings(lambda x: x[:, 1:]),
}
MISTAKES_OF_CODES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    'cameras swapped': changed_embeddings(lambda x: x.roll(x.shape[1] // 2, 1)),
    'cameras interleaved': changed_embeddings(
        lambda x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    ),
    'one camera': changed_embeddings(lambda x: x[:, : x.shape[1] // 2]),
    'codes counted upwards': changed_codes(lambda codes: 127 - codes),
    'codes from 1': changed_codes(lambda codes: (codes + 1).clip(max=127)),
    'groups backwards': changed_codes(lambda codes: codes[::-1].copy()),
    'one codebook for all groups': one_codebook_for_all,
    'no ReLU': no_relu,
    'columns before rows': chunk_changed(lambda x: x.reshape(7, 8).T),
    'clipped': chunk_changed(lambda x: x.clip(-1, 1)),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MISTAKES[name](monkeypatch)
    assert error(TINY) > 2


@pytest.mark.parametrize('name', MISTAKES_OF_CODES)
def test_a_mistake_in_codes_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MISTAKES_OF_CODES[name](monkeypatch)
    assert error(TINY_VQ) > 2


def test_the_image_tag_is_left_out_and_special_tokens_are_refused() -> None:
    tokenizer = TINY.policy()._prompt_tokenizer
    assert '<image>' not in tokenizer.prompt('  take the <IMAGE> cup')
    for token in ('<|im_end|>', '<|extra_0|>', '<|EXTRA_255|>', '<|endoftext|>'):
        with pytest.raises(InstructionError, match='special token'):
            tokenizer(f'take {token} the cup')


# -- what OpenVLA's tokens have as well ------------------------------------------------------------


@pytest.mark.parametrize('case', [TINY, TINY_VQ], ids=lambda case: case.name)
def test_a_draft_changes_nothing_and_is_accepted(case: Case) -> None:
    policy = case.policy()
    plain = case.predict()
    tokens = case.facts['new_tokens']
    right = case.predict(draft=np.array(tokens))
    wrong = case.predict(draft=np.array(tokens) - 1)
    assert plain.tokens is not None and right.tokens is not None and wrong.tokens is not None
    assert (right.tokens.drafted, right.tokens.accepted) == (6, 6)
    assert wrong.tokens.accepted == 0
    for other in (right, wrong):
        np.testing.assert_array_equal(other.actions, plain.actions)
    assert plain.tokens.probabilities.shape == (7,)
    assert (plain.tokens.probabilities > 0).all()
    # A session keeps the last answer as its draft.
    session = policy.session()
    seen = case.pictures(policy)
    observation = Observation(seen, case.facts['instruction'], dict.fromkeys(seen, 0))
    for accepted in (0, 6):
        [one] = all_predicted(policy.predict([(session, observation)]))
        assert one.tokens is not None and one.tokens.accepted == accepted
        assert one.invalid is None


@pytest.mark.parametrize('case', [TINY, TINY_VQ], ids=lambda case: case.name)
def test_a_batch_and_the_warm_up(case: Case) -> None:
    policy = OpenVLAPolicy.from_pretrained(
        case.folder(), device='cpu', dtype='float32', max_batch_size=2
    )
    policy.warmup()
    others = [one for one in CASES.values() if one.name == case.name][:2]
    batch = []
    for one in others:
        seen = one.pictures(policy)
        observation = Observation(seen, one.facts['instruction'], dict.fromkeys(seen, 0))
        batch.append((policy.session(), observation))
    found = all_predicted(policy.predict(batch))
    for one, prediction in zip(others, found, strict=True):
        assert prediction.tokens is not None
        assert prediction.tokens.ids.tolist() == one.facts['new_tokens']


@pytest.mark.parametrize('quantization', ['int8', 'int4'])
def test_quantised_codes_are_decoded_in_float32(quantization: str) -> None:
    policy = OpenVLAPolicy.from_pretrained(
        TINY_VQ.folder(), device='cpu', dtype='bfloat16', quantization=quantization
    )
    decoder = policy._model.code_decoder
    assert decoder is not None and {one.dtype for one in decoder.parameters()} == {torch.float32}
    prediction = TINY_VQ.predict(policy)
    assert prediction.tokens is not None and prediction.actions.shape == (8, 7)
    expected = decoder(policy.config.action_tokenizer.codes(prediction.tokens.ids))
    np.testing.assert_array_equal(prediction.normalized_actions, expected)


@pytest.mark.parametrize('case', [TINY, TINY_VQ], ids=lambda case: case.name)
def test_an_early_end_is_no_action(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference takes ids of the prompt for the tokens that are missing."""
    tokens = case.facts['new_tokens']
    changed_config(eos_token_id=tokens[2])(monkeypatch)
    prediction = fresh(case)
    assert prediction.invalid == InvalidReason(Invalid.ENDED_EARLY, 2, 2, '7')
    assert np.isnan(prediction.action).any()
    assert invalid_reason(prediction, case.policy().spec()) is not None


def test_a_token_that_is_no_code_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clipped, as in the reference, but rejected."""
    tokens = TINY_VQ.facts['new_tokens']
    bad = tokens.index(min(tokens))
    few = ActionTokenizer(744, 744 - min(tokens) - 1)
    assert few.is_action(np.array(tokens)).tolist().index(False) == bad
    assert few.codes(np.array(tokens))[bad] == few.n_action_bins - 1
    tiny = TINY.facts['new_tokens']
    monkeypatch.setattr(config, '_read_action_tokenizer', lambda *_: ActionTokenizer(744, 128))
    prediction = fresh(TINY)
    first = next(step for step, one in enumerate(tiny) if one < 744 - 128)
    assert prediction.invalid == InvalidReason(Invalid.TOKEN, first, tiny[first], '616 to 743')


def test_the_spec() -> None:
    spec, codes = TINY.policy().spec(), TINY_VQ.policy().spec()
    assert (spec.cameras, spec.action_shape, spec.emits_tokens) == (('image',), (1, 7), True)
    assert codes.cameras == ('image', 'wrist_image') and codes.action_shape == (8, 7)
    assert (spec.largest_normalized, codes.largest_normalized) == (1.0, 2.0)
    assert codes.emits_tokens and not codes.state_dim
