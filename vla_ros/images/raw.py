"""Conversion of Image messages to RGB: uint8 [H, W, 3], or one clear error.

Independent of nodes, QoS and the model. Importing it imports neither ROS nor cv_bridge nor OpenCV
nor torch. Any thread; the only state is the verdict on cv_bridge, which is reached once and kept.

cv_bridge converts the encodings for which it gave the right values in a trial; NumPy converts the
others, and all encodings where there is no working cv_bridge. rgb8 needs no conversion.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaError
from vla_ros.images.pixel_formats import (
    SMALLEST_MOSAIC,
    bayer_to_rgb,
    pick_channels,
    yuv422_to_rgb,
)

MAX_PIXELS = 64_000_000
MAX_SIDE = 8192  # pixels; preprocessing may pad a thin image to a square
_MAX_PADDING = 2  # bytes of data over bytes of pixels, plus:
_MAX_SURPLUS_BYTES = 65_536  # whole pages, for small images
_PROBE_TIMEOUT_S = 60.0
MOST_SHOWN = 80  # characters of the publisher's text in an error

_DEPTH = re.compile(r'mono16|(16U|16S|32S|32F|64F)C1')


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


@dataclass(frozen=True)
class _Encoding:
    """The layout of one encoding in memory, and its conversion to RGB.

    :param channels: values per pixel.
    :param to_rgb: converts a view [H, W, channels] to uint8 [H, W, 3].
    :param value_bytes: 1 or 2.
    :param width_multiple: number that must divide the width.
    :param smallest: minimum of width and height, pixels.
    """

    channels: int
    to_rgb: Callable[[NDArray[Any]], NDArray[np.uint8]]
    value_bytes: int = 1
    width_multiple: int = 1
    smallest: int = 1


def _unchanged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels


_ENCODINGS = {
    'rgb8': _Encoding(3, _unchanged),
    'bgr8': _Encoding(3, partial(pick_channels, order=(2, 1, 0))),
    'rgba8': _Encoding(4, partial(pick_channels, order=(0, 1, 2))),
    'bgra8': _Encoding(4, partial(pick_channels, order=(2, 1, 0))),
    'mono8': _Encoding(1, partial(pick_channels, order=(0, 0, 0))),
    'yuv422': _Encoding(2, partial(yuv422_to_rgb, luma=1), width_multiple=2),
    'uyvy': _Encoding(2, partial(yuv422_to_rgb, luma=1), width_multiple=2),
    'yuv422_yuy2': _Encoding(2, partial(yuv422_to_rgb, luma=0), width_multiple=2),
    'yuyv': _Encoding(2, partial(yuv422_to_rgb, luma=0), width_multiple=2),
} | {
    f'bayer_{pattern}{8 * value_bytes}': _Encoding(
        1, partial(bayer_to_rgb, pattern=pattern), value_bytes, smallest=SMALLEST_MOSAIC
    )
    for pattern in ('rggb', 'bggr', 'gbrg', 'grbg')
    for value_bytes in (1, 2)
}


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
    if encoding.to_rgb is not _unchanged and packed and not message.is_bigendian:
        convert = _cv_bridge().converters.get(message.encoding)
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
    verdict = _cv_bridge()
    if verdict.converters:
        return f'cv_bridge ({", ".join(verdict.converters)})'
    return f'direct ({verdict.defect})' if verdict.defect else 'direct'


def _checked_encoding(message: ImageMessage) -> _Encoding:
    """Return the message's encoding, after checking the message's fields and data against it.

    :raises UnusableImage: if they contradict each other, or the encoding is not supported.
    """
    name, width, height = message.encoding, message.width, message.height
    if _DEPTH.fullmatch(name):
        raise UnusableImage(
            f'image encoding {name!r} looks like a depth image (or 16-bit gray), a colour topic '
            'is needed',
            "remap the image topic to the camera's colour image",
            value=name,
            expected='a colour image',
        )
    encoding = _ENCODINGS.get(name)
    if encoding is None:
        raise UnusableImage(
            f'image encoding {name[:MOST_SHOWN]!r} is not supported, allowed are '
            f'{", ".join(_ENCODINGS)}',
            'set one of them in the camera driver',
            value=name,
            expected=f'one of {", ".join(_ENCODINGS)}',
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


def check_size(width: int, height: int, smallest: int = 1) -> None:
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
    if width * height > MAX_PIXELS:
        raise UnusableImage(
            f'{what}, at most {MAX_PIXELS} pixels are allowed',
            smaller,
            value=width * height,
            expected=f'at most {MAX_PIXELS} pixels',
        )
    if max(width, height) > MAX_SIDE:
        raise UnusableImage(
            f'{what}, at most {MAX_SIDE} each are allowed',
            smaller,
            value=max(width, height),
            expected=f'at most {MAX_SIDE}',
        )


_Imgmsg2Cv2 = Callable[[ImageMessage, str], NDArray[np.uint8]]


@dataclass(frozen=True)
class _CvBridge:
    """The verdict on cv_bridge.

    :param converters: cv_bridge's converter, by each encoding that it converts correctly.
    :param defect: why it converts none; empty if it is not installed.
    """

    converters: Mapping[str, _Imgmsg2Cv2] = field(default_factory=dict)
    defect: str = ''


@functools.cache
def _cv_bridge() -> _CvBridge:
    """Try cv_bridge in a separate process.

    A cv_bridge that was built for NumPy 1 and runs with NumPy 2 (vision_opencv#535) may print,
    raise or, according to its source, use a null pointer, which no except clause catches.
    """
    if importlib.util.find_spec('cv_bridge') is None:
        return _CvBridge()
    try:
        probe = subprocess.run(
            [sys.executable, '-m', __name__],
            env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=True,
        )
        encodings = json.loads(probe.stdout.strip().rpartition('\n')[2])
        if not encodings:
            return _CvBridge(defect='cv_bridge gives wrong values')
        from cv_bridge import CvBridge

        return _CvBridge(dict.fromkeys(encodings, CvBridge().imgmsg_to_cv2))
    except subprocess.CalledProcessError as error:
        complaint = (error.stderr.strip().splitlines() or [f'exit status {error.returncode}'])[-1]
        return _CvBridge(defect=f'cv_bridge does not work: {complaint}')
    except (OSError, ImportError, ValueError, subprocess.TimeoutExpired) as error:
        return _CvBridge(defect=f'cv_bridge does not work: {error}')


def _agreeing_encodings() -> list[str]:
    """Return the encodings that cv_bridge converts as we do; for the separate process."""
    from cv_bridge import CvBridge

    convert = CvBridge().imgmsg_to_cv2
    return [
        name
        for name, encoding in _ENCODINGS.items()
        if encoding.to_rgb is not _unchanged and _agrees(convert, name, encoding)
    ]


def _agrees(convert: _Imgmsg2Cv2, name: str, encoding: _Encoding) -> bool:
    height, width = 32, 64  # wide enough for OpenCV's vector instructions
    step = width * encoding.channels * encoding.value_bytes
    noise = np.random.default_rng(0).integers(0, 256, (height, step), dtype=np.uint8)
    message: Any = SimpleNamespace(
        height=height, width=width, encoding=name, is_bigendian=0, step=step, data=noise.tobytes()
    )
    pixels = noise.view(f'<u{encoding.value_bytes}').reshape(height, width, encoding.channels)
    try:
        theirs = convert(message, 'rgb8')
    except Exception:  # its version decides: CvBridgeError, KeyError, cv2.error, RuntimeError, ...
        return False
    ours = encoding.to_rgb(pixels)
    return bool(getattr(theirs, 'dtype', None) == np.uint8 and np.array_equal(theirs, ours))


if __name__ == '__main__':
    print(json.dumps(_agreeing_encodings()))
