# SPDX-License-Identifier: Apache-2.0
"""Conversion of compressed images to RGB: JPEG and PNG to uint8 [H, W, 3], or one clear error.

Pillow reads the size before anything is decoded, and decodes PNG, whose parts have checksums. A
JPEG has no checksums: libjpeg fills missing parts with gray and only warns. simplejpeg, a binding
of libjpeg-turbo, turns these warnings into errors; its values equal those of Pillow and OpenCV.
Neither applies EXIF orientation; whether cv_bridge does depends on its version. Any thread.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import PIL.Image
import simplejpeg
from numpy.typing import NDArray

from vla_ros.images.raw import DEPTH, MAX_PIXELS, MOST_SHOWN, UnusableImage, check_size

MAX_COMPRESSED_BYTES = 32_000_000  # Pillow may need thirty times as much for its segments
MAX_SCANS = 32  # of a JPEG; a progressive one has about ten
# Segments and stray bytes before a JPEG's first scan, chunks of a PNG: a large one has 4000. Pillow
# takes 1 to 7 us for each.
MAX_PARTS = 10_000

_PNG = b'\x89PNG\r\n\x1a\n'
_JPEG = b'\xff\xd8'
_FIRST_SCAN = b'\xff\xda'
_END = b'\xff\xd9'
_NO_MARKER = (b'\x00', b'\xff', b'')
_NO_LENGTH = tuple(bytes([marker]) for marker in (0x01, *range(0xD0, 0xDA)))

# ROS's names of colour encodings with 8 or 16 bits.
_COLOURS = ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'rgb16', 'bgr16', 'rgba16', 'bgra16')

# The errors that Pillow documents, or raised in our tests, for bytes that are not a whole image.
# Its warnings are exceptions only where the process turns them into exceptions.
_UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
    Warning,
)


class CompressedImageMessage(Protocol):
    """A sensor_msgs/CompressedImage, made by rclpy or by a bag reader.

    :param data: a buffer of bytes.
    """

    format: str
    data: Any


def compressed_to_rgb(
    message: CompressedImageMessage, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Return the RGB image of a compressed message.

    :param message: a JPEG or PNG, recognised by its bytes and not by ``message.format``. Its EXIF
        orientation is not applied. Where ``format`` names the source's encoding, it decides on the
        order of the colours, as for ROS's own subscriber.
    :param max_pixels: more are rejected before they are decoded.
    :returns: uint8 [H, W, 3] RGB, read-only. Gray is repeated, alpha is discarded.
    :raises UnusableImage: if it can't be decoded completely, or is not a colour or 8-bit gray
        image.
    """
    what = f'compressed image of format {message.format[:MOST_SHOWN]!r}'
    source, _, _ = message.format.partition(';')
    if 'compressedDepth' in message.format or DEPTH.fullmatch(source):
        raise UnusableImage(
            f'{what} is a depth image', "send the camera's colour topic (.../compressed) instead"
        )
    if source.startswith('bayer_'):
        raise UnusableImage(
            f'{what} is of a Bayer mosaic, whose colours a compression does not keep',
            'have the camera, or image_proc, make it a colour image before it is compressed',
        )
    if not len(message.data):  # an array has no truth of its own
        raise UnusableImage(f'{what} has no data', 'check its publisher', expected='a JPEG or PNG')
    if len(message.data) > MAX_COMPRESSED_BYTES:
        raise UnusableImage(
            f'{what} has {len(message.data)} bytes of data, at most {MAX_COMPRESSED_BYTES} are '
            'allowed',
            'have the camera send a smaller image',
            value=len(message.data),
            expected=f'at most {MAX_COMPRESSED_BYTES}',
        )
    data = bytes(message.data)
    _check_parts(data, what)
    pixels = _decoded(data, what, max_pixels)
    if _has_swapped_colours(message.format):
        pixels = np.ascontiguousarray(pixels[:, :, ::-1])
    return pixels


def _has_swapped_colours(description: str) -> bool:
    """Return whether red and blue are swapped in the file, by a message's ``format``.

    ROS's publisher stores what it calls bgr as a file of true colours (``rgb8; jpeg compressed
    bgr8``). Its subscriber takes other colour images for ones that were stored without conversion:
    https://github.com/ros-perception/image_transport_plugins, compressed_subscriber.cpp.
    """
    source, semicolon, stored = description.partition(';')
    return bool(semicolon and source in _COLOURS and 'compressed bgr' not in stored)


