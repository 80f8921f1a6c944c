# SPDX-License-Identifier: Apache-2.0
"""What is predicted together is what would have been predicted one by one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.asking import predict
from support.drafts import differing
from support.golden import CASES, picture
from support.places import GOLDEN
from support.shapes import record_shapes
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.embedding_cache import EmbeddingCache
from vla_ros.openvla.request import Request
from vla_ros.openvla.vision import VisionBackbone
from vla_ros.types import InferenceCancelled, InstructionError, Prediction

NAMES = ('openvla_tiny', 'openvla_v01_tiny')
MOST = 4


@cache
def policy(name: str) -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(
        GOLDEN / name, device='cpu', dtype='float32', max_batch_size=MOST
    )


def requests(name: str) -> list[Request]:
    """Of every golden case: different pictures, instructions, prompt lengths and action sizes."""
    return [
        Request((picture(case),), case['instruction'], case['unnorm_key'])
        for checkpoint, case in CASES.values()
        if checkpoint == name
    ]


@cache
def alone(name: str) -> list[Prediction]:
    return [predict(policy(name), [request])[0] for request in requests(name)]


def batches(count: int) -> Iterator[list[int]]:
    """Of one to four, in any order, some twice in one batch."""
    random = np.random.default_rng(0)
    for _ in range(count):
        yield random.integers(0, 10, random.integers(1, MOST + 1)).tolist()


@pytest.mark.parametrize('name', NAMES)
def test_each_is_what_it_is_alone(name: str) -> None:
    for indices in batches(25):
        together = predict(policy(name), [requests(name)[index] for index in indices])
        for index, prediction in zip(indices, together, strict=True):
            expected = alone(name)[index]
            assert prediction.tokens.ids.tolist() == expected.tokens.ids.tolist()
            np.testing.assert_array_equal(prediction.action, expected.action)
            assert prediction.action.shape == expected.action.shape
            assert prediction.invalid == expected.invalid
            assert prediction.unnorm_key == expected.unnorm_key
            np.testing.assert_allclose(
                prediction.tokens.probabilities, expected.tokens.probabilities, atol=1e-5
            )


@pytest.mark.parametrize('cost', [1.0, 2.0])
@pytest.mark.parametrize('name', NAMES)
def test_each_has_its_own_draft(name: str, cost: float, monkeypatch: pytest.MonkeyPatch) -> None:
    one = policy(name)
    monkeypatch.setattr(one._predictor.block_costs, 'of', lambda batch_size: cost)
    random = np.random.default_rng(1)
    for indices in batches(25):
        asked = []
        for index in indices:
            ids = alone(name)[index].tokens.ids
            draft = differing(ids, *random.integers(0, len(ids), random.integers(0, 3)))
            draft = None if random.integers(4) == 0 else draft[: random.integers(1, len(ids) + 1)]
            request = requests(name)[index]
            asked.append(Request(request.images, request.instruction, request.unnorm_key, draft))
        for index, request, prediction in zip(indices, asked, predict(one, asked), strict=True):
            expected = alone(name)[index]
            assert prediction.tokens.ids.tolist() == expected.tokens.ids.tolist()
            offered = 0 if request.draft is None else len(request.draft)
            assert prediction.tokens.drafted == min(offered, len(expected.action) - 1)


def test_after_the_warmup_no_batch_has_a_new_shape() -> None:
    one = OpenVLAPolicy.from_pretrained(
        GOLDEN / 'openvla_tiny', device='cpu', dtype='float32', max_batch_size=3
    )
    seen = record_shapes(one)
    one.warmup()
    warm = set(seen)
    prefills = {shapes for shapes in warm if shapes[0] == 'language_model.model.layers.0'}
    assert len(prefills) == 3 * 3 * len(one._prompt_tokenizer.prompt_lengths)
    for indices in batches(20):
        predict(one, [requests('openvla_tiny')[index] for index in indices[:3]])
    assert not seen - warm


@pytest.mark.parametrize('count', [0, MOST + 1])
def test_other_sizes_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f'{count} observations; allowed: 1 to 4'):
        predict(policy('openvla_tiny'), requests('openvla_tiny')[:1] * count)


def test_one_that_is_not_usable_fails_alone() -> None:
    good = requests('openvla_tiny')[0]
    bad = Request(good.images, ' ', good.unnorm_key)
    first, second, third = predict(policy('openvla_tiny'), [good, bad, good])
    assert isinstance(second, InstructionError) and 'instruction is empty' in str(second)
    expected = alone('openvla_tiny')[0].tokens.ids.tolist()
    assert first.tokens.ids.tolist() == third.tokens.ids.tolist() == expected


def test_an_identical_picture_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    one, looked = policy('openvla_tiny'), []
    forward = VisionBackbone.forward

    def noted(self: VisionBackbone, pixel_values: torch.Tensor) -> torch.Tensor:
        looked.append(len(pixel_values))
        return forward(self, pixel_values)

    monkeypatch.setattr(VisionBackbone, 'forward', noted)
    first, second = requests('openvla_tiny')[:2]
    third = Request((second.images[0].copy(),), first.instruction, first.unnorm_key)
    predict(one, [requests('openvla_tiny')[5]])
    looked.clear()
    fresh = predict(one, [first, second, third, first])
    assert looked == [2]
    again = predict(one, [second, first])
    assert looked == [2]
    assert again[0].tokens.ids.tolist() == fresh[1].tokens.ids.tolist()
    assert again[1].tokens.ids.tolist() == fresh[0].tokens.ids.tolist()
    shown, shown_again = (
        [one.model_images['image'] for one in predictions] for predictions in (fresh, again)
    )
    assert shown_again[0] is shown[1]
    assert shown_again[1] is shown[0] is shown[3]
    assert not np.array_equal(*shown_again)
    predict(one, [third, requests('openvla_tiny')[5]])  # only the last batch is remembered
    assert looked == [2, 1]
    predict(one, [first])
    assert looked == [2, 1, 1]


def test_pictures_are_told_apart_by_every_pixel() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    other = image.copy()
    other[3, 5, 2] = 1
    shown = [np.full((2, 2, 3), level, np.uint8) for level in (7, 9, 11, 13)]
    made: list[NDArray[np.uint8]] = []

    def embedded(
        images: list[NDArray[np.uint8]], words: list[str] | None = None
    ) -> tuple[torch.Tensor, list[NDArray[np.uint8]]]:
        def make(new: list[int]) -> tuple[torch.Tensor, list[NDArray[np.uint8]]]:
            first = len(made)
            made.extend(images[number] for number in new)
            return torch.arange(float(first), len(made))[:, None], shown[first : len(made)]

        return embeddings.get(images, make, words)

    embeddings = EmbeddingCache()
    found, pictures = embedded([other, image, other.copy()])
    assert [each is known for each, known in zip(made, (other, image), strict=True)] == [True] * 2
    assert found.tolist() == [[0.0], [1.0], [0.0]]
    assert pictures == [shown[0], shown[1], shown[0]]
    assert embedded([image.copy()])[1][0] is shown[1]
    assert len(made) == 2
    found, pictures = embedded([image, image[:, :4]])
    assert made[2].shape == (4, 4, 3)
    assert found.tolist() == [[1.0], [2.0]]
    assert pictures == [shown[1], shown[2]]
    found, _ = embedded([image, image, image], ['go', '', 'go'])  # as with FiLM
    assert found.tolist() == [[3.0], [1.0], [3.0]]


def test_embeddings_that_were_not_made_are_not_remembered() -> None:
    image = np.zeros((4, 6, 3), np.uint8)

    def fail(new: list[int]) -> tuple[torch.Tensor, list[NDArray[np.uint8]]]:
        raise InferenceCancelled

    embeddings, values = EmbeddingCache(), torch.ones(1, 2)
    with pytest.raises(InferenceCancelled):
        embeddings.get([image], fail)
    assert embeddings.get([image], lambda _: (values, [image]))[0].tolist() == [[1.0, 1.0]]


def test_a_buffer_that_is_written_anew_is_looked_at_anew() -> None:
    """As a camera's driver may hand out the same memory for every picture."""
    one = policy('openvla_tiny')
    first, second = (requests('openvla_tiny')[index] for index in (0, 5))
    buffer = np.zeros((480, 640, 3), np.uint8)
    actions = []
    for fill in (0, 255):
        buffer[:] = fill
        request = Request((buffer,), first.instruction, first.unnorm_key)
        actions.append(predict(one, [request])[0].tokens.ids.tolist())
    predict(one, [second])
    fresh = Request((np.full_like(buffer, 255),), first.instruction, first.unnorm_key)
    assert actions[1] == predict(one, [fresh])[0].tokens.ids.tolist() != actions[0]
