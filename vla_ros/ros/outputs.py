# SPDX-License-Identifier: Apache-2.0
"""The outputs of a robot, by the parameters."""

from __future__ import annotations

from vla_ros.ros.action_output import ActionOutput
from vla_ros.ros.motion_output import MotionOutput
from vla_ros.ros.output import Output, OutputSetup


def make_outputs(setup: OutputSetup) -> list[Output]:
    """Make one object for each form in which the robot's actions are published."""
    outputs: list[Output] = [ActionOutput(setup)]
    if setup.parameters.motion == 'twist':
        outputs.append(MotionOutput(setup))
    return outputs
