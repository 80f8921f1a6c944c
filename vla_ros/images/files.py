"""Reader of image files, independent of ROS."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from vla_ros.errors import VlaError
from vla_ros.files import FileError, read_bytes

_MAX_BYTES = 200_000_000
_MAX_PIXELS = 64_000_000  # as for an image of a topic


class UnreadableImage(VlaError):
    """A file that is missing or is not an image."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return the image of a file.

    :returns: uint8 [H, W, 3] RGB.
    :raises UnreadableImage: if the file is missing, is not an image, or its image is too large.
    """
    try:
        data = read_bytes(path, _MAX_BYTES)
    except FileError as error:
        raise UnreadableImage(f'image {error}') from error
    try:
        return _decoded(data)
    except Exception as error:  # Pillow's formats raise what they like
        raise UnreadableImage(f'{path} cannot be read as an image: {error}') from error


def _decoded(data: bytes) -> NDArray[np.uint8]:
    with PIL.Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > _MAX_PIXELS:
            size = f'{image.width} x {image.height}'
            raise ValueError(f'it is {size}; at most {_MAX_PIXELS} pixels are allowed')
        return np.asarray(image.convert('RGB'))
