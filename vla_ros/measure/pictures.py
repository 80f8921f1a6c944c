"""What the policy is shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PICTURE_SHAPE = (480, 640, 3)


def noise_pictures(count: int) -> list[NDArray[np.uint8]]:
    """Noise, each picture another: whatever is kept of one is of no use for the next."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, PICTURE_SHAPE, np.uint8) for _ in range(count)]
