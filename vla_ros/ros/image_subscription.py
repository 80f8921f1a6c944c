# SPDX-License-Identifier: Apache-2.0
"""Image transports, and a subscription whose reliability follows that of the publishers.

A best-effort subscription hears every publisher, but may lose parts of large images; a reliable
subscription does not hear a best-effort publisher at all. Therefore the subscription is reliable if
all publishers are, as that of ``ros2 topic echo``. Used by the executor's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from vla_ros.graph.topics import COMPRESSED, transport_topic
from vla_ros.images.compressed import compressed_to_rgb
from vla_ros.images.raw import image_to_rgb


class Transport(NamedTuple):
    """A form in which images are sent.

    :param suffix: of the topic's name.
    :param to_rgb: raises UnusableImage, MemoryError.
    """

    message_type: type
    suffix: str
    to_rgb: Callable[[Any], NDArray[np.uint8]]


TRANSPORTS = {  # by the values of the parameter image_transport
    'raw': Transport(Image, '', image_to_rgb),
    'compressed': Transport(CompressedImage, COMPRESSED, compressed_to_rgb),
}
TYPE_NAMES = {  # of their messages
    name: f'sensor_msgs/msg/{one.message_type.__name__}' for name, one in TRANSPORTS.items()
}


def publishers_text(node: Node, topic: str, transport: str) -> str:
    """Return a text about the publishers of images, with advice, for a robot that hears none.

    :param topic: full name of the topic that is subscribed to.
    :param transport: the parameter ``image_transport``.
    """
    types = [info.topic_type for info in node.get_publishers_info_by_topic(topic)]
    others = [one for one in types if one != TYPE_NAMES[transport]]
    text = f'publishers there: {len(types) - len(others)}'
    if others:
        text += f', and {len(others)} of another type: {", ".join(sorted(set(others)))}'
    other = other_transport(node, topic, transport)
    return f'{text}; set image_transport to {other}' if other else text


def other_transport(node: Node, topic: str, transport: str) -> str:
    """Return the transport for which there are publishers, where this one has none; or empty."""
    images = topic.removesuffix(COMPRESSED)
    types = {
        info.topic_type
        for place in (images, f'{images}{COMPRESSED}')
        for info in node.get_publishers_info_by_topic(place)
    }
    if TYPE_NAMES[transport] in types:
        return ''
    return next((name for name, kind in TYPE_NAMES.items() if kind in types), '')


class ImageSubscription:
    """A subscription of depth 1: only the newest image is of use."""

    def __init__(
        self,
        node: Node,
        transport: str,
        topic: str,
        callback: Callable[[Any], None],
        reliability: str = 'auto',
    ) -> None:
        """Subscribe.

        :param transport: ``raw`` or ``compressed``.
        :param topic: of the images; the subscription is to that of the transport.
        :param reliability: ``auto``, ``reliable`` or ``best_effort``.
        """
        self._node = node
        self._message_type, suffix, _ = TRANSPORTS[transport]
        self.topic = transport_topic(node, topic, suffix)  # the full name, after remapping
        self._callback = callback
        self._follows = reliability == 'auto'
        self._reliability = ReliabilityPolicy.BEST_EFFORT
        if reliability == 'reliable':
            self._reliability = ReliabilityPolicy.RELIABLE
        self._reliability = self._wanted()
        self._subscription = self._create()

    @property
    def reliability(self) -> ReliabilityPolicy:
        return self._reliability

    def follow_publishers(self) -> None:
        """Adapt to the publishers there are now. Call it about once a second."""
        wanted = self._wanted()
        if wanted != self._reliability:
            self._reliability = wanted
            self.destroy()
            self._subscription = self._create()

    def destroy(self) -> None:
        self._node.destroy_subscription(self._subscription)

    def _wanted(self) -> ReliabilityPolicy:
        """Return the reliability for the publishers there are now; the present one without any."""
        offers = {
            publisher.qos_profile.reliability
            for publisher in self._node.get_publishers_info_by_topic(self.topic)
        }
        if not self._follows or not offers:
            return self._reliability
        if offers == {ReliabilityPolicy.RELIABLE}:
            return ReliabilityPolicy.RELIABLE
        return ReliabilityPolicy.BEST_EFFORT

    def _create(self) -> Subscription:
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=self._reliability)
        return self._node.create_subscription(self._message_type, self.topic, self._callback, qos)
