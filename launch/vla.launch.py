# SPDX-License-Identifier: Apache-2.0
"""Start the node ``vla``. ``ros2 launch vla_ros vla.launch.py --show-args`` lists the arguments.

Each parameter of the node is an argument. An empty one leaves the parameter as in the params_file.

In a bring-up, only what it passes in ``launch_arguments`` counts: its own arguments may have the
same names and other meanings. launch puts both into one dictionary (``launch_configurations``), so
the names are taken from the inclusion itself.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

from vla_ros.launching import inclusion, passed_names, share
from vla_ros.parameters.check import ParameterError, check_value
from vla_ros.parameters.definition import DEFINITIONS, Definition

RESPAWN_DELAY_S = 2.0

# Topics of the node that can be remapped.
TOPICS = {
    'image': 'Topic of the only camera',
    'twist': 'Topic for the twists, such as /servo_node/delta_twist_cmds',
    'target_pose': 'Topic for the targets, such as /servo_node/pose_target_cmds',
    'gripper': 'Topic for the opening of the gripper',
    'gripper_cmd': "Action of the gripper's controller, such as /gripper_controller/gripper_cmd",
    'joint_commands': 'Topic for the positions of joints, such as /arm_controller/commands',
    'joint_trajectory': 'Topic for trajectories, such as /arm_controller/joint_trajectory',
    'ee_pose': "Topic of the tool's pose",
    'joint_states': 'Topic of the positions of the joints',
    'state': 'Topic of the whole state',
}
CAMERA = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')  # a token of a ROS name
BOOLS = {'true': True, 'false': False}
CHOICES = {
    'console': tuple(BOOLS),
    'log_level': ('debug', 'info', 'warn', 'error', 'fatal'),
    'respawn': tuple(BOOLS),
}
# Arguments that ``ros2 launch`` adds for options of its own.
OPTIONS_OF_ROS2_LAUNCH = ('launch-prefix', 'launch-prefix-filter')


def argument_help(one: Definition) -> str:
    """Return the help of a parameter's argument: sentence, unit, allowed values, default."""
    allowed = ' Allowed: true, false.' if one.kind is bool else ''
    names = ' Commas separate the names.' if one.kind is tuple else ''
    return f'{one.help}{allowed}{names} Default: {default_text(one.default)}.'


def default_text(default: object) -> str:
    """Return a default as it is written on the command line."""
    if isinstance(default, bool):
        return str(default).lower()
    return f'{default:g}' if isinstance(default, float) else str(default or 'empty')


def other_arguments() -> dict[str, tuple[str, str]]:
    """Return default and help of the arguments that are no parameters of ours, by name."""
    topics = {
        topic: (topic, f'{what}; for several robots one each, as in /a/{topic},/b/{topic}.')
        for topic, what in TOPICS.items()
    }
    return topics | {
        'images': (
            '',
            'Topics of several cameras, by their names in the policy, as in '
            'front:=/front/color,wrist:=/wrist/color; for several robots a/front:=/a/color,...',
        ),
        'remap': (
            '',
            'Other names of further topics and actions, as in '
            'left/joint_commands:=/left_arm_controller/commands,left_gripper_cmd:=/left/gripper.',
        ),
        'use_sim_time': (
            '',
            'Whether the time is that of /clock. Allowed: true, false. Default: false.',
        ),
        'namespace': ('', 'Namespace of the node.'),
        'params_file': (share('config', 'vla.yaml'), 'YAML file with parameters.'),
        'log_level': (
            'info',
            f'Log level of the node. Allowed: {", ".join(CHOICES["log_level"])}.',
        ),
        'respawn': (
            'true',
            'Whether to start the node again when it hangs or crashes. Allowed: true, false.',
        ),
        'console': (
            'false',
            'Whether to start vla_console, a web page for the operator. Allowed: true, false.',
        ),
        'console_port': ('8080', 'Port of that page, on this machine only.'),
    }


def arguments() -> dict[str, tuple[str, str]]:
    """Return default and help of all arguments, by name; an empty default keeps the parameter's."""
    parameters = {name: ('', argument_help(one)) for name, one in DEFINITIONS.items()}
    return parameters | other_arguments()


# -- what was given ----------------------------------------------------------------------------


