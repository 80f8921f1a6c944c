# SPDX-License-Identifier: Apache-2.0
"""Reader of image files, independent of ROS: upright, 8 bits, bounded, whole."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from vla_ros.errors import VlaError
from vla_ros.files import FileError, read_bytes
from vla_ros.images.compressed import decode_jpeg
from vla_ros.images.pixel_formats import to_8_bit

_MAX_BYTES = 200_000_000
_MAX_PIXELS = 64_000_000  # as for an image of a topic
_ADVICE = 'name a JPEG or PNG file'


class UnreadableImage(VlaError):
    """A file that is missing or is not an image."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return the image of a file as an image viewer shows it.

    :returns: uint8 [H, W, 3] RGB. EXIF orientation is applied, 16 bits are scaled to 8, and alpha
        is discarded.
    :raises UnreadableImage: if the file is missing, is not a whole image, or its image is too
        large.
    """
    try:
        data = read_bytes(path, _MAX_BYTES)
    except FileError as error:
        raise UnreadableImage(f'image {error}', _ADVICE) from error
    try:
        return _decoded(data)
    except Exception as error:  # Pillow's formats raise what they like
        raise UnreadableImage(f'{path} cannot be read as an image: {error}', _ADVICE) from error


def _decoded(data: bytes) -> NDArray[np.uint8]:
    with PIL.Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > _MAX_PIXELS:
            size = f'{image.width} x {image.height}'
            raise ValueError(f'it is {size}; at most {_MAX_PIXELS} pixels are allowed')
        if image.format == 'JPEG' and image.mode in ('RGB', 'L'):
            exif = image.getexif()
            whole = PIL.Image.fromarray(decode_jpeg(data))  # Pillow fills what is missing with gray
            whole.getexif().update(exif)
            return np.asarray(PIL.ImageOps.exif_transpose(whole))
        upright = PIL.ImageOps.exif_transpose(image)
        if upright.mode.startswith('I;16'):
            upright = PIL.Image.fromarray(to_8_bit(np.asarray(upright, np.uint16)))
        elif upright.mode in ('I', 'F'):
            raise ValueError('it has 32 bits a pixel, as a depth image has')
        return np.asarray(upright.convert('RGB'))
