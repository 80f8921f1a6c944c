"""Picture files as camera messages."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image


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


def image_message(picture: NDArray[np.uint8], frame_id: str) -> Image:
    """
    :param picture: uint8 [H, W, 3] RGB.
    :returns: without a stamp.
    """
    height, width, _ = picture.shape
    message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
    message.data = picture.tobytes()
    message.header.frame_id = frame_id
    return message


def compressed_message(picture: NDArray[np.uint8], frame_id: str) -> CompressedImage:
    """
    :param picture: uint8 [H, W, 3] RGB.
    :returns: a PNG, which loses nothing; without a stamp.
    """
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, 'png')
    message = CompressedImage(format='png', data=buffer.getvalue())
    message.header.frame_id = frame_id
    return message