def given_arguments(context: LaunchContext) -> tuple[dict[str, str], list[str]]:
    """Return the value of each argument, and the names that a bring-up set but did not pass.

    :raises RuntimeError: if an argument that was passed is not declared.
    """
    defaults = {name: default for name, (default, _) in arguments().items()}
    values = {name: context.launch_configurations.get(name, defaults[name]) for name in defaults}
    included = inclusion()
    if included is None:
        return values, []
    passed = passed_names(context, included)
    check_declared(passed - {*OPTIONS_OF_ROS2_LAUNCH}, defaults)
    foreign = [name for name in defaults if name not in passed and values[name] != defaults[name]]
    return values | {name: defaults[name] for name in foreign}, foreign


def check_declared(passed: Collection[str], declared: Collection[str]) -> None:
    """Raise RuntimeError if a name is not declared; it tells the nearest one."""
    unknown = sorted(set(passed) - set(declared))
    if not unknown:
        return
    hints = {name: difflib.get_close_matches(name, declared, n=1) for name in unknown}
    told = [f'{name} (did you mean {hint[0]}?)' if hint else name for name, hint in hints.items()]
    raise RuntimeError(
        f'undeclared launch argument: {", ".join(told)}; all are listed by: '
        'ros2 launch vla_ros vla.launch.py --show-args'
    )


def parameter_value(name: str, kind: type, text: str) -> ParameterValue:
    """Return the parameter's value; raise RuntimeError if the text does not have its type."""
    try:
        readers = {bool: lambda: BOOLS[text.lower()], tuple: lambda: items(text)}
        value = readers.get(kind, lambda: kind(text))()
    except (KeyError, ValueError):
        expected = {bool: 'true or false', int: 'a whole number'}.get(kind, 'a number')
        raise RuntimeError(f'launch argument {name} is {text!r}; expected {expected}') from None
    if name in DEFINITIONS:
        check_allowed(name, value)
    return ParameterValue(value, value_type=None if kind is tuple else kind)


def items(text: str) -> list[str]:
    """Return the items between the commas."""
    return [item.strip() for item in text.split(',')]


def check_allowed(name: str, value: object) -> None:
    """Raise RuntimeError if the node would reject the value."""
    try:
        check_value(name, value)
    except ParameterError as error:
        raise RuntimeError(f'launch argument: {error}') from None


def check_choices(given: Mapping[str, str]) -> None:
    """Raise RuntimeError if an argument that is no parameter has a value that is not allowed."""
    for name, choices in CHOICES.items():
        if given[name] not in choices:
            raise RuntimeError(
                f'launch argument {name} is {given[name]!r}; expected {", ".join(choices)}'
            )


def parameters(given: Mapping[str, str]) -> dict[str, ParameterValue]:
    """Return the parameters that are given as arguments."""
    kinds = {name: one.kind for name, one in DEFINITIONS.items()} | {'use_sim_time': bool}
    return {
        name: parameter_value(name, kind, given[name])
        for name, kind in kinds.items()
        if given[name]
    }


def full_namespace(pushed: str, own: str) -> str:
    """Return the absolute namespace of the node; empty for the root.

    :param pushed: of the PushRosNamespace around this file.
    """
    parts = [own] if own.startswith('/') else [pushed, own]
    return ''.join(f'/{name}' for part in parts for name in part.split('/') if name)


def remappings(topic: str, given: str, robots: str) -> list[tuple[str, str]]:
    """Return the remappings of a topic: to one name, or to one for each robot in their order."""
    if given == topic:
        return []  # the topics keep their names
    names, others = items(robots), items(given)
    if len(others) != len(names):
        raise RuntimeError(
            f'launch argument {topic} is {given!r}, {len(others)} topics; expected {len(names)}, '
            'one for each robot in the argument robots'
        )
    own = [f'{name}/{topic}' if name else topic for name in names]
    return list(zip(own, others, strict=True))


