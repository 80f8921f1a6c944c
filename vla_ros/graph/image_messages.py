# SPDX-License-Identifier: Apache-2.0
"""Images as camera messages."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image


def image_message(image: NDArray[np.uint8], frame_id: str) -> Image:
    """Return an image as a message without a stamp.

    :param image: uint8 [H, W, 3] RGB.
    """
    height, width, _ = image.shape
    message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
    message.data = image.tobytes()
    message.header.frame_id = frame_id
    return message


def compressed_message(image: NDArray[np.uint8], frame_id: str) -> CompressedImage:
    """Return an image as a PNG message without a stamp; PNG is lossless.

    :param image: uint8 [H, W, 3] RGB.
    """
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, 'png')
    message = CompressedImage(format='png', data=buffer.getvalue())
    message.header.frame_id = frame_id
    return message
