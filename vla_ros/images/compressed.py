"""Conversion of compressed images to RGB: JPEG and PNG to uint8 [H, W, 3], or one clear error.

Pillow reads the size before anything is decoded, and decodes PNG, whose parts have checksums. A
JPEG has no checksums: libjpeg fills missing parts with gray and only warns. simplejpeg, a binding
of libjpeg-turbo, turns these warnings into errors; its values equal those of Pillow and OpenCV.
Neither applies EXIF orientation; whether cv_bridge does depends on its version. Any thread.
"""

from __future__ import annotations

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

from vla_ros.images.raw import MOST_SHOWN, UnusableImage, check_size

MAX_COMPRESSED_BYTES = 32_000_000  # Pillow may need thirty times as much for its segments
MAX_SCANS = 32  # of a JPEG; a progressive one has about ten
# Segments and stray bytes before a JPEG's first scan, chunks of a PNG: a large one has 4000. Pillow
# takes 1 to 7 us for each.
MAX_PARTS = 10_000

_PNG = b'\x89PNG\r\n\x1a\n'
_JPEG = b'\xff\xd8'
_FIRST_SCAN = b'\xff\xda'
_NO_MARKER = (b'\x00', b'\xff', b'')
_NO_LENGTH = tuple(bytes([marker]) for marker in (0x01, *range(0xD0, 0xDA)))

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


def compressed_to_rgb(message: CompressedImageMessage) -> NDArray[np.uint8]:
    """Return the RGB image of a compressed message.

    :param message: a JPEG or PNG, recognised by its bytes and not by ``message.format``. Its EXIF
        orientation is not applied.
    :returns: uint8 [H, W, 3] RGB, read-only. Gray is repeated, alpha is discarded.
    :raises UnusableImage: if it can't be decoded completely, or is not a colour or 8-bit gray
        image.
    """
    what = f'compressed image of format {message.format[:MOST_SHOWN]!r}'
    if 'compressedDepth' in message.format:
        raise UnusableImage(
            f'{what} is a depth image', "send the camera's colour topic (.../compressed) instead"
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
    try:
        with PIL.Image.open(io.BytesIO(data), formats=('JPEG', 'PNG')) as image:
            check_size(image.width, image.height)
            _check_mode(image.mode, what)
            if image.format == 'PNG':
                return np.asarray(image.convert('RGB'))
            _check_scans(data, what)
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, 'RGB', strict=True)
            return pixels
    except UnusableImage:
        raise
    except _UNDECODABLE as error:
        # Pillow's text for an unknown kind of file is the address of our buffer.
        detail = '' if isinstance(error, PIL.UnidentifiedImageError) else f' ({error})'
        raise UnusableImage(
            f'{what} with {len(data)} bytes of data is not a complete JPEG or PNG{detail}',
            'check its publisher and the connection',
        ) from error


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
