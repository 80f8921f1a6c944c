"""A camera that does as it is told, for ``vla_bench --pipeline``: 640x480 rgb8, reliable.

It is told by lines on standard input: ``show RATE`` shows pictures at so many hertz, ``once`` one
picture, and ``stop`` makes it answer by a line on standard output: how many pictures were due and
how many published since the last stop. It ends with its input.

Like a camera it keeps to its rate: what it is more than a period late for is not shown any more.
Each picture is noise and another than the one before, as in the rest of ``vla_bench``.
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
from vla_ros.measure.pictures import noise_pictures
from vla_ros.pipeline.summary import PipelineError

_PICTURES = 31  # a policy that takes one of so many by chance is shown the same again


class SteeredCamera:
    """Of the main thread. Publishing needs no executor."""

    def __init__(self) -> None:
        self._node = rclpy.create_node('camera')
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        self._publisher = self._node.create_publisher(Image, 'image', qos)
        messages = [image_message(picture, 'camera') for picture in noise_pictures(_PICTURES)]
        self._messages = itertools.cycle(messages)
        self._period_s: float | None = None  # None: nothing is shown by itself
        self._next_s = 0.0  # when the next picture is due, monotonic
        self._due = 0
        self._published = 0

    def run(self) -> None:
        """Until the input ends."""
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
    """The other end of its standard input and output."""

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        self._commands, self._answers = commands, answers

    def tell(self, command: str) -> None:
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
