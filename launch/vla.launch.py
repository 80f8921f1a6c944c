"""Starts the node ``vla``. ``ros2 launch vla_ros vla.launch.py --show-args`` lists the arguments.

An argument that is left empty leaves the parameter as the params_file has it.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

RESPAWN_DELAY_S = 2.0

# Parameters of the node: name, type, description.
PARAMETERS = [
    ('model', str, 'checkpoint folder, hub id such as openvla/openvla-7b, or scripted:...'),
    ('revision', str, 'branch, tag or commit of a hub id'),
    ('device', str, 'auto, cuda, cuda:N, mps or cpu'),
    ('dtype', str, 'auto, float32, bfloat16 or float16'),
    ('quantization', str, 'none, int8 or int4'),
    ('compile', bool, 'true: compile the model with torch.compile while warming up'),
    ('unnorm_key', str, 'data set whose statistics scale the actions'),
    ('robots', tuple, 'names of the robots that the policy serves, such as a,b'),
    ('instruction', str, 'what every robot shall do until its topic says otherwise'),
    ('latch_file', str, 'file that keeps what the operator decided when the process ends'),
    ('max_command_age_s', float, 'maximum age of a command that sets a robot going [s]'),
    ('image_transport', str, 'raw or compressed'),
    ('enabled', bool, 'false: hold until ~/enable is called'),
    ('preprocessing', str, "raw; or training: pictures as in OpenVLA's training"),
    ('rotate_180', bool, 'true: turn pictures by 180 degrees first'),
    ('frame_id', str, 'frame that the actions are given in; with robots one of each, or one'),
    ('motion', str, 'none; or twist: also send topics twist and gripper'),
    ('contracts', str, 'YAML file: what the actions of further data sets mean'),
    ('control_rate_hz', float, 'so often is a twist sent while the robot moves'),
    ('max_linear_speed_m_s', float, 'no twist is faster'),
    ('max_angular_speed_rad_s', float, 'no twist is faster'),
    ('max_linear_jerk_m_s3', float, 'the lower, the longer a twist ramps'),
    ('max_angular_jerk_rad_s3', float, 'the lower, the longer a twist ramps'),
    ('max_image_age_s', float, 'an older picture is not given to the policy'),
    ('inference_timeout_s', float, 'an inference that takes longer is cancelled'),
    ('max_action_age_s', float, 'an action whose picture is older is not published'),
    ('hang_timeout_s', float, 'end the process when it, or a late inference, hangs for so long'),
    ('load_timeout_s', float, 'loading, with a download, may take so long'),
    ('warmup_timeout_s', float, 'warming up may take so long'),
    ('first_image_timeout_s', float, 'say what is wrong when no picture came since activation'),
    ('image_timeout_s', float, 'hold when no new picture came for so long'),
    (
        'frozen_image_timeout_s',
        float,
        'hold when for so long no new image came, but old ones again',
    ),
    ('no_instruction_timeout_s', float, 'say what is wrong when no instruction comes for so long'),
    ('max_instruction_age_s', float, 'take back an instruction not repeated for so long'),
]

# Topics of the node that can be called otherwise.
TOPICS = {
    'image': "the camera's topic",
    'twist': 'where the twists go, such as /servo_node/delta_twist_cmds',
    'gripper': "where the gripper's opening goes",
}


def read(name: str, kind: type, text: str) -> bool | float | str | list[str]:
    """The value of an argument."""
    if kind is tuple:
        return [item.strip() for item in text.split(',')]
    try:
        return {'true': True, 'false': False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        expected = 'true or false' if kind is bool else 'a number'
        raise RuntimeError(f'launch argument {name} is {text!r}; expected {expected}') from None


def remappings(topic: str, given: str, robots: str) -> list[tuple[str, str]]:
    """From a topic of the node to the names that were given: one, or one of each robot in order."""
    if given == topic:
        return []  # the topics keep their names
    names, others = ([part.strip() for part in text.split(',')] for text in (robots, given))
    if len(others) != len(names):
        raise RuntimeError(
            f'launch argument {topic} is {given!r}, {len(others)} topics; expected {len(names)}, '
            'one for each robot in the argument robots'
        )
    transports = ('', '/compressed') if topic == 'image' else ('',)
    own = [f'{name}/{topic}' if name else topic for name in names]
    return [
        (f'{one}{transport}', f'{other}{transport}')
        for one, other in zip(own, others, strict=True)
        for transport in transports
    ]


def start_node(context: LaunchContext) -> list[Action]:
    """The node, with those parameters that were given as arguments."""
    given = dict(context.launch_configurations)  # a copy: it holds for every start
    overrides = {
        name: ParameterValue(
            read(name, kind, given[name]), value_type=None if kind is tuple else kind
        )
        for name, kind, _ in PARAMETERS
        if given[name]
    }
    logger = '.'.join([*filter(None, given['namespace'].split('/')), 'vla'])

    def start(again: bool = False) -> list[Action]:
        # A robot whose node has died waits for a person, who may have stopped it.
        held = {'enabled': False} if again else {}
        node = Node(
            package='vla_ros',
            executable='vla_node',
            name='vla',
            namespace=given['namespace'],
            parameters=[given['params_file'], {**overrides, **held}],
            remappings=[
                pair
                for topic in TOPICS
                for pair in remappings(topic, given[topic], given['robots'])
            ],
            arguments=['--ros-args', '--log-level', f'{logger}:={given["log_level"]}'],
            output='screen',
            emulate_tty=True,
        )
        return [node, RegisterEventHandler(OnProcessExit(target_action=node, on_exit=ended))]

    def ended(event: ProcessExited, context: LaunchContext) -> list[Action] | None:
        """Start it again, unless a person ended it (0) or has to mend an argument (2)."""
        if context.is_shutdown or given['respawn'] == 'false' or event.returncode in (0, 2):
            return None
        return [TimerAction(period=RESPAWN_DELAY_S, actions=start(again=True))]

    return start()


def generate_launch_description() -> LaunchDescription:
    share = Path(get_package_share_directory('vla_ros'))
    arguments = [
        DeclareLaunchArgument(name, default_value='', description=description)
        for name, _, description in PARAMETERS
    ]
    return LaunchDescription(
        [
            *arguments,
            *[
                DeclareLaunchArgument(
                    topic,
                    default_value=topic,
                    description=f'{what}; with robots one of each, such as /a/{topic},/b/{topic}',
                )
                for topic, what in TOPICS.items()
            ],
            DeclareLaunchArgument('namespace', default_value='', description='of the node'),
            DeclareLaunchArgument(
                'params_file',
                default_value=str(share / 'config' / 'vla.yaml'),
                description='YAML file with parameters',
            ),
            DeclareLaunchArgument('log_level', default_value='info', description='of the node'),
            DeclareLaunchArgument(
                'respawn',
                default_value='true',
                choices=['true', 'false'],
                description='start the node again when it hangs or crashes',
            ),
            OpaqueFunction(function=start_node),
        ]
    )
