# SPDX-License-Identifier: Apache-2.0
"""Conversion of pixel formats to RGB: channel orders, Bayer mosaics, YUV 4:2:2, 16 bits.

NumPy only; independent of ROS messages, cv_bridge and OpenCV. Every result equals that of OpenCV 4
bit for bit (test_images.py compares them). Pure functions, any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# OpenCV's fixed-point BT.601 for video range, ITUR_BT_601_* in its color_yuv:
# 1.164 (Y - 16), then 1.596 V, -0.813 V - 0.391 U, 2.018 U, each times 2^20.
_YUV_SHIFT = 20
_YUV_HALF = 1 << (_YUV_SHIFT - 1)
_LUMA = 1220542
_V_TO_R, _V_TO_G, _U_TO_G, _U_TO_B = 1673527, -852492, -409993, 2116026

# OpenCV leaves smaller mosaics black: no pixel in them has all its neighbours.
SMALLEST_MOSAIC = 3


def pick_channels(pixels: NDArray[np.uint8], order: Sequence[int]) -> NDArray[np.uint8]:
    """Copy the channels ``order`` of ``pixels`` into red, green and blue.

    The copy goes plane by plane: at 640x480 it is four times as fast as np.ascontiguousarray of a
    reversed or four-channel view, which PIL.Image.fromarray would otherwise have to make later.

    :param pixels: uint8 [H, W, C].
    :returns: uint8 [H, W, 3].
    """
    rgb = np.empty((*pixels.shape[:2], 3), np.uint8)
    for channel, source in enumerate(order):
        rgb[..., channel] = pixels[..., source]
    return rgb


def to_8_bit(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Scale 16-bit values to 8 bits as cv_bridge does: x * 255 / 65535, rounded.

    In integers this is exactly (x * 255 + 32895) >> 16.

    :returns: uint8, same shape.
    """
    return ((pixels.astype(np.uint32) * 255 + 32895) >> 16).astype(np.uint8)


def demosaic(mosaic: NDArray[Any], pattern: str) -> NDArray[Any]:
    """Demosaic bilinearly, as OpenCV's COLOR_Bayer??2RGB does.

    A missing colour is the rounded mean of the two or four nearest pixels that have it; the
    outermost rows and columns repeat their inner neighbours.

    :param mosaic: uint8 or uint16 [H, W], each side at least SMALLEST_MOSAIC.
    :param pattern: colours of the first two pixels of the first two rows, such as 'rggb'.
    :returns: same dtype [H, W, 3].
    """
    wide: NDArray[np.unsignedinteger] = mosaic.astype(
        np.uint16 if mosaic.dtype.itemsize == 1 else np.uint32
    )
    across = wide[:, :-2] + wide[:, 2:]  # [H, W-2]: left and right
    along = wide[:-2, 1:-1] + wide[2:, 1:-1]  # [H-2, W-2]: above and below
    diagonal = (across[:-2] + across[2:] + 2) >> 2
    across = across[1:-1]
    cross = (across + along + 2) >> 2
    own = mosaic[1:-1, 1:-1]
    across, along, diagonal, cross = (
        mean.astype(mosaic.dtype) for mean in ((across + 1) >> 1, (along + 1) >> 1, diagonal, cross)
    )  # [H-2, W-2] each
    red_row, blue_row = (across, own, along), (along, own, across)  # green pixels in either
    sources = {'r': (own, cross, diagonal), 'b': (diagonal, cross, own)}

    rgb = np.empty((*mosaic.shape, 3), mosaic.dtype)
    inner = rgb[1:-1, 1:-1]
    for row in (0, 1):
        for column in (0, 1):
            # The inner image begins one pixel down and right in the pattern.
            colours = pattern[2:] if row == 0 else pattern[:2]
            green = red_row if 'r' in colours else blue_row
            site = np.s_[row::2, column::2]
            for channel, source in enumerate(sources.get(colours[1 - column], green)):
                inner[site][..., channel] = source[site]
    rgb[1:-1, 0], rgb[1:-1, -1] = rgb[1:-1, 1], rgb[1:-1, -2]
    rgb[0], rgb[-1] = rgb[1], rgb[-2]
    return rgb


def bayer_to_rgb(pixels: NDArray[Any], pattern: str) -> NDArray[np.uint8]:
    """Demosaic at the camera's depth, then scale to 8 bits, in cv_bridge's order.

    :param pixels: uint8 or uint16 of any byte order [H, W, 1].
    :param pattern: as for :func:`demosaic`.
    :returns: uint8 [H, W, 3].
    """
    native = pixels[..., 0].astype(pixels.dtype.newbyteorder('='), copy=False)
    rgb = demosaic(native, pattern)
    return rgb if rgb.dtype == np.uint8 else to_8_bit(rgb)


def yuv422_to_rgb(pixels: NDArray[np.uint8], luma: int) -> NDArray[np.uint8]:
    """Convert YUV 4:2:2, where two neighbours share one U and one V, to RGB.

    Equals OpenCV's COLOR_YUV2RGB_UYVY and COLOR_YUV2RGB_YUY2.

    :param pixels: uint8 [H, W, 2], W even; U and V alternate in one of the two channels.
    :param luma: index of the Y channel: 1 for UYVY, 0 for YUYV.
    :returns: uint8 [H, W, 3].
    """
    u = pixels[:, 0::2, 1 - luma].astype(np.int32) - 128  # [H, W/2]
    v = pixels[:, 1::2, 1 - luma].astype(np.int32) - 128  # [H, W/2]
    chroma = (
        v * _V_TO_R + _YUV_HALF,
        v * _V_TO_G + u * _U_TO_G + _YUV_HALF,
        u * _U_TO_B + _YUV_HALF,
    )
    rgb = np.empty((*pixels.shape[:2], 3), np.uint8)
    level = np.empty_like(u)
    for column in (0, 1):
        y = np.maximum(pixels[:, column::2, luma], 16).astype(np.int32)
        y -= 16
        y *= _LUMA
        for channel in range(3):
            np.add(y, chroma[channel], out=level)
            level >>= _YUV_SHIFT
            np.maximum(level, 0, out=level)
            np.minimum(level, 255, out=level)
            rgb[:, column::2, channel] = level
    return rgb
