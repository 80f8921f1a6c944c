# SPDX-License-Identifier: Apache-2.0
"""Pictures as in OpenVLA's training: held against what TensorFlow made of two pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from support.places import GOLDEN
from vla_ros.openvla import OpenVLAPolicy, Preprocessing, PreprocessingError, preprocessing
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.preprocessing import center_cropped, jpeg_round_trip, lanczos3_resized
from vla_ros.openvla.processor import ImageProcessor

Picture = NDArray[np.uint8]  # [H, W, 3]

GOLDEN_PICTURES = ('256x256', '128x96')
SIZE = (224, 224)
TRAINING = Preprocessing('training')
LIBERO = Preprocessing('training', center_crop=True, rotate_180=True)


@cache
def golden(name: str) -> dict[str, Picture]:
    """What TensorFlow 2.21 computed, under the names of test/golden/README.md."""
    with np.load(GOLDEN / 'training_preprocess.npz') as file:
        return {key.split('/')[1]: file[key] for key in file.files if key.startswith(f'{name}/')}


def noise(height: int, width: int) -> Picture:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def preprocessed(how: Preprocessing, image: Picture) -> Picture:
    return np.asarray(how(Image.fromarray(image), SIZE))


def resized(image: Picture) -> Picture:
    return lanczos3_resized(Image.fromarray(image), SIZE)


def check_close(ours: Picture, expected: Picture, most_differing: float) -> None:
    """By one level at most, in so many of all values."""
    difference = np.abs(ours.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= most_differing


def plain_lanczos3(image: Picture) -> Picture:
    """The formula in float64, every output from every input."""
    values = image.astype(np.float64)
    for axis in (0, 1):
        inputs, outputs = values.shape[axis], SIZE[axis]
        scale = inputs / outputs
        middles = (np.arange(outputs)[:, None] + 0.5) * scale
        x = np.abs(np.arange(inputs) + 0.5 - middles) / max(scale, 1.0)  # [outputs, inputs]
        x = np.maximum(x, 1e-9)
        weights = 3 * np.sin(np.pi * x) * np.sin(np.pi * x / 3) / (np.pi * x) ** 2 * (x < 3)
        weights /= weights.sum(axis=1, keepdims=True)
        values = np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)
    return np.rint(values).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize('name', GOLDEN_PICTURES)
def test_the_crop_is_exact(name: str) -> None:
    expected = golden(name)
    assert np.array_equal(center_cropped(expected['input'], SIZE), expected['center_crop_of_input'])
    cropped = center_cropped(expected['resize_image'], SIZE)
    assert np.array_equal(cropped, expected['resize_then_center_crop'])


@pytest.mark.parametrize('name', GOLDEN_PICTURES)
@pytest.mark.parametrize(
    ('before', 'after'), [('input', 'lanczos_of_input'), ('jpeg_roundtrip', 'resize_image')]
)
def test_lanczos_is_tensorflows(name: str, before: str, after: str) -> None:
    expected = golden(name)
    check_close(resized(expected[before]), expected[after], 2e-4)


@pytest.mark.parametrize('name', GOLDEN_PICTURES)
def test_lanczos_and_crop_together_are_tensorflows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the JPEG, which is decoded by another library here."""
    expected = golden(name)
    decoded = Image.fromarray(expected['jpeg_roundtrip'])
    monkeypatch.setattr(preprocessing, 'jpeg_round_trip', lambda picture: decoded)
    ours = preprocessed(Preprocessing('training', center_crop=True), expected['input'])
    check_close(ours, expected['resize_then_center_crop'], 2e-4)


@pytest.mark.parametrize('name', GOLDEN_PICTURES)
def test_jpeg_is_nearly_tensorflows(name: str) -> None:
    """Qualities 94 and 96 would differ by 2.7 and more, 4:2:2 by 4.7."""
    expected = golden(name)
    ours = np.asarray(jpeg_round_trip(Image.fromarray(expected['input'])))
    assert np.abs(ours.astype(int) - expected['jpeg_roundtrip']).mean() < 1.5
    ours = preprocessed(Preprocessing('training', center_crop=True), expected['input'])
    assert np.abs(ours.astype(int) - expected['resize_then_center_crop']).mean() < 1.5


@pytest.mark.parametrize(
    ('height', 'width'),
    [
        *((1, 1), (1, 500), (500, 1), (3, 7), (223, 225), (224, 225), (480, 224), (480, 640)),
        *((1080, 1920), (8192, 16)),
    ],
)
def test_lanczos_is_the_plain_formula_for_every_size(height: int, width: int) -> None:
    image = noise(height, width)
    check_close(resized(image), plain_lanczos3(image), 1e-4)


