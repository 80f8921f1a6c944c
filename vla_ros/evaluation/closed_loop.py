# SPDX-License-Identifier: Apache-2.0
"""The node in a separate process, and the simulated robot that it controls."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions

from vla_ros.client.processes import PATIENT, parameter_arguments, running
from vla_ros.client.simulated_robot import SimulatedRobot, SimulatedTimeRobot
from vla_ros.console import EndRequest, Say, catching_signals
from vla_ros.evaluation.episode import EvaluationError
from vla_ros.msg import VlaStatus
from vla_ros.reasons import State
from vla_ros.share import share_file
from vla_ros.types import PolicySpec

_READY_S = 1800.0  # the node's own limits come first
_STATUS_S = 20.0  # a status comes once a second, unless the machine is busy

# Limits for ages: the evaluation judges them, not the node. The world gives the whole state.
_NO_LIMITS = {
    'max_image_age_s': '3600.0',
    'state_timeout_s': '3600.0',
    'state_from': 'topic',
}


def blocks_model(world: str = 'blocks') -> str:
    """Return the folder of the checkpoint that is shipped for a world.

    :raises EvaluationError: if none is.
    """
    try:
        return str(share_file(f'models/{world}/config.json').parent)
    except FileNotFoundError as error:
        raise EvaluationError(
            f'no model is shipped for the world {world}', 'add --model'
        ) from error


@contextlib.contextmanager
def closed_loop(
    namespace: str,
    parameters: Mapping[str, str],
    say: Say,
    simulated_time: bool = False,
    spec: PolicySpec | None = None,
    **streams: Any,
) -> Iterator[SimulatedRobot]:
    """Start a node, wait until its policy is warm, and yield the robot that it controls.

    :param parameters: parameters of the node, in addition to those that any simulation needs.
    :param say: called with each state of the node until it is ready.
    :param spec: spec of the policy; None: it needs one camera and no state.
    :param streams: standard streams of the node's process.
    :raises EvaluationError: if the node can't load and warm its policy.
    :raises KeyboardInterrupt: while the robot waits, after a signal that asks for the end.
    """
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    values = {**PATIENT, **_NO_LIMITS, **parameters}
    values['use_sim_time'] = str(simulated_time).lower()
    arguments = parameter_arguments(values)
    remapped = ('-r', f'__ns:={namespace}', '-r', f'/clock:={namespace}/clock')
    with (
        catching_signals() as stopped,
        running('vla_ros.cli.node', '--ros-args', *remapped, *arguments, **streams) as node,
    ):
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        kind = SimulatedTimeRobot if simulated_time else SimulatedRobot
        robot = kind(namespace, spec=spec)
        try:
            robot.check = lambda: _check(robot, node, stopped)
            _wait_until_ready(robot, say)
            yield robot
        finally:
            robot.close()
            rclpy.try_shutdown()


def settled_status(robot: SimulatedRobot) -> VlaStatus:
    """Return a status that is sent from now on, which counts all that happened before.

    :raises EvaluationError: if none comes.
    """
    status = robot.next_status(_STATUS_S)
    if status is None:
        raise EvaluationError(f'the node sends no status within {_STATUS_S:g} s')
    return status


def end_in_error(robot: SimulatedRobot) -> None:
    """Raise EvaluationError if the node is in ERROR; used as ``robot.check``."""
    if robot.latest.state == State.ERROR:
        raise EvaluationError(f'the node is in {robot.latest.message}')


def _check(robot: SimulatedRobot, process: subprocess.Popen[bytes], stopped: EndRequest) -> None:
    if stopped.is_set():
        raise KeyboardInterrupt
    if process.poll() is not None:
        raise EvaluationError(f'the node ended with code {process.returncode}')
    end_in_error(robot)


def _wait_until_ready(robot: SimulatedRobot, say: Callable[[str], object]) -> None:
    said = ''

    def say_changes(status: VlaStatus) -> None:
        nonlocal said
        if status.message != said:
            said = status.message
            say(said)

    robot.on_status = say_changes
    answer = robot.wait_for(State.HOLDING, State.RUNNING, timeout_s=_READY_S)
    robot.on_status = lambda status: None
    end_in_error(robot)
    if not answer.ok:
        raise EvaluationError(f'the policy is not warm: {answer.message}')
