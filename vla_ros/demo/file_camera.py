# SPDX-License-Identifier: Apache-2.0
"""A camera whose images are files; for the demo and for trials. Used by the main thread."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import rclpy
from PIL import ImageOps
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from vla_ros.client.processes import clean_shared_memory
from vla_ros.console import EndRequest
from vla_ros.graph.image_messages import image_message
from vla_ros.images.files import read_image

_SIZE = (640, 480)
_NUMBER_BITS = 32
_LOOK_S = 0.1  # by so much a signal may be noticed late


class FileCamera(Node):
    """A camera that publishes each image for half a second, at a constant rate."""

    def __init__(self, frames: Sequence[Image], rate_hz: float, best_effort: bool) -> None:
        super().__init__('camera')
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        self._publisher = self.create_publisher(
            Image, 'image', QoSProfile(depth=1, reliability=reliability)
        )
        repeats = max(1, round(rate_hz / 2))
        repeated = [frame for frame in frames for _ in range(repeats)]
        self._numbered = enumerate(itertools.cycle(repeated))
        self.create_timer(1.0 / rate_hz, self._publish)

    def _publish(self) -> None:
        number, message = next(self._numbered)
        message.header.stamp = self.get_clock().now().to_msg()
        add_noise(message, number)
        self._publisher.publish(message)


def add_noise(message: Image, number: int) -> None:
    """Make an image differ from all others: the node holds if images only repeat earlier ones.

    :param number: of the image; it becomes the lowest bits of the first values.
    """
    values = np.frombuffer(message.data, np.uint8)[:_NUMBER_BITS]
    values[:] = (values & 0xFE) | (number >> np.arange(_NUMBER_BITS)) & 1


def publish_files(
    files: Sequence[Path],
    rate_hz: float,
    best_effort: bool,
    arguments: Sequence[str],
    stopped: EndRequest,
) -> None:
    """Publish the images until a signal to end comes.

    :param arguments: the command line, of which ROS reads its part.
    :raises UnreadableImage: if a file is no image.
    """
    frames = [_frame(file) for file in files]
    clean_shared_memory()
    # No handlers of rclpy, which would end its context in the middle of publishing.
    rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    executor.add_node(FileCamera(frames, rate_hz, best_effort))
    while not stopped.is_set():
        executor.spin_once(timeout_sec=_LOOK_S)
    rclpy.try_shutdown()


def _frame(file: Path) -> Image:
    fitted = ImageOps.fit(PIL.Image.fromarray(read_image(file)), _SIZE)
    return image_message(np.asarray(fitted), 'camera')
