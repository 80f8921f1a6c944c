# SPDX-License-Identifier: Apache-2.0
"""ROS pictures to RGB: bit for bit what OpenCV gives, and one clear error for everything else."""

from __future__ import annotations

import functools
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import cv_bridge  # noqa: F401 - what these tests try out must be there
import numpy as np
import PIL.Image
import pytest
import simplejpeg
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from vla_ros.images import cv_bridge as trial
from vla_ros.images.compressed import compressed_to_rgb
from vla_ros.images.encodings import ENCODINGS
from vla_ros.images.pixel_formats import to_8_bit
from vla_ros.images.raw import UnusableImage, backend, image_to_rgb

BAYER = {
    'rggb': cv2.COLOR_BayerBG2RGB,
    'bggr': cv2.COLOR_BayerRG2RGB,
    'gbrg': cv2.COLOR_BayerGR2RGB,
    'grbg': cv2.COLOR_BayerGB2RGB,
}
# encoding: channels, bytes per value, OpenCV's conversion (None: there is nothing to convert)
OPENCV: dict[str, tuple[int, int, int | None]] = {
    'rgb8': (3, 1, None),
    'bgr8': (3, 1, cv2.COLOR_BGR2RGB),
    'rgba8': (4, 1, cv2.COLOR_RGBA2RGB),
    'bgra8': (4, 1, cv2.COLOR_BGRA2RGB),
    'mono8': (1, 1, cv2.COLOR_GRAY2RGB),
    'yuv422': (2, 1, cv2.COLOR_YUV2RGB_UYVY),
    'uyvy': (2, 1, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': (2, 1, cv2.COLOR_YUV2RGB_YUY2),
    'yuyv': (2, 1, cv2.COLOR_YUV2RGB_YUY2),
    **{f'bayer_{pattern}8': (1, 1, code) for pattern, code in BAYER.items()},
    **{f'bayer_{pattern}16': (1, 2, code) for pattern, code in BAYER.items()},
}
SIZES = [(3, 4), (3, 3), (4, 5), (5, 6), (37, 54), (480, 640)]  # height, width


def noise(shape: tuple[int, ...], limit: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, limit, shape)


def extremes(shape: tuple[int, ...], limit: int) -> NDArray[np.int64]:
    return noise(shape, 2) * (limit - 1)


def scene(shape: tuple[int, ...], limit: int) -> NDArray[np.int64]:
    """Like a photograph: slow gradients, a sharp edge and a little noise."""
    y, x, channel = np.indices(shape)
    light = 0.5 + 0.3 * np.sin(x / 37 + channel) + 0.2 * np.cos(y / 23 - x / 91)
    light = np.where(x + 2 * y < shape[1], light / 3, light)
    return (light * limit + noise(shape, 8)).clip(0, limit - 1).astype(np.int64)


def picture(encoding: str, size: tuple[int, int], content: Callable[..., Any]) -> NDArray[Any]:
    channels, value_bytes, _ = OPENCV[encoding]
    return content((*size, channels), 256**value_bytes).astype(f'u{value_bytes}')


def message_of(
    pixels: NDArray[Any], encoding: str, padding: int = 0, big_endian: bool = False
) -> Image:
    """:param padding: bytes behind each row."""
    height, width = pixels.shape[:2]
    ordered = pixels.astype(pixels.dtype.newbyteorder('>' if big_endian else '<'))
    rows = np.frombuffer(ordered.tobytes(), np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAB)
    return Image(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=big_endian,
        step=rows.shape[1],
        data=rows.tobytes(),
    )


def opencv_rgb(pixels: NDArray[Any], encoding: str) -> NDArray[np.uint8]:
    code = OPENCV[encoding][2]
    rgb = pixels if code is None else cv2.cvtColor(pixels, code)
    return cv2.convertScaleAbs(rgb, alpha=255 / 65535) if rgb.dtype == np.uint16 else rgb


@pytest.fixture(autouse=True)
def untried() -> Iterator[None]:
    """Each test meets cv_bridge for the first time."""
    trial.verdict.cache_clear()
    yield
    trial.verdict.cache_clear()


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, 'verdict', trial.Verdict)


