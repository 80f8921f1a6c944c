"""``vla_camera``: publish image files as a camera does; for the demo and for trials."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import rclpy
from PIL import ImageOps
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image

from vla_ros.cli import exit_codes
from vla_ros.client.processes import clean_shared_memory
from vla_ros.console import complain
from vla_ros.graph.image_messages import image_message
from vla_ros.images.files import UnreadableImage, read_image

_SIZE = (640, 480)


class Camera(Node):
    """A camera that publishes each image for half a second, at a constant rate."""

    def __init__(self, frames: list[Image], rate_hz: float, reliability: ReliabilityPolicy) -> None:
        super().__init__('camera')
        self._publisher = self.create_publisher(
            Image, 'image', QoSProfile(depth=1, reliability=reliability)
        )
        repeats = max(1, round(rate_hz / 2))
        self._frames = itertools.cycle([frame for frame in frames for _ in range(repeats)])
        self.create_timer(1.0 / rate_hz, self._publish)

    def _publish(self) -> None:
        message = next(self._frames)
        message.header.stamp = self.get_clock().now().to_msg()
        message.data[0] ^= 1  # noise, since the node holds if no pixel ever changes
        self._publisher.publish(message)


def _frame(file: Path) -> Image:
    fitted = ImageOps.fit(PIL.Image.fromarray(read_image(file)), _SIZE)
    return image_message(np.asarray(fitted), 'camera')


def main(arguments: list[str] | None = None) -> int:
    argv = sys.argv if arguments is None else ['vla_camera', *arguments]
    parser = argparse.ArgumentParser(prog='vla_camera', description=__doc__)
    parser.add_argument('files', type=Path, nargs='+', help='image files; published at 640x480')
    parser.add_argument('--rate', type=float, default=30.0, help='rate [Hz] (default: %(default)s)')
    parser.add_argument('--best-effort', action='store_true', help='QoS of many camera drivers')
    options = parser.parse_args(remove_ros_args(argv)[1:])
    if not 0 < options.rate <= 1000:
        parser.error(f'--rate is {options.rate:g} Hz; allowed: above 0 and at most 1000')
    reliability = ReliabilityPolicy.RELIABLE
    if options.best_effort:
        reliability = ReliabilityPolicy.BEST_EFFORT
    try:
        frames = [_frame(file) for file in options.files]
    except UnreadableImage as error:
        complain('vla_camera', error)
        return exit_codes.FAILED
    clean_shared_memory()
    rclpy.init(args=argv)
    try:
        rclpy.spin(Camera(frames, options.rate, reliability))
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
