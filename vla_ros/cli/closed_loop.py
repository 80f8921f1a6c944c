"""The node in a process of its own, and a simulated robot that it steers."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import rclpy

from vla_ros.cli.processes import running
from vla_ros.cli.simulated_robot import EvaluationError, SimulatedRobot

_READY_S = 1800.0  # the node's own limits come first
# What the node allows is not what is judged here: slow policies and late pictures may be.
_PATIENT = {
    'frozen_image_timeout_s': '0.0',  # a simulated camera has no noise
    'image_reliability': 'reliable',  # at once, and not when it has seen the camera's offer
    'max_image_age_s': '10.0',
    'max_action_age_s': '60.0',
    'inference_timeout_s': '50.0',
    'hang_timeout_s': '60.0',
}


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
    """
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    values = {**_PATIENT, **parameters}
    values['use_sim_time'] = str(simulated_time).lower()
    arguments = [word for name, value in values.items() for word in ('-p', f'{name}:={value}')]
    remapped = ('-r', f'__ns:={namespace}', '-r', f'/clock:={namespace}/clock')
    with running('vla_ros.cli.node', '--ros-args', *remapped, *arguments, **streams) as node:
        rclpy.init()
        try:
            robot = SimulatedRobot(namespace, simulated_time)
            robot.check = lambda: _check_process(node)
            robot.wait_until_ready(say, _READY_S)
            yield robot
        finally:
            rclpy.try_shutdown()


def _check_process(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        raise EvaluationError(f'the node ended with code {process.returncode}')
