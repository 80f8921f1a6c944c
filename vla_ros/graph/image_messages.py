"""Pictures as camera messages."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image


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