def camera_remappings(given: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the remappings of NAME/image, for each camera that the argument images names."""
    text, robots = given['images'], items(given['robots'])
    if not text:
        return []
    if given['image'] != 'image':
        raise RuntimeError(
            f'launch arguments image, {given["image"]!r}, and images, {text!r}: expected one of '
            'them, image for a policy with one camera, images for one with several'
        )
    found: dict[str, str] = {}
    for item in items(text):
        name, _, topic = item.partition(':=')
        robot, _, camera = name.rpartition('/')
        if not CAMERA.fullmatch(camera) or not topic or robot not in robots:
            whose = f' with a robot of {", ".join(robots)}' if robots != [''] else ''
            form = 'ROBOT/CAMERA:=TOPIC' if whose else 'CAMERA:=TOPIC'
            raise RuntimeError(f'launch argument images has {item!r}; expected {form}{whose}')
        if name in found:
            raise RuntimeError(
                f'launch argument images has {name} twice; expected each camera once'
            )
        found[name] = topic
    return [(f'{name}/image', topic) for name, topic in found.items()]


def further_remappings(text: str) -> list[tuple[str, str]]:
    """Return the remappings that the argument remap lists."""
    pairs = []
    for item in items(text) if text else []:
        name, _, other = item.partition(':=')
        if not name or not other:
            raise RuntimeError(f'launch argument remap has {item!r}; expected NAME:=OTHER')
        pairs.append((name, other))
    return pairs


# -- the node ----------------------------------------------------------------------------------


def start_node(context: LaunchContext) -> list[Action]:
    """Return the node, with the parameters that are given as arguments."""
    given, foreign = given_arguments(context)
    check_choices(given)
    overrides = parameters(given)
    # A later start has the same surroundings: what a bring-up set around this file is gone then.
    configurations, environment = dict(context.launch_configurations), dict(context.environment)
    namespace = full_namespace(configurations.get('ros_namespace', ''), given['namespace'])
    logger = '.'.join([*filter(None, namespace.split('/')), 'vla'])

    def start(again: bool = False) -> list[Action]:
        # After a crash the robots wait for the operator, who may have stopped them.
        held = {'enabled': False} if again else {}
        # The first one stays on the graph, and speaks to each later process of the same name.
        kind = Node if again else LifecycleNode
        node = kind(
            package='vla_ros',
            executable='vla_node',
            name='vla',
            namespace=namespace,
            parameters=[given['params_file'], {**overrides, **held}],
            remappings=[
                pair
                for topic in TOPICS
                for pair in remappings(topic, given[topic], given['robots'])
            ]
            + camera_remappings(given)
            + further_remappings(given['remap']),
            arguments=['--ros-args', '--log-level', f'{logger}:={given["log_level"]}'],
            output='screen',
            emulate_tty=True,
        )
        return [node, RegisterEventHandler(OnProcessExit(target_action=node, on_exit=ended))]

    def restore(context: LaunchContext) -> None:
        context.launch_configurations.update(configurations)
        context.environment.update(environment)
        # launch_ros counts the names of nodes, and would warn of two: the dead one is none.
        counts = context.get_locals_as_dict().get('unique_ros_node_names', {})
        if counts.get(f'{namespace}/vla'):
            counts[f'{namespace}/vla'] -= 1

    def ended(event: ProcessExited, context: LaunchContext) -> list[Action] | None:
        """Start it again, unless the user ended it (0) or must fix an argument (2)."""
        if context.is_shutdown or given['respawn'] == 'false' or event.returncode in (0, 2):
            return None
        again = GroupAction([OpaqueFunction(function=restore), *start(again=True)])
        return [TimerAction(period=RESPAWN_DELAY_S, actions=[again])]

    return [*ignored(foreign), *start(), *console(given)]


def console(given: Mapping[str, str]) -> list[Action]:
    """Return the operator's page, if it is wanted. It finds the robots on the graph."""
    if given['console'] == 'false':
        return []
    return [
        Node(
            package='vla_ros',
            executable='console',
            arguments=['--port', given['console_port']],
            output='screen',
        )
    ]


def ignored(foreign: Collection[str]) -> list[Action]:
    """Return the line that tells which values of a bring-up are not the node's."""
    if not foreign:
        return []
    names = ', '.join(foreign)
    text = f'vla.launch.py: not in launch_arguments of its inclusion, so ignored: {names}'
    return [LogInfo(msg=text)]


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in arguments().items()
    ]
    # A group, so that no argument outlives this file and becomes that of another one.
    return LaunchDescription([GroupAction([*declared, OpaqueFunction(function=start_node)])])
