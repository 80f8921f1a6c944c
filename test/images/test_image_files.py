# SPDX-License-Identifier: Apache-2.0
"""Image files are read as a person sees them in a viewer, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from numpy.typing import NDArray

from vla_ros.images.files import UnreadableImage, read_image

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
LEVELS = np.arange(0, 65536, 68, dtype=np.uint16)[:960].reshape(24, 40)


def written(folder: Path, name: str, image: PIL.Image.Image, orientation: int = 1) -> Path:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image.save(folder / name, exif=exif)
    return folder / name


@pytest.mark.parametrize('name', ['image.png', 'image.jpg', 'image.webp', 'image.tiff'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_it_is_upright(tmp_path: Path, name: str, orientation: int) -> None:
    lying = PIL.Image.fromarray(NOISE)
    as_stored = read_image(written(tmp_path, name, lying))
    shown = read_image(written(tmp_path, name, lying, orientation))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    expected = PIL.Image.fromarray(as_stored)
    expected.getexif().update(exif)
    np.testing.assert_array_equal(shown, np.asarray(PIL.ImageOps.exif_transpose(expected)))
    assert shown.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))


@pytest.mark.parametrize('name', ['gray.png', 'gray.tif'])
def test_16_bits_are_scaled(tmp_path: Path, name: str) -> None:
    PIL.Image.fromarray(LEVELS).save(tmp_path / name)
    expected = np.rint(LEVELS / 257).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / name), np.dstack([expected] * 3))


def test_16_bits_of_colour_are_scaled(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / 'colour.png'), np.dstack([LEVELS, LEVELS // 2, LEVELS // 4]))
    rgb = read_image(tmp_path / 'colour.png')
    expected = np.dstack([LEVELS // 4, LEVELS // 2, LEVELS]) / 257
    assert np.abs(rgb - expected).max() <= 1


@pytest.mark.parametrize(
    ('mode', 'name'),
    [
        ('L', 'image.jpg'),
        ('CMYK', 'image.jpg'),
        ('LA', 'image.png'),
        ('RGBA', 'image.png'),
        ('P', 'image.gif'),
        ('1', 'image.png'),
        ('RGB', 'image.bmp'),
    ],
)
def test_it_has_three_channels(tmp_path: Path, mode: str, name: str) -> None:
    PIL.Image.fromarray(NOISE).convert(mode).save(tmp_path / name)
    assert read_image(tmp_path / name).shape == NOISE.shape


def test_a_name_does_not_tell_what_it_is(tmp_path: Path) -> None:
    PIL.Image.fromarray(NOISE).save(tmp_path / 'photo.jpg', 'PNG')
    np.testing.assert_array_equal(read_image(tmp_path / 'photo.jpg'), NOISE)


def jpeg(folder: Path, **options: object) -> bytes:
    smooth: NDArray[np.uint8] = cv2.resize(NOISE, (320, 240))
    PIL.Image.fromarray(smooth).save(folder / 'sound.jpg', **options)
    return (folder / 'sound.jpg').read_bytes()


@pytest.mark.parametrize('progressive', [False, True])
@pytest.mark.parametrize('end', [b'', b'\xff\xd9'])
def test_half_a_jpeg_is_no_picture(tmp_path: Path, progressive: bool, end: bytes) -> None:
    data = jpeg(tmp_path, progressive=progressive)
    (tmp_path / 'half.jpg').write_bytes(data[: len(data) // 2] + end)
    with pytest.raises(UnreadableImage, match='cannot be read as an image: '):
        read_image(tmp_path / 'half.jpg')


@pytest.mark.parametrize('values', [np.float32, np.int32])
def test_a_depth_image_is_no_picture(tmp_path: Path, values: type) -> None:
    PIL.Image.fromarray(LEVELS.astype(values)).save(tmp_path / 'depth.tif')
    with pytest.raises(UnreadableImage, match='32 bits a pixel, as a depth image has'):
        read_image(tmp_path / 'depth.tif')


@pytest.mark.parametrize('size', [(8001, 8000), (14_000, 14_000)])
def test_it_is_bounded(tmp_path: Path, size: tuple[int, int]) -> None:
    PIL.Image.new('1', size).save(tmp_path / 'large.png')
    with pytest.raises(UnreadableImage, match='cannot be read as an image: '):
        read_image(tmp_path / 'large.png')
