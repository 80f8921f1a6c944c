# SPDX-License-Identifier: Apache-2.0
"""The images of several cameras in one message; test/operating hears the topic of a node."""

from __future__ import annotations

import numpy as np

from vla_ros.ros.model_image import side_by_side


def image(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_images_stand_side_by_side_and_large_ones_lose_pixels() -> None:
    one = image(224, 224, 1)
    assert side_by_side([one]) is one or np.array_equal(side_by_side([one]), one)
    both = side_by_side([one, image(100, 50, 2)])
    assert both.shape == (224, 274, 3)
    assert (both[:, :224] == 1).all() and (both[:100, 224:] == 2).all()
    assert not both[100:, 224:].any()
    assert side_by_side([image(1080, 1920, 3)]).shape == (216, 384, 3)
