# SPDX-License-Identifier: Apache-2.0
"""The simulated arm and camera for a node that runs elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

from std_srvs.srv import Trigger

from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.console import EndRequest
from vla_ros.evaluation.closed_loop import blocks_model, end_in_error
from vla_ros.evaluation.pace import Pace
from vla_ros.evaluation.play import main_image
from vla_ros.evaluation.running import FreeRun
from vla_ros.evaluation.window import open_window
from vla_ros.simulation import BlocksWorld

_NAME = 'vla_simulation'


def _node_command() -> str:
    """Return the command that starts a node for this arm: the one beside this, or by launch."""
    model, beside = blocks_model(), Path(sys.executable).with_name('vla_node')
    if beside.exists():  # after make setup; colcon installs it elsewhere
        return f'{beside} --ros-args -p model:={model} -p frozen_image_timeout_s:=0.0'
    return f'ros2 launch vla_ros vla.launch.py model:={model} frozen_image_timeout_s:=0.0'


def run_alone(world: BlocksWorld, pace: Pace, first_seed: int, stopped: EndRequest) -> None:
    """Play until a signal to end comes; the service ``~/start_over`` begins at another start.

    :param first_seed: seed of the first start.
    :raises EvaluationError: if the node is in ERROR.
    """
    robot, window = SimulatedRobot(name=_NAME), open_window(_NAME)
    robot.check = lambda: end_in_error(robot)
    starts_asked_for = 1

    def start_over(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        nonlocal starts_asked_for
        starts_asked_for += 1
        response.success = True
        return response

    robot.node.create_service(Trigger, '~/start_over', start_over)
    print(f'start the node: {_node_command()}\ninstructions: {", ".join(world.instructions)}')
    starts = 0
    while not stopped.is_set():
        if starts < starts_asked_for:
            world.reset(first_seed + starts, world.instructions[0])
            run = FreeRun(robot, world, pace)
            starts += 1
        run.advance(watch=lambda observation, action: None)
        if window is not None:
            window.show(main_image(run.observation))
