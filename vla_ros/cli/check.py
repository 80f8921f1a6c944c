# SPDX-License-Identifier: Apache-2.0
"""``vla_check``: send one observation and instruction to a running node, and print its action.

The node publishes this action like any other, so a robot that listens to it moves. At the end of
this command, even if it is killed, the instruction is taken back and the node holds.
"""

from __future__ import annotations

import argparse
import errno
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from vla_ros.cli import exit_codes
from vla_ros.client.lease import Heir
from vla_ros.client.question import Question, pattern
from vla_ros.console import EndRequest, catch_signals, complain, forget_output, unbuffer_output
from vla_ros.errors import VlaError
from vla_ros.graph.arguments import ArgumentsError, usable_arguments
from vla_ros.graph.stamps import from_duration
from vla_ros.images.files import read_image
from vla_ros.msg import VlaAction

_UNHEARD = (errno.EPIPE, errno.EIO)  # a closed pipe, a closed terminal


def main(arguments: list[str] | None = None) -> int:
    unbuffer_output()
    argv = sys.argv if arguments is None else ['vla_check', *arguments]
    parser = argparse.ArgumentParser(prog='vla_check', description=__doc__)
    parser.add_argument('--image', type=Path, help='image file to send (default: a pattern)')
    parser.add_argument('--contracts', default='', help="YAML file, as the node's contracts")
    parser.add_argument('--frame-id', default='', help="frame of ee_pose, as the node's frame_id")
    parser.add_argument('--instruction', default='pick up the cup', help='(default: %(default)s)')
    parser.add_argument(
        '--timeout',
        type=float,
        default=600.0,
        help='longest wait for the action [s] (default: %(default)s)',
    )
    options = parser.parse_args(remove_ros_args(argv)[1:])
    interrupted = catch_signals()
    try:
        return _check(argv, options, interrupted)
    except OSError as error:
        if error.errno not in _UNHEARD:
            raise
        forget_output()
        return exit_codes.UNHEARD


def _check(argv: list[str], options: argparse.Namespace, interrupted: EndRequest) -> int:
    try:
        image = read_image(options.image) if options.image else pattern()
        action = _ask(argv, options, image, interrupted)
    except ArgumentsError as error:
        complain('vla_check', error)
        return exit_codes.BAD_ARGUMENTS
    except VlaError as failure:
        complain('vla_check', failure)
        return exit_codes.FAILED
    if action is None:
        return exit_codes.INTERRUPTED
    _print_action(action)
    return 0


def _ask(
    argv: list[str],
    options: argparse.Namespace,
    image: NDArray[np.uint8],
    interrupted: EndRequest,
) -> VlaAction | None:
    """Return the action; None if a signal ended the wait.

    :raises CheckFailed: if there is none, or the instruction may still be in force.
    :raises ArgumentsError: if ROS rejects the arguments.
    """
    with usable_arguments():
        # No handlers of rclpy, so that the instruction can still be taken back after a signal.
        rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
        node = Node('vla_check')
    started_s = time.monotonic()
    question = Question(
        node,
        image,
        options.instruction,
        lambda text: print(f'{time.monotonic() - started_s:7.1f} s  {text}'),
        options.contracts,
        options.frame_id,
    )
    heir = Heir(options.instruction, argv[1:])
    try:
        return question.ask(options.timeout, interrupted)
    finally:
        question.take_back()
        heir.dismiss()  # not after a failure: then it keeps trying
        question.close()
        node.destroy_node()
        rclpy.try_shutdown()


def _print_action(action: VlaAction) -> None:
    inference_ms = 1e3 * from_duration(action.inference_time)
    latency_ms = 1e3 * from_duration(action.latency)
    print(f'action             {np.round(action.action, 5).tolist()}')
    print(f'names              {", ".join(action.names)}')
    print(f'token probability  {np.round(np.float64(action.token_probabilities), 3).tolist()}')
    print(f'unnorm_key         {action.unnorm_key}')
    print(f'inference          {inference_ms:.1f} ms; capture to publish {latency_ms:.1f} ms')


if __name__ == '__main__':
    sys.exit(main())
