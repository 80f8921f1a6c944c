"""Start the node ``vla``. ``ros2 launch vla_ros vla.launch.py --show-args`` lists the arguments.

Each parameter of the node is an argument. An empty one leaves the parameter as in the params_file.
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

from vla_ros.parameters.definition import DEFINITIONS, Definition

RESPAWN_DELAY_S = 2.0

# Topics of the node that can be remapped.
TOPICS = {
    'image': 'topic of the camera',
    'twist': 'topic for the twists, such as /servo_node/delta_twist_cmds',
    'gripper': 'topic for the opening of the gripper',
}


def parameter_value(name: str, kind: type, text: str) -> ParameterValue:
    """Return the parameter's value; raise RuntimeError if the text does not have its type."""
    if kind is tuple:
        return ParameterValue([item.strip() for item in text.split(',')], value_type=None)
    try:
        value = {'true': True, 'false': False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        expected = 'true or false' if kind is bool else 'a number'
        raise RuntimeError(f'launch argument {name} is {text!r}; expected {expected}') from None
    return ParameterValue(value, value_type=kind)


def argument_help(one: Definition) -> str:
    """Return the help of a parameter's argument."""
    return f'{one.help} Commas separate the names.' if one.kind is tuple else one.help


def remappings(topic: str, given: str, robots: str) -> list[tuple[str, str]]:
    """Return the remappings of a topic: to one name, or to one for each robot in their order."""
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
    """Return the node, with the parameters that are given as arguments."""
    given = dict(context.launch_configurations)  # a copy, used at every start
    overrides = {
        name: parameter_value(name, one.kind, given[name])
        for name, one in DEFINITIONS.items()
        if given[name]
    }
    logger = '.'.join([*filter(None, given['namespace'].split('/')), 'vla'])

    def start(again: bool = False) -> list[Action]:
        # After a crash the robots wait for the operator, who may have stopped them.
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
        """Start it again, unless the user ended it (0) or must fix an argument (2)."""
        if context.is_shutdown or given['respawn'] == 'false' or event.returncode in (0, 2):
            return None
        return [TimerAction(period=RESPAWN_DELAY_S, actions=start(again=True))]

    return start()


def generate_launch_description() -> LaunchDescription:
    share = Path(get_package_share_directory('vla_ros'))
    arguments = [
        DeclareLaunchArgument(name, default_value='', description=argument_help(one))
        for name, one in DEFINITIONS.items()
    ]
    return LaunchDescription(
        [
            *arguments,
            *[
                DeclareLaunchArgument(
                    topic,
                    default_value=topic,
                    description=f'{what}; for several robots one each, as in /a/{topic},/b/{topic}',
                )
                for topic, what in TOPICS.items()
            ],
            DeclareLaunchArgument(
                'namespace', default_value='', description='namespace of the node'
            ),
            DeclareLaunchArgument(
                'params_file',
                default_value=str(share / 'config' / 'vla.yaml'),
                description='YAML file with parameters',
            ),
            DeclareLaunchArgument(
                'log_level', default_value='info', description='log level of the node'
            ),
            DeclareLaunchArgument(
                'respawn',
                default_value='true',
                choices=['true', 'false'],
                description='start the node again when it hangs or crashes',
            ),
            OpaqueFunction(function=start_node),
        ]
    )
