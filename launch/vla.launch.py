"""Starts the node ``vla``. ``ros2 launch vla_ros vla.launch.py --show-args`` lists the arguments.

An argument that is left empty leaves the parameter as the params_file has it.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# Parameters of the node: name, type, description.
PARAMETERS = [
    ('model', str, 'checkpoint folder, or hub id such as openvla/openvla-7b'),
    ('revision', str, 'branch, tag or commit of a hub id'),
    ('device', str, 'auto, cuda, cuda:N, mps or cpu'),
    ('dtype', str, 'auto, float32, bfloat16 or float16'),
    ('quantization', str, 'none'),
    ('unnorm_key', str, 'data set whose statistics scale the actions'),
    ('instruction', str, 'what the robot shall do until the topic says otherwise'),
    ('image_transport', str, 'raw or compressed'),
    ('frame_id', str, 'frame that the actions are given in'),
    ('image_timeout_s', float, 'hold when no picture came for so long'),
    ('max_image_age_s', float, 'an older picture is not given to the policy'),
    ('inference_timeout_s', float, 'an inference that takes longer is cancelled'),
    ('max_action_age_s', float, 'an action whose picture is older is not published'),
    ('hang_timeout_s', float, 'exit with code 70 when a late inference hangs for so long'),
    ('warmup_timeout_s', float, 'loading, and then warming up, may take so long'),
]


def start_node(context: LaunchContext) -> list[Node]:
    """The node, with those parameters that were given as arguments."""

    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    overrides = {}
    for name, kind, _ in PARAMETERS:
        try:
            if given(name):
                overrides[name] = ParameterValue(kind(given(name)), value_type=kind)
        except ValueError:
            raise RuntimeError(
                f'launch argument {name} is {given(name)!r}; expected a number'
            ) from None
    logger = '.'.join([*filter(None, given('namespace').split('/')), 'vla'])
    return [
        Node(
            package='vla_ros',
            executable='vla_node',
            name='vla',
            namespace=given('namespace'),
            parameters=[given('params_file'), overrides],
            remappings=[
                ('image', given('image')),
                ('image/compressed', given('image') + '/compressed'),
            ],
            arguments=['--ros-args', '--log-level', f'{logger}:={given("log_level")}'],
            respawn=given('respawn').lower() == 'true',
            respawn_delay=2.0,
            output='screen',
            emulate_tty=True,
        )
    ]


def generate_launch_description() -> LaunchDescription:
    share = Path(get_package_share_directory('vla_ros'))
    arguments = [
        DeclareLaunchArgument(name, default_value='', description=description)
        for name, _, description in PARAMETERS
    ]
    return LaunchDescription(
        [
            *arguments,
            DeclareLaunchArgument('image', default_value='image', description='camera topic'),
            DeclareLaunchArgument('namespace', default_value='', description='of the node'),
            DeclareLaunchArgument(
                'params_file',
                default_value=str(share / 'config' / 'vla.yaml'),
                description='YAML file with parameters',
            ),
            DeclareLaunchArgument('log_level', default_value='info', description='of the node'),
            DeclareLaunchArgument(
                'respawn',
                default_value='false',
                choices=['true', 'false'],
                description='start the node again when it exits',
            ),
            OpaqueFunction(function=start_node),
        ]
    )
