# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to the images that pages want to see, and no others.

Used by the thread that spins the node.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from vla_ros.clock import Clock
from vla_ros.console import say
from vla_ros.errors import VlaError
from vla_ros.graph.stamps import from_time
from vla_ros.images.compressed import compressed_to_rgb
from vla_ros.images.raw import image_to_rgb
from vla_ros.images.thinning import thinned
from vla_ros.web.robot import JpegImage

CAMERA = 'camera:'  # prefix of a view, before the topic
_MAX_SIDE = 960  # pixels
_SHORTEST_S = 1 / 35  # between two images of a view
_QUALITY = 85
_TELL_S = 10.0  # between two words about images that cannot be shown

Show = Callable[[str, JpegImage], None]


class ViewSubscriptions:
    """The subscriptions of one robot's views."""

    def __init__(self, node: Node, topics: dict[str, str], show: Show, clock: Clock) -> None:
        """Subscribe to nothing yet.

        :param topics: full names of the topics of the views ``model`` and ``operator``.
        :param show: called with each image.
        """
        self._node, self._topics, self._show, self._clock = node, topics, show, clock
        self._subscriptions: dict[str, Subscription] = {}
        self._shown_s: dict[str, float] = {}
        self._unusable = 0  # images that were dropped
        self._told_s = -math.inf  # when that was told last

    def watch(self, views: frozenset[str], compressed: frozenset[str]) -> None:
        """Subscribe to these views, and end the other subscriptions.

        :param compressed: topics of compressed images.
        """
        for view in self._subscriptions.keys() - views:
            self._node.destroy_subscription(self._subscriptions.pop(view))
        for view in views - self._subscriptions.keys():
            topic = self._topics.get(view, view.removeprefix(CAMERA))
            kind = CompressedImage if topic in compressed else Image
            to_rgb = compressed_to_rgb if topic in compressed else image_to_rgb
            # Of cameras as best effort, which hears every publisher and delays none. The node's own
            # images are reliable: a view is larger than what arrives in one piece.
            reliable = view in self._topics
            quality = QoSProfile(
                depth=1,
                reliability=ReliabilityPolicy.RELIABLE
                if reliable
                else ReliabilityPolicy.BEST_EFFORT,
            )
            self._subscriptions[view] = self._node.create_subscription(
                kind, topic, self._callback(view, to_rgb), quality
            )

    def _callback(self, view: str, to_rgb: Callable[[Any], Any]) -> Callable[[Any], None]:
        def hear(message: Any) -> None:
            now_s = self._clock.monotonic_s()
            if now_s - self._shown_s.get(view, -math.inf) < _SHORTEST_S:
                return
            self._shown_s[view] = now_s
            try:
                pixels = to_rgb(message)
            except (VlaError, MemoryError) as error:
                self._tell(view, error)
                return
            self._show(view, jpeg_of(pixels, str(from_time(message.header.stamp))))

        return hear

    def _tell(self, view: str, error: Exception) -> None:
        """Count an image that is dropped, and tell the user at the terminal now and then."""
        self._unusable += 1
        now_s = self._clock.monotonic_s()
        if now_s - self._told_s >= _TELL_S:
            self._told_s = now_s
            say(f'{view}: an image cannot be shown ({self._unusable} so far): {error}')


def jpeg_of(pixels: np.ndarray, stamp: str) -> JpegImage:
    """Return an image for pages; of one above 960 pixels a side only every n-th pixel.

    :param pixels: uint8 [H, W, 3] RGB.
    """
    small = np.ascontiguousarray(thinned(pixels, _MAX_SIDE))
    height, width, _ = small.shape
    # Without subsampled colours: what the model saw has few pixels, and each counts.
    jpeg = simplejpeg.encode_jpeg(small, _QUALITY, 'RGB', '444')
    return JpegImage(jpeg, width, height, stamp)
