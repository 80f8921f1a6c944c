# SPDX-License-Identifier: Apache-2.0
"""An ALOHA with ros2_control, and a policy of OpenVLA-OFT that gives positions of its joints.

docs/recipes/aloha.md is the page. Every argument of ``vla.launch.py`` is one here, too.
"""

from __future__ import annotations

from launch import LaunchDescription

from vla_ros.launching import recipe, share

CAMERAS = {  # the policy's name, and the camera's
    'image': 'cam_high',
    'left_wrist_image': 'cam_left_wrist',
    'right_wrist_image': 'cam_right_wrist',
}
CONTROLLERS = {
    'left/joint_commands': '/left_arm_controller/commands',
    'right/joint_commands': '/right_arm_controller/commands',
    'left_gripper_cmd': '/left_gripper_controller/gripper_cmd',
    'right_gripper_cmd': '/right_gripper_controller/gripper_cmd',
}


def generate_launch_description() -> LaunchDescription:
    topics = {name: f'/{camera}/camera/color/image_rect_raw' for name, camera in CAMERAS.items()}
    return recipe(
        params_file=share('config', 'recipes', 'aloha.yaml'),
        contracts=share('config', 'recipes', 'aloha_contracts.yaml'),
        images=','.join(f'{name}:={topic}' for name, topic in topics.items()),
        remap=','.join(f'{name}:={topic}' for name, topic in CONTROLLERS.items()),
    )