# Image


def test_every_encoding_is_compared() -> None:
    assert set(OPENCV) == set(ENCODINGS)


@pytest.mark.usefixtures('direct')
@pytest.mark.parametrize('content', [noise, extremes, scene])
@pytest.mark.parametrize('encoding', OPENCV)
def test_direct_is_bit_for_bit_opencv(encoding: str, content: Callable[..., Any]) -> None:
    multiple = ENCODINGS[encoding].width_multiple
    for height, width in [(height, width - width % multiple) for height, width in SIZES]:
        pixels = picture(encoding, (height, width), content)
        expected = opencv_rgb(pixels, encoding)
        for padding in (0, 5, 64):
            rgb = image_to_rgb(message_of(pixels, encoding, padding))
            assert rgb.dtype == np.uint8
            np.testing.assert_array_equal(rgb, expected, f'{height}x{width}, padding {padding}')


@pytest.mark.usefixtures('direct')
@pytest.mark.parametrize('padding', [0, 3])
@pytest.mark.parametrize('encoding', [name for name in OPENCV if name.endswith('16')])
def test_big_endian(encoding: str, padding: int) -> None:
    pixels = picture(encoding, (37, 54), noise)
    message = message_of(pixels, encoding, padding, big_endian=True)
    np.testing.assert_array_equal(image_to_rgb(message), opencv_rgb(pixels, encoding))


def test_every_16_bit_level_is_rounded_as_cv_bridge_does() -> None:
    levels = np.arange(65536).reshape(256, 256)
    assert np.array_equal(to_8_bit(levels.astype(np.uint16)), np.rint(levels * 255 / 65535))


def test_rgb8_is_a_read_only_view() -> None:
    message = message_of(picture('rgb8', (4, 6), noise), 'rgb8', padding=2)
    rgb = image_to_rgb(message)
    assert np.shares_memory(rgb, np.frombuffer(message.data, np.uint8))
    assert not rgb.flags.writeable
    assert trial.verdict.cache_info().misses == 0  # nobody asked about cv_bridge


def test_surplus_data_is_ignored() -> None:
    pixels = picture('bgr8', (4, 6), noise)
    message = message_of(pixels, 'bgr8')
    message.data = message.data.tobytes() + bytes(7)
    np.testing.assert_array_equal(image_to_rgb(message), pixels[..., ::-1])


@pytest.mark.usefixtures('direct')
@pytest.mark.parametrize(
    ('encoding', 'fields', 'parts'),
    [
        ('rgb8', {'width': 0}, ['0 x 4', 'at least 1']),
        ('rgb8', {'height': 0}, ['6 x 0', 'at least 1']),
        ('bayer_rggb8', {'width': 2}, ['2 x 4', 'at least 3']),
        ('bayer_grbg16', {'height': 2}, ['6 x 2', 'at least 3']),
        ('rgb8', {'step': 17}, ['step is 17', 'at least 18']),
        ('bayer_rggb16', {'step': 11}, ['step is 11', 'at least 12']),
        ('rgb8', {'data': bytes(71)}, ['71 bytes', 'step 18 times height 4', '72']),
        ('rgb8', {'data': b''}, ['0 bytes', '72']),
        ('rgb8', {'step': 2**32 - 1}, ['72 bytes', str(4 * (2**32 - 1))]),
        ('yuv422', {'width': 5}, ['width 5 is odd', 'yuv422']),
        ('yuyv', {'width': 5}, ['width 5 is odd', 'yuyv']),
        ('rgb8', {'width': 2**32 - 1, 'height': 2**32 - 1}, ['4294967295', 'at most 64000000']),
        ('mono8', {'width': 8001, 'height': 8000}, ['8001 x 8000', 'at most 64000000']),
        ('mono8', {'width': 8193, 'height': 1}, ['8193 x 1', 'at most 8192 each']),
        ('rgb8', {'encoding': 'RGB8'}, ["'RGB8'", 'allowed are', *OPENCV]),
        ('rgb8', {'encoding': ''}, ["''", 'allowed are']),
        ('rgb8', {'encoding': '8UC3'}, ["'8UC3'", 'allowed are']),
        ('rgb8', {'encoding': 'x' * 10**6}, ["x' is not supported"]),
        *(
            ('rgb8', {'encoding': name}, [repr(name), 'depth', 'colour topic'])
            for name in ('16UC1', '16SC1', '32FC1', '64FC1', '32SC1', 'mono16')
        ),
    ],
)
def test_unusable_image(encoding: str, fields: dict[str, Any], parts: list[str]) -> None:
    message = message_of(picture(encoding, (4, 6), noise), encoding)
    for name, value in fields.items():
        setattr(message, name, value)
    with pytest.raises(UnusableImage) as caught:
        image_to_rgb(message)
    assert len(str(caught.value)) < 500
    for part in parts:
        assert part in str(caught.value)


