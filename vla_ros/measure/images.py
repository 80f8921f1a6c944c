# SPDX-License-Identifier: Apache-2.0
"""Images of noise for measurements."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PICTURE_SHAPE = (480, 640, 3)


def noise_images(count: int) -> list[NDArray[np.uint8]]:
    """Return different images of noise, so that no cache helps."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, PICTURE_SHAPE, np.uint8) for _ in range(count)]