def _decoded(data: bytes, what: str, max_pixels: int) -> NDArray[np.uint8]:
    try:
        with PIL.Image.open(io.BytesIO(data), formats=('JPEG', 'PNG')) as image:
            check_size(image.width, image.height, max_pixels=max_pixels)
            _check_mode(image.mode, what)
            if image.format == 'PNG':
                return np.asarray(image.convert('RGB'))
            _check_scans(data, what)
            return decode_jpeg(data)
    except UnusableImage:
        raise
    except _UNDECODABLE as error:
        # Pillow's text for an unknown kind of file is the address of our buffer.
        detail = '' if isinstance(error, PIL.UnidentifiedImageError) else f' ({error})'
        raise UnusableImage(
            f'{what} with {len(data)} bytes of data is not a complete JPEG or PNG{detail}',
            'check its publisher and the connection',
        ) from error


def decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """Return the RGB image of a whole JPEG.

    :returns: uint8 [H, W, 3]. EXIF orientation is not applied.
    :raises ValueError: if it is damaged.
    """
    try:
        return _strictly_decoded(data)
    except ValueError:
        for unpadded in _without_padding(data):
            with contextlib.suppress(ValueError):
                return _strictly_decoded(unpadded)
        raise


def _strictly_decoded(jpeg: bytes) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(jpeg, 'RGB', strict=True)
    return pixels


def _without_padding(jpeg: bytes) -> Iterator[bytes]:
    """Yield a JPEG without the zeros that some cameras put before its end.

    To the decoder these are damage. The scan itself may end with two, one or none.
    """
    padded = jpeg.removesuffix(_END)
    scan = padded.rstrip(b'\0')
    if padded != jpeg:
        for own in range(min(2, len(padded) - len(scan) - 1), -1, -1):
            yield scan + bytes(own) + _END


def _check_parts(data: bytes, what: str) -> None:
    """Check the number of parts, since Pillow reads them one by one in Python.

    Pillow itself checks whether the parts are valid.

    :raises UnusableImage: if there are more than MAX_PARTS.
    """
    steps = _png_steps(data) if data.startswith(_PNG) else _jpeg_steps(data)
    if sum(1 for _ in itertools.islice(steps, MAX_PARTS + 1)) > MAX_PARTS:
        raise UnusableImage(
            f'{what} has more than {MAX_PARTS} segments or chunks',
            'have its publisher send an ordinary JPEG or PNG',
        )


def _png_steps(data: bytes) -> Iterator[None]:
    """Yield once for each chunk of a PNG."""
    position = len(_PNG)
    while position < len(data):
        yield
        position += 12 + int.from_bytes(data[position : position + 4], 'big')


def _jpeg_steps(data: bytes) -> Iterator[None]:
    """Yield once for each segment, fill byte and stray byte before a JPEG's first scan."""
    position = 2 if data.startswith(_JPEG) else len(data)
    while position < len(data) and not data.startswith(_FIRST_SCAN, position):
        yield
        if data[position] != 0xFF or data[position + 1 : position + 2] in _NO_MARKER:
            position += 1
        elif data[position + 1 : position + 2] in _NO_LENGTH:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], 'big')


def _check_mode(mode: str, what: str) -> None:
    """Check that the pixels are colour or 8-bit gray.

    :param mode: Pillow's name of the decoded layout.
    :raises UnusableImage: otherwise.
    """
    if mode.startswith(('I', 'F')):
        raise UnusableImage(
            f'{what} holds 16 or 32 bits a pixel and looks like a depth image, a colour topic is '
            'needed',
            "send the camera's colour image",
        )
    if mode not in ('RGB', 'RGBA', 'L', 'LA'):
        raise UnusableImage(
            f'{what} holds pixels of kind {mode}, allowed are RGB, RGBA, L (gray) and LA',
            'have its publisher send one of them',
            value=mode,
            expected='one of RGB, RGBA, L, LA',
        )


def _check_scans(data: bytes, what: str) -> None:
    """Check the number of scans, since the decoder passes over the whole image for each.

    :raises UnusableImage: if there are more than MAX_SCANS.
    """
    scans = data.count(b'\xff\xda')  # compressed pixels never contain this marker
    if scans > MAX_SCANS:
        raise UnusableImage(
            f'{what} is a JPEG of {scans} scans, at most {MAX_SCANS} are allowed',
            'have its publisher send a baseline JPEG',
            value=scans,
            expected=f'at most {MAX_SCANS}',
        )
