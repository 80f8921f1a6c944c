"""The node in a process of its own, and a simulated robot that it steers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions

from vla_ros.client.processes import parameter_arguments, running
from vla_ros.client.simulated_robot import EvaluationError, SimulatedRobot
from vla_ros.console import heeding
from vla_ros.share import share_file

_READY_S = 1800.0  # the node's own limits come first
_PATIENT = {
    'frozen_image_timeout_s': '0.0',  # a simulated camera has no noise
    'image_reliability': 'reliable',  # at once, and not when it has seen the camera's offer
    # How late an action may be is for who evaluates to say, not for the node.
    **dict.fromkeys(
        (
            'first_image_timeout_s',
            'image_timeout_s',
            'max_image_age_s',
            'max_action_age_s',
            'inference_timeout_s',
            'hang_timeout_s',
        ),
        '3600.0',
    ),
}


def blocks_model() -> str:
    """The checkpoint that is shipped for the world ``blocks``."""
    return str(share_file('models/blocks/config.json').parent)


@contextlib.contextmanager
def closed_loop(
    namespace: str,
    parameters: Mapping[str, str],
    say: Callable[[str], None],
    simulated_time: bool = False,
    **streams: Any,
) -> Iterator[SimulatedRobot]:
    """
    :param parameters: of the node, beside what any simulation needs.
    :param say: hears of the node's states until it is ready.
    :param streams: of the node's process.
    :raises EvaluationError: if the node can't load and warm its policy.
    :raises KeyboardInterrupt: while the robot waits, after a signal that asks for the end.
    """
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    values = {**_PATIENT, **parameters}
    values['use_sim_time'] = str(simulated_time).lower()
    arguments = parameter_arguments(values)
    remapped = ('-r', f'__ns:={namespace}', '-r', f'/clock:={namespace}/clock')
    with (
        heeding() as stopped,
        running('vla_ros.cli.node', '--ros-args', *remapped, *arguments, **streams) as node,
    ):
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        robot = SimulatedRobot(namespace, simulated_time)
        try:
            robot.check = lambda: _check(node, stopped)
            robot.wait_until_ready(say, _READY_S)
            yield robot
        finally:
            robot.destroy_node()
            rclpy.try_shutdown()


def _check(process: subprocess.Popen[bytes], stopped: threading.Event) -> None:
    if stopped.is_set():
        raise KeyboardInterrupt
    if process.poll() is not None:
        raise EvaluationError(f'the node ended with code {process.returncode}')