@pytest.mark.parametrize(
    ('height', 'width'), [(1, 1), (1, 500), (500, 1), (3, 7), (223, 225), (3000, 4001), (8192, 16)]
)
def test_a_picture_of_one_colour_keeps_it_whatever_its_size(height: int, width: int) -> None:
    for level in (0, 1, 77, 128, 254, 255):
        image = np.full((height, width, 3), level, np.uint8)
        pixels = resized(image)
        assert pixels.shape == (*SIZE, 3)
        assert (pixels == level).all()
        assert (center_cropped(pixels, SIZE) == level).all()


@pytest.mark.parametrize('how', [TRAINING, LIBERO])
@pytest.mark.parametrize(
    ('height', 'width'), [(1, 1), (1, 500), (500, 1), (3, 7), (225, 223), (3000, 4001), (65500, 1)]
)
@pytest.mark.parametrize('name', ['openvla_tiny', 'openvla_v01_tiny'])
def test_every_size_is_shown_as_it_was_preprocessed(
    name: str, height: int, width: int, how: Preprocessing
) -> None:
    """The processor has nothing left to resize, and v01's no border to add."""
    towers = OpenVLAConfig.from_directory(GOLDEN / name).towers
    processor = ImageProcessor.from_directory(GOLDEN / name, towers, how)
    image = noise(height, width)
    pictures = processor.model_images(image)
    assert len(pictures) == len(towers)
    for picture in pictures:
        assert np.array_equal(picture, preprocessed(how, image))
        assert picture.shape == (*SIZE, 3)
        assert picture.dtype == np.uint8


def test_a_picture_too_large_for_jpeg_is_refused_in_training_mode_only() -> None:
    image = noise(1, 65501)
    with pytest.raises(ValueError, match=r'image is 65501 x 1 .* at most 65500 each .* mode raw'):
        preprocessed(TRAINING, image)
    assert np.array_equal(preprocessed(Preprocessing(), image), image)


def test_jpeg_is_applied_to_a_picture_of_the_towers_size_as_well() -> None:
    picture = Image.fromarray(noise(*SIZE))
    shown = TRAINING(picture, SIZE)
    assert np.array_equal(shown, jpeg_round_trip(picture))
    assert not np.array_equal(shown, picture)


@pytest.mark.parametrize('mode', ['raw', 'training'])
def test_rotation_comes_before_all_else(mode: str) -> None:
    image = noise(97, 131)
    rotated = preprocessed(Preprocessing(mode, rotate_180=True), image)
    assert np.array_equal(rotated, preprocessed(Preprocessing(mode), image[::-1, ::-1].copy()))


def test_raw_is_nothing() -> None:
    image = noise(97, 131)
    assert np.array_equal(preprocessed(Preprocessing(), image), image)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'mode': 'tensorflow'}, "mode 'tensorflow' is unknown; expected one of raw, training"),
        ({'mode': ''}, "mode '' is unknown"),
        ({'center_crop': True}, 'mode is raw: .* set mode to training, or center_crop to false'),
    ],
)
def test_what_does_not_exist_or_fit_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(PreprocessingError, match=words):
        Preprocessing(**arguments)


def test_the_policy_sees_and_shows_what_was_preprocessed(tiny_checkpoint: Path) -> None:
    image = noise(480, 640)
    shown = {}
    for how in (Preprocessing(), Preprocessing(rotate_180=True), TRAINING, LIBERO):
        one = OpenVLAPolicy.from_pretrained(
            tiny_checkpoint, device='cpu', dtype='float32', preprocessing=how
        )
        first, again = (one.predict_action(image, 'go', return_logits=True) for _ in range(2))
        expected = Image.fromarray(preprocessed(how, image)).resize(SIZE, Image.Resampling.BICUBIC)
        assert np.array_equal(first.model_images['image'], expected)
        assert again.model_images['image'] is first.model_images['image']
        shown[how] = first
    logits = {prediction.tokens.logits.tobytes() for prediction in shown.values()}
    assert len(logits) == len(shown)


def test_the_warmup_goes_the_same_way(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = []

    def noted(picture: Image.Image) -> Image.Image:
        pictures.append(picture)
        return jpeg_round_trip(picture)

    monkeypatch.setattr(preprocessing, 'jpeg_round_trip', noted)
    one = OpenVLAPolicy.from_pretrained(
        tiny_checkpoint, device='cpu', dtype='float32', preprocessing=LIBERO
    )
    one.warmup()
    assert len({picture.tobytes() for picture in pictures}) >= 3  # black, white, noise
    assert one.predict_action(noise(480, 640), 'go').invalid is None