# CompressedImage


def encoded(extension: str, pixels: NDArray[Any], *options: int) -> CompressedImage:
    """:param pixels: as OpenCV has them, BGR."""
    data = cv2.imencode(f'.{extension}', pixels, options)[1].tobytes()
    return CompressedImage(format=extension, data=data)


def saved(image: PIL.Image.Image, kind: str, **options: Any) -> CompressedImage:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return CompressedImage(format=kind.lower(), data=buffer.getvalue())


def scene_bgr(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    return scene((height, width, 3), 256).astype(np.uint8)


@pytest.mark.parametrize('sampling', [0x411111, 0x221111, 0x211111, 0x111111])
@pytest.mark.parametrize('quality', [30, 80, 95])
@pytest.mark.parametrize('size', [(37, 53), (480, 640)])
def test_jpeg_is_bit_for_bit_opencv(size: tuple[int, int], quality: int, sampling: int) -> None:
    options = (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    message = encoded('jpg', scene_bgr(*size), *options)
    bgr = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(compressed_to_rgb(message), bgr[..., ::-1])


def test_png_is_exact() -> None:
    bgr = scene_bgr()
    alpha = noise((48, 64, 1), 256).astype(np.uint8)
    for pixels in (bgr, np.concatenate([bgr, alpha], 2)):
        rgb = compressed_to_rgb(encoded('png', pixels))
        np.testing.assert_array_equal(rgb, bgr[..., ::-1])


@pytest.mark.parametrize('extension', ['jpg', 'png'])
def test_compressed_gray_is_repeated(extension: str) -> None:
    message = encoded(extension, scene_bgr()[..., 0])
    gray = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(compressed_to_rgb(message), np.repeat(gray[..., None], 3, 2))


def test_format_is_told_by_the_bytes() -> None:
    message = encoded('png', scene_bgr())
    message.format = 'rgb8; jpeg compressed bgr8'
    assert compressed_to_rgb(message).shape == (48, 64, 3)


@pytest.mark.parametrize('extension', ['jpg', 'png'])
@pytest.mark.parametrize(
    ('description', 'is_swapped'),
    [
        ('', False),
        ('jpeg', False),
        ('rgb8', False),
        ('rgb8; jpeg compressed bgr8', False),
        ('bgra8; png compressed bgr8', False),
        ('rgb16; png compressed bgr16', False),
        ('mono8; jpeg compressed mono8', False),
        ('yuv422; jpeg compressed rgb8', False),  # no colours to ROS's subscriber
        ('rgb8; jpeg compressed rgb8', True),
        ('bgr8; jpeg compressed', True),
        ('rgba8; png compressed rgba8', True),
    ],
)
def test_colours_are_in_the_order_that_ros_reads(
    extension: str, description: str, is_swapped: bool
) -> None:
    message = encoded(extension, scene_bgr())
    as_stored = compressed_to_rgb(message)
    message.format = description
    rgb = compressed_to_rgb(message)
    np.testing.assert_array_equal(rgb, as_stored[:, :, ::-1] if is_swapped else as_stored)
    assert rgb.flags.c_contiguous


@pytest.mark.parametrize(
    ('description', 'why'),
    [
        ('16UC1; jpeg compressed mono8', 'depth image'),
        ('mono16; png compressed mono8', 'depth image'),
        ('32FC1; png compressed mono8', 'depth image'),
        ('bayer_rggb8; jpeg compressed mono8', 'Bayer mosaic'),
        ('bayer_grbg16; png compressed bgr8', 'Bayer mosaic'),
    ],
)
def test_what_was_no_picture_before_it_was_compressed(description: str, why: str) -> None:
    message = encoded('png', scene_bgr())
    message.format = description
    with pytest.raises(UnusableImage, match=why):
        compressed_to_rgb(message)


def without_huffman_tables(jpeg: bytes) -> bytes:
    """As the MJPEG stream of a USB camera has it; an encoder with standard tables is assumed."""
    head, position = jpeg[:2], 2
    while jpeg[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], 'big')
        head += b'' if jpeg[position + 1] == 0xC4 else jpeg[position:end]
        position = end
    return head + jpeg[position:]


def test_a_jpeg_without_huffman_tables_has_the_standard_ones() -> None:
    sound = saved(PIL.Image.fromarray(scene_bgr()), 'JPEG')
    bare = without_huffman_tables(bytes(sound.data))
    assert len(bare) < len(sound.data) - 400
    rgb = compressed_to_rgb(CompressedImage(format='jpeg', data=bare))
    np.testing.assert_array_equal(rgb, compressed_to_rgb(sound))


@pytest.mark.parametrize('zeros', [1, 2, 3, 8, 64, 4096])
@pytest.mark.parametrize('progressive', [False, True])
def test_a_jpeg_padded_with_zeros_is_whole(zeros: int, progressive: bool) -> None:
    for seed in range(40):  # some end with 0xFF, 0x00
        sound = saved(PIL.Image.fromarray(scene_bgr(40 + seed)), 'JPEG', progressive=progressive)
        data = bytes(sound.data)
        padded = CompressedImage(format='jpeg', data=data[:-2] + bytes(zeros) + data[-2:])
        np.testing.assert_array_equal(compressed_to_rgb(padded), compressed_to_rgb(sound))


def test_exif_orientation_is_not_applied() -> None:
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    image = PIL.Image.fromarray(scene_bgr())
    rgb = compressed_to_rgb(saved(image, 'JPEG', exif=turned))
    np.testing.assert_array_equal(rgb, compressed_to_rgb(saved(image, 'JPEG')))


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends where its pixels should begin."""
    chunk = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    head = b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + chunk
    return head + struct.pack('>II', zlib.crc32(chunk), 100) + b'IDAT'


@pytest.mark.parametrize(
    ('message', 'parts'),
    [
        (CompressedImage(format='jpeg'), ["'jpeg'", 'no data']),
        (CompressedImage(format='x' * 10**6), ["x' has no data"]),
        (
            CompressedImage(format='jpeg', data=bytes(32_000_001)),
            ['32000001 bytes', 'at most 32000000'],
        ),
        (CompressedImage(format='h264', data=b'\0\0\0\1gB'), ["'h264'", '6 bytes', 'JPEG or PNG']),
        (CompressedImage(format='jpeg', data=b'\xff\xd8\xff'), ['3 bytes', 'not a complete JPEG']),
        (encoded('bmp', scene_bgr()), ["'bmp'", 'not a complete JPEG or PNG']),
        (encoded('png', scene((8, 9, 1), 65536).astype(np.uint16)), ['depth', 'colour topic']),
        (
            CompressedImage(format='16UC1; compressedDepth png', data=b'\0' * 20),
            ["'16UC1; compressedDepth png'", 'depth image', 'colour topic'],
        ),
        (saved(PIL.Image.new('CMYK', (8, 8)), 'JPEG'), ['kind CMYK', 'allowed are RGB']),
        (saved(PIL.Image.new('P', (8, 8)), 'PNG'), ['kind P', 'allowed are RGB']),
        (
            CompressedImage(format='png', data=png_header(8001, 8000)),
            ['8001 x 8000', 'at most 64000000'],
        ),
        (CompressedImage(format='png', data=png_header(10000, 9001)), ['pixels']),
        (CompressedImage(format='png', data=png_header(2**31 - 1, 2**31 - 1)), ['not a complete']),
    ],
)
def test_unusable_compressed_image(message: CompressedImage, parts: list[str]) -> None:
    with pytest.raises(UnusableImage) as caught:
        compressed_to_rgb(message)
    assert len(str(caught.value)) < 500
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize('extension', ['jpg', 'png'])
def test_cut_off_is_an_error_not_half_a_picture(extension: str) -> None:
    message = encoded(extension, scene_bgr())
    whole = compressed_to_rgb(message)
    data = message.data.tobytes()
    refused = 0
    for length in range(1, len(data)):
        try:
            rgb = compressed_to_rgb(CompressedImage(format=extension, data=data[:length]))
        except UnusableImage:
            refused += 1
        else:  # only the end mark is missing
            np.testing.assert_array_equal(rgb, whole, f'cut at {length} of {len(data)}')
    assert refused > len(data) - 30


def photographs(count: int, random: np.random.Generator) -> Iterator[PIL.Image.Image]:
    """Parts of a photograph, 320 x 240."""
    with get_sample_data('grace_hopper.jpg') as file, PIL.Image.open(file) as photograph:
        width, height = photograph.size
        for _ in range(count):
            share = random.uniform(0.5, 1.0)
            left, top = random.uniform(0, 1 - share, 2)
            box = (left * width, top * height, (left + share) * width, (top + share) * height)
            yield photograph.convert('RGB').resize((320, 240), box=box)


@pytest.mark.parametrize('kind', ['cut', 'cut, with an end mark', 'gap', 'zeros'])
def test_a_damaged_photograph_is_no_picture(kind: str) -> None:
    random = np.random.default_rng(0)
    refused = 0
    for photograph in photographs(100, random):
        jpeg = bytes(saved(photograph, 'JPEG', quality=int(random.integers(60, 96))).data)
        broken = damaged(jpeg, 'cut, with an end mark' if kind == 'cut' else kind, random)
        broken = broken[:-2] if kind == 'cut' else broken
        try:
            compressed_to_rgb(CompressedImage(format='jpeg', data=broken))
        except UnusableImage:
            refused += 1
    print(f'{refused} of 100')
    assert refused >= 95


SOUND: dict[str, Callable[[PIL.Image.Image], CompressedImage]] = {
    'quality 75': lambda image: saved(image, 'JPEG'),
    'quality 30': lambda image: saved(image, 'JPEG', quality=30),
    'quality 95, whole colours': lambda image: saved(image, 'JPEG', quality=95, subsampling=0),
    'half colours': lambda image: saved(image, 'JPEG', subsampling=1),
    'optimized': lambda image: saved(image, 'JPEG', optimize=True),
    'progressive': lambda image: saved(image, 'JPEG', progressive=True),
    'restart markers': lambda image: saved(image, 'JPEG', restart_marker_rows=1),
    'gray': lambda image: saved(image.convert('L'), 'JPEG'),
    'OpenCV': lambda image: encoded('jpg', np.asarray(image)),
    'turbo, a quarter of the colours': lambda image: CompressedImage(
        data=simplejpeg.encode_jpeg(np.ascontiguousarray(image), 80, 'RGB', '411')
    ),
}


@pytest.mark.parametrize('encoder', SOUND)
def test_sound_photographs_are_pictures(encoder: str) -> None:
    for photograph in photographs(100, np.random.default_rng(1)):
        assert compressed_to_rgb(SOUND[encoder](photograph)).shape == (240, 320, 3)


def damaged(jpeg: bytes, kind: str, random: np.random.Generator) -> bytes:
    """A JPEG that lost a part of its first scan, and ends as it should."""
    begin = jpeg.index(b'\xff\xda') + 14
    size = len(jpeg) - 2 - begin
    at = begin + int(size * random.uniform(0.05, 0.8))
    lost = int(random.integers(500, 1500))
    if kind == 'cut, with an end mark':
        return jpeg[:at] + b'\xff\xd9'
    filled = {'gap': b'', 'zeros': bytes(lost), 'noise': random.bytes(lost)}[kind]
    return jpeg[:at] + filled + jpeg[at + lost :]


@pytest.mark.parametrize(
    'options',
    [
        {'quality': 90},
        {'quality': 90, 'subsampling': 0},
        {'quality': 90, 'progressive': True},
        {'quality': 75, 'optimize': True},
        {'quality': 85, 'restart_marker_rows': 1},
    ],
)
@pytest.mark.parametrize('kind', ['cut, with an end mark', 'gap', 'zeros', 'noise'])
def test_a_jpeg_that_lost_a_part_is_no_picture(kind: str, options: dict[str, Any]) -> None:
    """libjpeg fills what is missing; all of this was used once, half of it gray."""
    random = np.random.default_rng(0)
    found = 0
    for turn in range(40):
        pixels = noise((240, 320, 3), 256) if turn % 2 else scene_bgr(240, 320)
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(buffer, 'JPEG', **options)
        sound = CompressedImage(format='jpeg', data=buffer.getvalue())
        assert compressed_to_rgb(sound).shape == (240, 320, 3)
        broken = damaged(buffer.getvalue(), kind, random)
        try:
            compressed_to_rgb(CompressedImage(format='jpeg', data=broken))
        except UnusableImage:
            found += 1
    # What is missing may by chance be followed by the very bits that go on with it.
    print(f'{found} of 40')
    assert found == 40 if kind == 'cut, with an end mark' else found >= 30


@pytest.mark.parametrize('extension', ['jpg', 'png'])
def test_broken_bytes_raise_nothing_else(extension: str) -> None:
    random = np.random.default_rng(0)
    data = np.frombuffer(encoded(extension, scene_bgr(16, 24)).data, np.uint8)
    for _ in range(500):
        broken = data.copy()
        broken[random.integers(0, len(data), 3)] = random.integers(0, 256, 3)
        try:
            rgb = compressed_to_rgb(CompressedImage(format=extension, data=broken.tobytes()))
        except UnusableImage:
            continue
        assert rgb.dtype == np.uint8
        assert rgb.shape[2] == 3


# Bombs: few bytes that ask for much memory or time


def png_chunk(kind: bytes, content: bytes) -> bytes:
    length, check = (struct.pack('>I', n) for n in (len(content), zlib.crc32(kind + content)))
    return length + kind + content + check


@functools.cache
def deflated_zeros(count: int) -> bytes:
    deflate = zlib.compressobj(9)
    blocks = [deflate.compress(bytes(min(1 << 24, count - i))) for i in range(0, count, 1 << 24)]
    return b''.join(blocks) + deflate.flush()


def png(
    width: int,
    height: int,
    *more: tuple[bytes, bytes],
    depth: int = 8,
    pixel_bytes: int | None = None,
) -> bytes:
    """
    :param more: chunks before the pixels.
    :param pixel_bytes: so many zeros are the pixels; just enough if None.
    """
    header = struct.pack('>IIBBBBB', width, height, depth, 2, 0, 0, 0)
    pixels = deflated_zeros(pixel_bytes or height * (1 + width * 3 * depth // 8))
    chunks = [(b'IHDR', header), *more, (b'IDAT', pixels), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(png_chunk(*chunk) for chunk in chunks)


def jpeg(kind: str = 'JPEG', **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(scene_bgr()).save(buffer, kind, **options)
    return buffer.getvalue()


def with_size(data: bytes, width: int, height: int) -> bytes:
    """The same JPEG, its frame header lying."""
    at = next(at for mark in (b'\xff\xc0', b'\xff\xc2') if (at := data.find(mark)) > 0) + 5
    return data[:at] + struct.pack('>HH', height, width) + data[at + 4 :]


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = jpeg(progressive=True)
    last = data[data.rindex(b'\xff\xda') : -2]
    return data[:-2] + last * count + data[-2:]


HUGE = 500_000_000
PARTS = 'more than 10000 segments or chunks'
TWO = PIL.Image.new('RGB', (8, 8))
# What each becomes: a size, or part of the error.
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    'PNG of 900 megapixels': (lambda: png(30_000, 30_000, pixel_bytes=HUGE), 'decompression bomb'),
    'PNG of 81 megapixels': (lambda: png(9_000, 9_000), 'at most 64000000'),
    'zTXt': (lambda: png(8, 6, (b'zTXt', b'a\0\0' + deflated_zeros(HUGE))), 'MAX_TEXT_CHUNK'),
    'iTXt': (
        lambda: png(8, 6, (b'iTXt', b'a\0\1\0\0\0' + deflated_zeros(HUGE))),
        'MAX_TEXT_CHUNK',
    ),
    'iCCP': (lambda: png(8, 6, (b'iCCP', b'a\0\0' + deflated_zeros(HUGE))), 'MAX_TEXT_CHUNK'),
    'a thousand zTXt': (
        lambda: png(8, 6, *[(b'zTXt', b'a\0\0' + deflated_zeros(10**6))] * 1000),
        'MAX_TEXT_MEMORY',
    ),
    'surplus pixels': (lambda: png(8, 6, pixel_bytes=HUGE), '8 x 6'),
    'APNG of 2^31 frames': (
        lambda: png(8, 6, (b'acTL', struct.pack('>II', 2**31 - 1, 0))),
        '8 x 6',
    ),
    'APNG with a larger frame': (
        lambda: png(
            8,
            6,
            (b'acTL', struct.pack('>II', 2, 0)),
            (b'fcTL', struct.pack('>IIIIIHHBB', 0, 8000, 8000, 0, 0, 1, 1, 0, 0)),
        ),
        'not a complete JPEG or PNG',
    ),
    '16 bits a channel': (lambda: png(8, 6, depth=16), '8 x 6'),
    'JPEG of 4 gigapixels': (lambda: with_size(jpeg(), 65_500, 65_500), 'decompression bomb'),
    'JPEG without a height': (lambda: with_size(jpeg(), 64, 0), 'not a complete JPEG or PNG'),
    'JPEG of 1000 scans': (lambda: with_scans(1000), 'at most 32'),
    'progressive JPEG': (lambda: jpeg(progressive=True), '64 x 48'),
    'several pictures': (
        lambda: jpeg('MPO', save_all=True, append_images=[TWO] * 3),
        '64 x 48',
    ),
    'a thousand segments': (
        lambda: jpeg()[:2] + b'\xff\xe5\0\4ab' * 1000 + jpeg()[2:],
        '64 x 48',
    ),
    'millions of segments': (lambda: jpeg()[:2] + b'\xff\xfe\0\2' * 7_000_000, PARTS),
    'millions of fill bytes': (lambda: jpeg()[:2] + b'\xff' * 30_000_000 + jpeg()[2:], PARTS),
    'millions of stray bytes': (
        lambda: jpeg()[:20] + b'\1' * 30_000_000 + jpeg()[20:],
        PARTS,
    ),
    'millions of chunks': (lambda: png(8, 6, *[(b'abCd', b'')] * 2_000_000), PARTS),
    'millions of texts': (lambda: png(8, 6, *[(b'tEXt', b'a\0')] * 2_000_000), PARTS),
    'a PNG in many pieces': (lambda: png(8, 6, *[(b'IDAT', b'')] * 9000), '8 x 6'),
}
DECODE_ALL = """
import resource, sys
from pathlib import Path
from sensor_msgs.msg import CompressedImage
from vla_ros.images.compressed import compressed_to_rgb
from vla_ros.images.raw import UnusableImage

def peak():
    status = Path('/proc/self/status')
    if status.exists():  # where ru_maxrss begins with that of the parent
        return int(status.read_text().partition('VmHWM:')[2].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

for path in sys.argv[1:]:
    message = CompressedImage(data=Path(path).read_bytes())
    before = peak()
    try:
        height, width, _ = compressed_to_rgb(message).shape
        print(peak() - before, f'{width} x {height}')
    except UnusableImage as error:
        print(peak() - before, error)
"""


def decode_elsewhere(folder: Path, pictures: list[bytes]) -> list[tuple[float, str]]:
    """In a process of their own: by how many MB each raised its peak, and what became of it."""
    paths = [folder / str(number) for number in range(len(pictures))]
    for path, data in zip(paths, pictures, strict=True):
        path.write_bytes(data)
    told = subprocess.run(
        [sys.executable, '-c', DECODE_ALL, *paths],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    rows = [line.partition(' ') for line in told.stdout.splitlines()]
    return [(float(peak_mb), what) for peak_mb, _, what in rows]


def test_bombs_do_not_go_off(tmp_path: Path) -> None:
    outcomes = decode_elsewhere(tmp_path, [make() for make, _ in BOMBS.values()])
    for (name, (_, expected)), (peak_mb, what) in zip(BOMBS.items(), outcomes, strict=True):
        print(f'{name}: {peak_mb:.0f} MB, {what}')
        assert expected in what, name
        assert peak_mb < 50, name


def test_the_largest_picture_takes_a_bounded_room(tmp_path: Path) -> None:
    gray = io.BytesIO()
    PIL.Image.new('RGB', (8000, 8000), 'gray').save(gray, 'JPEG')
    pictures = [png(8000, 8000), gray.getvalue()]
    for peak_mb, what in decode_elsewhere(tmp_path, pictures):
        assert what == '8000 x 8000'
        assert peak_mb < 1100


# cv_bridge

RIGHT_FOR_MONO8 = """
import numpy as np
print('noise of an import')
seen = []
class CvBridge:
    def imgmsg_to_cv2(self, message, encoding):
        seen.append((message.encoding, message.step == message.width))
        if message.encoding != 'mono8':
            raise TypeError('not that one')
        gray = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 1)
        return gray.repeat(3, 2)
"""
WRONG_VALUES = """
import numpy as np
class CvBridge:
    def imgmsg_to_cv2(self, message, encoding):
        return np.zeros((message.height, message.width, 3), np.uint8)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """:returns: puts a cv_bridge of the given source in front of the installed one."""

    def put(source: str) -> None:
        (tmp_path / 'cv_bridge.py').write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.partition('.')[0] == 'cv_bridge']:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, 'cv_bridge', None)  # so that it is put back afterwards
        del sys.modules['cv_bridge']

    return put


