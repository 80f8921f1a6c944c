# SPDX-License-Identifier: Apache-2.0
"""The camera of ``vla_bench --pipeline``, a process that obeys commands: 640x480 rgb8, reliable.

A command is a line on standard input. ``show RATE`` publishes images at a rate in hertz, ``once``
publishes one image, and ``stop`` ends that: a line on standard output then has the number of images
that were due, and of those published, since the last stop. The process ends with its input.

Like a real camera it keeps its rate: an image that is more than a period late is not published.
Each image is noise and differs from the one before, as in the rest of ``vla_bench``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from vla_ros.client.processes import camera_environment, clean_shared_memory, running
from vla_ros.graph.image_messages import image_message
from vla_ros.measure.images import noise_images
from vla_ros.pipeline.summary import PipelineError

_IMAGES = 31  # a prime: a policy that takes every n-th image still gets all of them


class SteeredCamera:
    """The camera in its process. Used by the main thread; publishing needs no executor."""

    def __init__(self) -> None:
        """Make the node, the publisher and the images."""
        self._node = rclpy.create_node('camera')
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        self._publisher = self._node.create_publisher(Image, 'image', qos)
        messages = [image_message(image, 'camera') for image in noise_images(_IMAGES)]
        self._messages = itertools.cycle(messages)
        self._period_s: float | None = None  # None: publish on command only
        self._next_s = 0.0  # when the next image is due, monotonic
        self._due = 0
        self._published = 0

    def run(self) -> None:
        """Obey commands until the input ends."""
        commands = open(sys.stdin.fileno(), 'rb', buffering=0, closefd=False)  # noqa: SIM115
        while True:
            if select.select([commands], [], [], self._wait_s())[0]:
                line = commands.readline().decode()
                if not line:
                    return
                self._obey(*line.split())
            elif self._period_s is not None:
                self._keep_rate(self._period_s)

    def _wait_s(self) -> float | None:
        if self._period_s is None:
            return None
        return max(0.0, self._next_s - time.monotonic())

    def _obey(self, command: str, *values: str) -> None:
        if command == 'show':
            self._period_s = 1 / float(values[0])
            self._next_s = time.monotonic()
        elif command == 'once':
            self._due += 1
            self._publish()
        else:
            self._period_s = None
            print(json.dumps({'due': self._due, 'published': self._published}), flush=True)
            self._due = self._published = 0

    def _keep_rate(self, period_s: float) -> None:
        missed = int((time.monotonic() - self._next_s) / period_s)
        self._due += 1 + missed
        self._next_s += (1 + missed) * period_s
        self._publish()

    def _publish(self) -> None:
        message = next(self._messages)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
        self._published += 1


class CameraProcess:
    """The camera as seen from another process.

    :param commands: the camera's standard input.
    :param answers: the camera's standard output.
    """

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        self._commands, self._answers = commands, answers

    def tell(self, command: str) -> None:
        """Send a command."""
        self._commands.write(f'{command}\n'.encode())
        self._commands.flush()

    def stop(self) -> dict[str, int]:
        """Return how many images were ``due`` and ``published`` since the last stop.

        :raises PipelineError: if the process has ended.
        """
        self.tell('stop')
        line = self._answers.readline()
        if not line:
            raise PipelineError('the camera has ended')
        answer: dict[str, int] = json.loads(line)
        return answer


@contextlib.contextmanager
def running_camera(
    *arguments: str,
) -> Iterator[tuple[CameraProcess, subprocess.Popen[bytes]]]:
    """Run this module, with the Fast DDS profile that large images need."""
    with running(
        'vla_ros.pipeline.camera',
        *arguments,
        environment=camera_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise PipelineError('the camera has no pipes')  # both were asked for
        yield CameraProcess(process.stdin, process.stdout), process


def main() -> int:
    """Run the camera, and return the exit code."""
    clean_shared_memory()
    rclpy.init(args=sys.argv)
    try:
        SteeredCamera().run()
    except KeyboardInterrupt:
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
