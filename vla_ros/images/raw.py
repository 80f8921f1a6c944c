# SPDX-License-Identifier: Apache-2.0
"""Conversion of Image messages to RGB: uint8 [H, W, 3], or one clear error.

Independent of nodes, QoS and the model. Importing it imports neither ROS nor cv_bridge nor OpenCV
nor torch. Any thread.

cv_bridge converts the encodings for which it gave the right values in a trial; NumPy converts the
others, and all encodings where there is no working cv_bridge. rgb8 needs no conversion.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaError
from vla_ros.images import cv_bridge
from vla_ros.images.encodings import ENCODINGS, Encoding

MAX_PIXELS = 64_000_000
MAX_SIDE = 8192  # pixels; preprocessing may pad a thin image to a square
_MAX_PADDING = 2  # bytes of data over bytes of pixels, plus:
_MAX_SURPLUS_BYTES = 65_536  # whole pages, for small images
MOST_SHOWN = 80  # characters of the publisher's text in an error

DEPTH = re.compile(r'mono16|(16U|16S|32S|32F|64F)C1')


class UnusableImage(VlaError, ValueError):
    """A message that holds no usable colour image."""


class ImageMessage(Protocol):
    """A sensor_msgs/Image, made by rclpy or by a bag reader.

    :param step: bytes from one row to the next.
    :param data: a buffer of bytes.
    """

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


def image_to_rgb(message: ImageMessage) -> NDArray[np.uint8]:
    """Return the RGB image of an Image message.

    :param message: an image in one of the encodings above, its rows padded or not.
    :returns: uint8 [H, W, 3] RGB, read-only: for rgb8 a view of ``message.data``.
    :raises UnusableImage: if the fields contradict each other, or it is not a colour image.
    """
    encoding = _checked_encoding(message)
    pixel_bytes = encoding.channels * encoding.value_bytes
    packed = message.step == message.width * pixel_bytes
    # Some versions of cv_bridge ignore `step`, and some fail on big-endian data with NumPy 2.
    if not encoding.is_rgb8 and packed and not message.is_bigendian:
        convert = cv_bridge.verdict().converters.get(message.encoding)
        if convert is not None:
            return convert(message, 'rgb8')
    pixels: NDArray[Any] = np.ndarray(
        (message.height, message.width, encoding.channels),
        f'{">" if message.is_bigendian else "<"}u{encoding.value_bytes}',
        message.data,
        strides=(message.step, pixel_bytes, encoding.value_bytes),
    )
    pixels.flags.writeable = False
    return encoding.to_rgb(pixels)


def backend() -> str:
    """Return the name of the converter of Image messages, for diagnostics.

    It is ``cv_bridge (<encodings>)`` or ``direct``, followed by the cause if cv_bridge does not
    work. The first call may take seconds; make it before images arrive.
    """
    verdict = cv_bridge.verdict()
    if verdict.converters:
        return f'cv_bridge ({", ".join(verdict.converters)})'
    return f'direct ({verdict.defect})' if verdict.defect else 'direct'


def _checked_encoding(message: ImageMessage) -> Encoding:
    """Return the message's encoding, after checking the message's fields and data against it.

    :raises UnusableImage: if they contradict each other, or the encoding is not supported.
    """
    name, width, height = message.encoding, message.width, message.height
    if DEPTH.fullmatch(name):
        raise UnusableImage(
            f'image encoding {name!r} looks like a depth image (or 16-bit gray), a colour topic '
            'is needed',
            "remap the image topic to the camera's colour image",
            value=name,
            expected='a colour image',
        )
    encoding = ENCODINGS.get(name)
    if encoding is None:
        raise UnusableImage(
            f'image encoding {name[:MOST_SHOWN]!r} is not supported, allowed are '
            f'{", ".join(ENCODINGS)}',
            'set one of them in the camera driver',
            value=name,
            expected=f'one of {", ".join(ENCODINGS)}',
        )
    check_size(width, height, encoding.smallest)
    if width % encoding.width_multiple:
        raise UnusableImage(
            f'image width {width} is odd, {name} needs an even one as two pixels share their '
            'colour',
            'check the camera driver',
            value=width,
            expected='an even width',
        )
    _check_data(message, width * encoding.channels * encoding.value_bytes)
    return encoding


def _check_data(message: ImageMessage, row_bytes: int) -> None:
    """Check the message's number of bytes against its fields.

    :param row_bytes: bytes of a row without padding.
    :raises UnusableImage: if there are too few or far too many.
    """
    name, width, height = message.encoding, message.width, message.height
    if message.step < row_bytes:
        raise UnusableImage(
            f'image step is {message.step} bytes, a row of {width} pixels in {name} needs at least '
            f'{row_bytes}',
            'check the camera driver',
            value=message.step,
            expected=f'at least {row_bytes}',
        )
    if len(message.data) < message.step * height:
        raise UnusableImage(
            f'image data has {len(message.data)} bytes, step {message.step} times height {height} '
            f'needs {message.step * height}',
            'check the camera driver',
            value=len(message.data),
            expected=f'at least {message.step * height}',
        )
    most_bytes = _MAX_PADDING * row_bytes * height + _MAX_SURPLUS_BYTES
    if len(message.data) > most_bytes:
        raise UnusableImage(
            f'image data has {len(message.data)} bytes, at most {most_bytes} are allowed for '
            f'{width} x {height} pixels in {name}',
            'check the camera driver',
            value=len(message.data),
            expected=f'at most {most_bytes}',
        )


def check_size(width: int, height: int, smallest: int = 1, max_pixels: int = MAX_PIXELS) -> None:
    """Check the size of an image in pixels.

    :raises UnusableImage: if a side is too short or too long, or the image has too many pixels.
    """
    what = f'image is {width} x {height} (width x height)'
    if min(width, height) < smallest:
        raise UnusableImage(
            f'{what}, each must be at least {smallest}',
            'check the camera driver',
            value=min(width, height),
            expected=f'at least {smallest}',
        )
    smaller = 'have the camera send a smaller image'
    if width * height > max_pixels:
        raise UnusableImage(
            f'{what}, at most {max_pixels} pixels are allowed',
            smaller,
            value=width * height,
            expected=f'at most {max_pixels} pixels',
        )
    if max(width, height) > MAX_SIDE:
        raise UnusableImage(
            f'{what}, at most {MAX_SIDE} each are allowed',
            smaller,
            value=max(width, height),
            expected=f'at most {MAX_SIDE}',
        )
