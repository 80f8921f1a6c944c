# SPDX-License-Identifier: Apache-2.0
"""The topic ``model_image``: the images that the model saw, without anything drawn on them.

Used by the executor's thread. Without a subscriber nothing is copied. ``debug_image`` shows more,
and takes ten times as long.
"""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from vla_ros.clock import Clock
from vla_ros.graph.stamps import to_time
from vla_ros.images.thinning import thinned
from vla_ros.scheduling import Result

_SHORTEST_PERIOD_S = 0.1
_MAX_SIDE = 448  # pixels of one camera's image; OpenVLA's has 224


class ModelImagePublisher:
    """Publishes the images of the last prediction."""

    def __init__(self, node: Node, clock: Clock, prefix: str) -> None:
        """Create the publisher.

        :param prefix: prefix of the topic's name.
        """
        self._clock = clock
        self._images = node.create_publisher(Image, f'{prefix}model_image', QoSProfile(depth=1))
        self._result: Result | None = None  # not published yet
        self._shown_s = -_SHORTEST_PERIOD_S

    def keep(self, result: Result) -> None:
        """Keep a result that has a prediction, in place of the one before."""
        self._result = result

    def clear(self) -> None:
        """Forget the last prediction."""
        self._result = None

    def show_if_due(self) -> None:
        """Publish the images if they are new and have a subscriber. Call it often."""
        if self._result is None or not self._images.get_subscription_count():
            return
        now_s = self._clock.monotonic_s()
        if now_s - self._shown_s < _SHORTEST_PERIOD_S:
            return
        result, self._result, self._shown_s = self._result, None, now_s
        images = [*result.predicted().model_images.values()]
        if images:
            self._images.publish(_message(side_by_side(images), result.observation.stamp_ns))


def side_by_side(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return images in one row, from the left, each below the same upper edge.

    Of an image above 448 pixels a side only every n-th pixel is kept.

    :param images: uint8 [H, W, 3] RGB each, at least one.
    """
    small = [thinned(image, _MAX_SIDE) for image in images]
    if len(small) == 1:
        return small[0]
    height = max(len(image) for image in small)
    return np.hstack([np.pad(one, ((0, height - len(one)), (0, 0), (0, 0))) for one in small])


def _message(pixels: NDArray[np.uint8], stamp_ns: int) -> Image:
    height, width, _ = pixels.shape
    message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
    message.data = array.array('B', pixels.tobytes())  # what costs no check of each byte
    message.header.stamp = to_time(stamp_ns)
    return message
