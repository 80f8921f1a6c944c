"""Reads picture files. Needs no ROS."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from vla_ros.errors import VlaError
from vla_ros.files import FileError, read_bytes

_MAX_BYTES = 200_000_000
_MAX_PIXELS = 64_000_000  # as of a topic's picture


class UnreadablePicture(VlaError):
    """A file is missing or holds no picture."""


def read_picture(path: Path) -> NDArray[np.uint8]:
    """
    :returns: uint8 [H, W, 3] RGB.
    :raises UnreadablePicture: if the file is missing, holds no picture, or one that is too large.
    """
    try:
        data = read_bytes(path, _MAX_BYTES)
    except FileError as error:
        raise UnreadablePicture(f'picture {error}') from error
    try:
        return _decoded(data)
    except Exception as error:  # Pillow's formats raise what they like
        raise UnreadablePicture(f'{path} can not be read as a picture: {error}') from error


def _decoded(data: bytes) -> NDArray[np.uint8]:
    with PIL.Image.open(io.BytesIO(data)) as picture:
        if picture.width * picture.height > _MAX_PIXELS:
            size = f'{picture.width} x {picture.height}'
            raise ValueError(f'it is {size}; at most {_MAX_PIXELS} pixels are allowed')
        return np.asarray(picture.convert('RGB'))
