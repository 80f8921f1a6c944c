"""``vla_camera``: publish picture files like a camera would; for the demo and for trials."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
import rclpy
from PIL import Image as PilImage
from PIL import ImageOps
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image

_SIZE = (640, 480)


class Camera(Node):
    """Shows each picture for half a second, at a constant rate."""

    def __init__(self, files: list[Path], rate_hz: float, reliability: ReliabilityPolicy) -> None:
        super().__init__('camera')
        self._publisher = self.create_publisher(
            Image, 'image', QoSProfile(depth=1, reliability=reliability)
        )
        frames = [self._message(file) for file in files]
        self._frames = itertools.cycle(
            itertools.chain.from_iterable(itertools.repeat(f, round(rate_hz / 2)) for f in frames)
        )
        self.create_timer(1.0 / rate_hz, self._publish)

    def _publish(self) -> None:
        message = next(self._frames)
        message.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(message)

    @staticmethod
    def _message(file: Path) -> Image:
        with PilImage.open(file) as picture:
            fitted = ImageOps.fit(picture.convert('RGB'), _SIZE)
        width, height = _SIZE
        message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
        message.data = np.asarray(fitted).tobytes()
        message.header.frame_id = 'camera'
        return message


def main(arguments: list[str] | None = None) -> int:
    argv = sys.argv if arguments is None else ['vla_camera', *arguments]
    parser = argparse.ArgumentParser(prog='vla_camera', description=__doc__)
    parser.add_argument('files', type=Path, nargs='+', help='pictures; shown at 640x480')
    parser.add_argument('--rate', type=float, default=30.0, help='Hz (default: %(default)s)')
    parser.add_argument('--best-effort', action='store_true', help='as many camera drivers do')
    options = parser.parse_args(remove_ros_args(argv)[1:])
    best_effort = options.best_effort
    reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
    rclpy.init(args=argv)
    try:
        rclpy.spin(Camera(options.files, options.rate, reliability))
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
