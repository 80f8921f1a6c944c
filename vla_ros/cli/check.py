"""``vla_check``: send one picture and one instruction to a running node and print its action.

The node publishes that action like any other: a robot that listens to it moves. Afterwards the
instruction is taken back, and the node holds: whatever ends this command, a kill included.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CompressedImage, Image

from vla_ros.client.lease import Heir, Lease
from vla_ros.console import complain, heed, unbuffer_output
from vla_ros.errors import VlaError
from vla_ros.graph.heard import cleaned
from vla_ros.graph.image_messages import compressed_message, image_message
from vla_ros.graph.stamps import from_duration
from vla_ros.images.files import UnreadablePicture, read_picture
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.reasons import State

EXIT_INTERRUPTED = 130  # as of a shell: 128 + SIGINT
EXIT_UNHEARD = 141  # 128 + SIGPIPE

_SEND_PERIOD_S = 1.0  # the picture is sent again, with a new stamp, until its action is heard
_SHOW_PERIOD_S = 5.0
_HEARD_WITHIN_S = 10.0  # discovery takes seconds
_LISTENING = (State.RUNNING, State.HOLDING)
_NOBODY_READS = (errno.EPIPE, errno.EIO)  # a closed pipe, a terminal that is gone


class CheckFailed(VlaError):
    """Why there was no action."""


class CheckNode(Node):
    """Speaks to the node like a camera and a person. Of the main thread."""

    def __init__(self, picture: NDArray[np.uint8], instruction: str) -> None:
        """:param picture: uint8 [H, W, 3] RGB."""
        super().__init__('vla_check')
        self.action: VlaAction | None = None
        self.lease = Lease(self, instruction)
        self._picture = picture.copy()
        self._sent_stamps: set[tuple[int, int]] = set()
        self._last_sent_s = 0.0
        self.create_subscription(VlaAction, 'action', self._on_action, 1)
        self._images = self.create_publisher(Image, 'image', 1)
        self._compressed_images = self.create_publisher(CompressedImage, 'image/compressed', 1)

    @property
    def status(self) -> VlaStatus | None:
        return self.lease.status

    @property
    def heard_on(self) -> list[Publisher]:
        """The image publishers that somebody listens to."""
        return [p for p in (self._images, self._compressed_images) if p.get_subscription_count()]

    @property
    def image_topics(self) -> str:
        return f'{self._images.topic_name} and {self._compressed_images.topic_name}'

    def send(self) -> None:
        """The instruction and the picture, at most once in ``_SEND_PERIOD_S``."""
        now_s = time.monotonic()
        if now_s - self._last_sent_s < _SEND_PERIOD_S:
            return
        self._last_sent_s = now_s
        self.lease.renew()
        self._picture[0, 0, 0] ^= 1  # a camera's noise: the node holds when no pixel ever changes
        for publisher in self.heard_on:
            compressed = publisher is self._compressed_images
            to_message = compressed_message if compressed else image_message
            message = to_message(self._picture, 'vla_check')
            message.header.stamp = self.get_clock().now().to_msg()
            self._sent_stamps.add((message.header.stamp.sec, message.header.stamp.nanosec))
            publisher.publish(message)

    def take_back(self) -> None:
        """Let the node hold again.

        :raises CheckFailed: if it does not say that it does.
        """
        if not self._last_sent_s:
            return
        if not self.lease.take_back(lambda: rclpy.spin_once(self, timeout_sec=0.05)):
            raise CheckFailed(
                f'the node did not say that it heard an empty instruction on {self.lease.topic}: '
                'the instruction may be in force (another process tries for 20 s more); call '
                '~/stop, or publish the empty instruction again'
            )

    def _on_action(self, message: VlaAction) -> None:
        stamp = message.observation_stamp
        if (stamp.sec, stamp.nanosec) in self._sent_stamps:
            self.action = cleaned(message)


def wait_for_action(
    node: CheckNode, timeout_s: float, interrupted: threading.Event
) -> VlaAction | None:
    """Show what the node is at until its action comes; None if a person ends that.

    :raises CheckFailed: if it can't come, or did not in time.
    """
    started_s = time.monotonic()
    shown, shown_at_s, unheard_since_s = '', 0.0, started_s
    while node.action is None and not interrupted.is_set():
        rclpy.spin_once(node, timeout_sec=0.05)
        now_s = time.monotonic()
        text = 'waiting for the node' if node.status is None else node.status.message
        state = text.split(':')[0]
        if state != shown or now_s - shown_at_s > _SHOW_PERIOD_S:
            print(f'{now_s - started_s:7.1f} s  {text}')
            shown, shown_at_s = state, now_s
        if now_s - started_s > timeout_s:
            raise CheckFailed(f'no action within {timeout_s:g} s; {_last_word(node)}')
        if node.status is None:
            continue
        if node.status.state == State.ERROR:
            raise CheckFailed(f'the node is in {node.status.message}')
        if node.status.state not in _LISTENING or node.heard_on:
            unheard_since_s = now_s
        if node.status.state in _LISTENING and node.heard_on:
            node.send()
        if now_s - unheard_since_s > _HEARD_WITHIN_S:
            raise CheckFailed(
                f'the node is active, but nobody listens to {node.image_topics}',
                'name the topic of the node: --ros-args -r image:=/CAMERA/TOPIC',
            )
    return node.action


def _last_word(node: CheckNode) -> str:
    """What is known of the node, and what to do about it."""
    if node.status is None:
        topic = node.resolve_topic_name('status')
        return (
            f'nothing was heard on {topic}: is the node running, in this namespace '
            '(--ros-args -r __ns:=/NAMESPACE) and ROS_DOMAIN_ID?'
        )
    last = f'the last status was {node.status.message}'
    if node.status.state in (State.READY, State.UNCONFIGURED):
        return f'{last}; the node has to be configured and activated (ros2 lifecycle set)'
    return last


def _pattern() -> NDArray[np.uint8]:
    """A colourful picture, uint8 [480, 640, 3]."""
    y, x = np.mgrid[0:480, 0:640]
    return np.stack([x * 255 // 639, y * 255 // 479, (x ^ y) & 255], axis=2).astype(np.uint8)


def _print_action(action: VlaAction) -> None:
    inference_ms = 1e3 * from_duration(action.inference_time)
    latency_ms = 1e3 * from_duration(action.latency)
    print(f'action             {np.round(action.action, 5).tolist()}')
    print(f'names              {", ".join(action.names)}')
    print(f'token probability  {np.round(np.float64(action.token_probabilities), 3).tolist()}')
    print(f'unnorm_key         {action.unnorm_key}')
    print(f'inference          {inference_ms:.1f} ms; capture to publish {latency_ms:.1f} ms')


def main(arguments: list[str] | None = None) -> int:
    unbuffer_output()
    argv = sys.argv if arguments is None else ['vla_check', *arguments]
    parser = argparse.ArgumentParser(prog='vla_check', description=__doc__)
    parser.add_argument('--image', type=Path, help='picture to send (default: a pattern)')
    parser.add_argument('--instruction', default='pick up the cup', help='(default: %(default)s)')
    parser.add_argument(
        '--timeout', type=float, default=600.0, help='seconds to wait in all (default: %(default)s)'
    )
    options = parser.parse_args(remove_ros_args(argv)[1:])
    interrupted = heed()
    try:
        return _check(argv, options, interrupted)
    except OSError as error:
        if error.errno not in _NOBODY_READS:
            raise
        _forget_output()
        return EXIT_UNHEARD


def _check(argv: list[str], options: argparse.Namespace, interrupted: threading.Event) -> int:
    try:
        picture = read_picture(options.image) if options.image else _pattern()
        action = _ask(argv, options, picture, interrupted)
    except (CheckFailed, UnreadablePicture) as failure:
        complain('vla_check', failure)
        return 1
    if action is None:
        return EXIT_INTERRUPTED
    _print_action(action)
    return 0


def _ask(
    argv: list[str],
    options: argparse.Namespace,
    picture: NDArray[np.uint8],
    interrupted: threading.Event,
) -> VlaAction | None:
    """
    :returns: the action; None if a person ended that.
    :raises CheckFailed: if there is none, or the instruction may still be in force.
    """
    # No handlers of rclpy's: the instruction can still be taken back when a signal comes.
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    node = CheckNode(picture, options.instruction)
    heir = Heir(options.instruction, argv[1:])
    try:
        return wait_for_action(node, options.timeout, interrupted)
    finally:
        node.take_back()
        heir.dismiss()  # but if that failed: it goes on trying
        node.destroy_node()
        rclpy.try_shutdown()


def _forget_output() -> None:
    """Keep Python from flushing at its end what can't be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())


if __name__ == '__main__':
    sys.exit(main())
