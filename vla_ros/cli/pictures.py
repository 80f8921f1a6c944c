"""Reads picture files. Needs no ROS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray


class UnreadablePicture(ValueError):
    """A file is missing or holds no picture."""


def read_picture(path: Path) -> NDArray[np.uint8]:
    """
    :returns: uint8 [H, W, 3] RGB.
    :raises UnreadablePicture: if the file is missing or holds no picture.
    """
    try:
        with PIL.Image.open(path) as picture:
            return np.asarray(picture.convert('RGB'))
    except OSError as error:
        raise UnreadablePicture(f'{path} can not be read as a picture: {error}') from error
