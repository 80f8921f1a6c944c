# SPDX-License-Identifier: Apache-2.0
"""A Franka Research 3 with MoveIt Servo, and OpenVLA as fine-tuned on LIBERO.

docs/recipes/franka.md is the page. Every argument of ``vla.launch.py`` is one here, too.
"""

from __future__ import annotations

from launch import LaunchDescription

from vla_ros.launching import recipe, share


def generate_launch_description() -> LaunchDescription:
    return recipe(
        params_file=share('config', 'recipes', 'franka.yaml'),
        image='/camera/camera/color/image_raw',
        twist='/servo_node/delta_twist_cmds',
        gripper_cmd='/franka_gripper/gripper_action',
        tool_frame='fr3_hand_tcp',
    )
