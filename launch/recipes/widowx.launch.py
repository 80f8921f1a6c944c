# SPDX-License-Identifier: Apache-2.0
"""A WidowX 250 S with MoveIt Servo, and OpenVLA as trained on BridgeData V2.

docs/recipes/widowx.md is the page. Every argument of ``vla.launch.py`` is one here, too.
"""

from __future__ import annotations

from launch import LaunchDescription

from vla_ros.launching import recipe, share


def generate_launch_description() -> LaunchDescription:
    return recipe(
        params_file=share('config', 'recipes', 'widowx.yaml'),
        image='/camera/camera/color/image_raw',
        twist='/servo_node/delta_twist_cmds',
        gripper_cmd='/wx250s/gripper_controller/gripper_cmd',
        tool_frame='wx250s/ee_gripper_link',
    )
