# SPDX-License-Identifier: Apache-2.0
"""The encodings of Image messages: one line each, with the layout in memory and the conversion.

NumPy only; independent of ROS messages and of cv_bridge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.images.pixel_formats import (
    SMALLEST_MOSAIC,
    bayer_to_rgb,
    pick_channels,
    yuv422_to_rgb,
)


@dataclass(frozen=True)
class Encoding:
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

    @property
    def is_rgb8(self) -> bool:
        """Whether the values need no conversion."""
        return self.to_rgb is _unchanged


def _unchanged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels


ENCODINGS = {
    'rgb8': Encoding(3, _unchanged),
    'bgr8': Encoding(3, partial(pick_channels, order=(2, 1, 0))),
    'rgba8': Encoding(4, partial(pick_channels, order=(0, 1, 2))),
    'bgra8': Encoding(4, partial(pick_channels, order=(2, 1, 0))),
    'mono8': Encoding(1, partial(pick_channels, order=(0, 0, 0))),
    'yuv422': Encoding(2, partial(yuv422_to_rgb, luma=1), width_multiple=2),
    'uyvy': Encoding(2, partial(yuv422_to_rgb, luma=1), width_multiple=2),
    'yuv422_yuy2': Encoding(2, partial(yuv422_to_rgb, luma=0), width_multiple=2),
    'yuyv': Encoding(2, partial(yuv422_to_rgb, luma=0), width_multiple=2),
} | {
    f'bayer_{pattern}{8 * value_bytes}': Encoding(
        1, partial(bayer_to_rgb, pattern=pattern), value_bytes, smallest=SMALLEST_MOSAIC
    )
    for pattern in ('rggb', 'bggr', 'gbrg', 'grbg')
    for value_bytes in (1, 2)
}
