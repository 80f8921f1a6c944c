# SPDX-License-Identifier: Apache-2.0
"""Smaller images without new colors: what is shown is what was there. Independent of ROS."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def thinned(image: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Return a view of every n-th pixel, so that no side is longer than ``max_side`` pixels.

    :param image: uint8 [H, W, 3] RGB.
    """
    step = math.ceil(max(image.shape) / max_side)
    return image[::step, ::step]
