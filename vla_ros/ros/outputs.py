# SPDX-License-Identifier: Apache-2.0
"""The outputs of a robot, by the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vla_ros.ros.action_output import ActionOutput
from vla_ros.ros.joint_output import ForwardOutput, TrajectoryOutput
from vla_ros.ros.output import Output, OutputSetup
from vla_ros.ros.pose_output import PoseOutput
from vla_ros.ros.twist_output import TwistOutput

# By the value of the parameter motion.
_MOTIONS: Mapping[str, Callable[[OutputSetup], Output]] = {
    'twist': TwistOutput,
    'pose': PoseOutput,
    'joint_trajectory': TrajectoryOutput,
    'forward': ForwardOutput,
}


def make_outputs(setup: OutputSetup) -> list[Output]:
    """Make one object for each form in which the robot's actions are published."""
    outputs: list[Output] = [ActionOutput(setup)]
    if setup.parameters.motion != 'none':
        outputs.append(_MOTIONS[setup.parameters.motion](setup))
    return outputs