def assert_all_encodings_right() -> None:
    for encoding in OPENCV:
        pixels = picture(encoding, (38, 54), scene)
        for padding in (0, 5):
            rgb = image_to_rgb(message_of(pixels, encoding, padding))
            assert rgb.dtype == np.uint8
            np.testing.assert_array_equal(rgb, opencv_rgb(pixels, encoding), encoding)


def test_installed_cv_bridge_is_used_where_it_is_right() -> None:
    assert backend() == (
        'cv_bridge (bgr8, rgba8, bgra8, mono8, bayer_rggb8, bayer_bggr8, bayer_gbrg8)'
    )
    assert_all_encodings_right()


def test_cv_bridge_gets_only_what_it_is_trusted_with(install: Callable[[str], None]) -> None:
    install(RIGHT_FOR_MONO8)
    assert backend() == 'cv_bridge (mono8)'
    assert_all_encodings_right()
    assert sys.modules['cv_bridge'].seen == [('mono8', True)]  # and nothing padded


@pytest.mark.parametrize(
    ('source', 'why_not'),
    [
        (WRONG_VALUES, 'gives wrong values'),
        ("raise AttributeError('_ARRAY_API not found')", 'AttributeError: _ARRAY_API not found'),
        ("raise SystemError('no boost')", 'SystemError: no boost'),
        ('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)', 'exit status -11'),
        ('import os; os._exit(0)', 'does not work'),
    ],
)
def test_unfit_cv_bridge_is_not_used(
    install: Callable[[str], None], source: str, why_not: str
) -> None:
    install(source)
    assert backend().startswith('direct (cv_bridge ')
    assert why_not in backend()
    assert_all_encodings_right()


def test_hanging_cv_bridge_is_given_up(
    install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install('import threading; threading.Event().wait()')
    monkeypatch.setattr(trial, '_PROBE_TIMEOUT_S', 0.2)
    assert 'timed out' in backend()


def test_without_cv_bridge_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.importlib.util, 'find_spec', lambda name: None)
    monkeypatch.setattr(trial.subprocess, 'run', None)
    assert backend() == 'direct'


def test_import_is_light() -> None:
    heavy = '{"cv2", "cv_bridge", "torch"}'
    code = f'import sys, vla_ros.images.raw; print({heavy} & set(sys.modules))'
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == 'set()\n'
