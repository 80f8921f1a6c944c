# SPDX-License-Identifier: Apache-2.0
"""A client that is also the robot: it publishes images and the robot's state."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState

from vla_ros.client.vla_client import VlaClient
from vla_ros.graph.image_messages import compressed_message, image_message
from vla_ros.graph.stamps import to_time
from vla_ros.graph.topics import COMPRESSED, image_topics, transport_topic
from vla_ros.types import ONE_CAMERA


class RobotSide(VlaClient):
    """A client that also publishes the node's observations.

    A single camera publishes on ``image``, several on ``NAME/image``. Each of these topics has a
    subtopic ``compressed``.

    :param cameras: names of the cameras.
    :param reliable: reliability of the images' QoS.
    :param options: options of VlaClient.
    """

    def __init__(
        self,
        namespace: str = '',
        robot: str = '',
        *,
        cameras: Sequence[str] = (ONE_CAMERA,),
        reliable: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(namespace, robot, **options)
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        self._quality = QoSProfile(depth=self._depth, reliability=reliability)
        self.images: dict[str, Publisher] = {}
        self.compressed_images: dict[str, Publisher] = {}
        self.offer(cameras)

    def offer(self, cameras: Sequence[str]) -> None:
        """Publish the images of these cameras from now on, in place of those before."""
        for publisher in (*self.images.values(), *self.compressed_images.values()):
            self.node.destroy_publisher(publisher)
        topics = {name: self.topic(topic) for name, topic in image_topics(cameras).items()}
        self.images = {
            name: self.node.create_publisher(
                Image, transport_topic(self.node, topic, '').removesuffix(COMPRESSED), self._quality
            )
            for name, topic in topics.items()
        }
        self.compressed_images = {
            name: self.node.create_publisher(
                CompressedImage, transport_topic(self.node, topic, COMPRESSED), self._quality
            )
            for name, topic in topics.items()
        }

    def show(
        self,
        images: Mapping[str, NDArray[np.uint8]],
        stamp_ns: int,
        state: NDArray[np.float64] | None = None,
    ) -> None:
        """Publish one observation, each image on its topics with a subscriber.

        :param images: uint8 [H, W, 3] RGB by camera.
        :param stamp_ns: capture time of all images, nanoseconds.
        :param state: float64 [S].
        """
        for camera, image in images.items():
            for publishers, to_message in (
                (self.images, image_message),
                (self.compressed_images, compressed_message),
            ):
                if publishers[camera].get_subscription_count():
                    message = to_message(image, 'camera')
                    message.header.stamp = to_time(stamp_ns)
                    publishers[camera].publish(message)
        if state is not None:
            message = JointState(position=state.tolist())
            message.header.stamp = to_time(stamp_ns)
            self._states.publish(message)

    def subscribed(self) -> list[Publisher]:
        """Return the image publishers that have a subscriber."""
        publishers = [*self.images.values(), *self.compressed_images.values()]
        return [one for one in publishers if one.get_subscription_count()]

    @functools.cached_property
    def _states(self) -> Publisher:
        """The state's publisher, created on first use, since most policies read no state."""
        return self.node.create_publisher(JointState, self.topic('state'), self._depth)
