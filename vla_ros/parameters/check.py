# SPDX-License-Identifier: Apache-2.0
"""Checks of parameters, one by one and together: for the node and, without ROS, for the doctor."""

from __future__ import annotations

import difflib
import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vla_ros.errors import VlaError
from vla_ros.parameters.definition import (
    DEFINITIONS,
    JOINT_MOTIONS,
    NO_ROBOTS,
    Parameters,
    group_topic,
)

if TYPE_CHECKING:
    from vla_ros.motion import MotionLimits
    from vla_ros.motion.joint_limits import JointLimit, JointLimits
    from vla_ros.reasons import Cause

_ROBOT_NAME = re.compile(r'[A-Za-z_][A-Za-z0-9_]{0,63}')  # a token of a ROS name
_EXPECTED = {
    bool: 'bool',
    int: 'int (write 2, not 2.0)',
    float: 'float (write 2.0, not 2)',
    str: 'str',
    tuple: 'a list of names (write [a, b])',
}
_MAX_RAMP_S = 0.5
_TICKS_PER_RAMP = 2
_FAR_M = 100.0
_FULL_TURN = 2 * math.pi
_NOT_OURS = ('use_sim_time', 'start_type_description_service')


class ParameterError(VlaError, ValueError):
    """A parameter that is unknown, or has a value that is not allowed."""


def is_ours(name: str) -> bool:
    """Return False for a parameter that ROS declares on every node."""
    return name not in _NOT_OURS and not name.startswith('qos_overrides.')


def check_name(name: str) -> None:
    """Raise ParameterError if the node has no such parameter."""
    if name not in DEFINITIONS and is_ours(name):
        close = difflib.get_close_matches(name, DEFINITIONS, n=1)
        hint = f'did you mean {close[0]}?' if close else f'there are: {", ".join(DEFINITIONS)}'
        raise ParameterError(f'parameter {name} is unknown', hint, value=name)


def typed_value(name: str, value: Any) -> Any:
    """Return a value from a parameter file as the field of Parameters has it.

    :raises ParameterError: if it has another type. Like ROS, this does not take 2 for 2.0.
    """
    kind = DEFINITIONS[name].kind
    if kind is tuple and isinstance(value, list) and all(type(item) is str for item in value):
        return tuple(value)
    if type(value) is not kind:
        raise wrong_type(name, f'it is {value!r}')
    return value


def wrong_type(name: str, found: str) -> ParameterError:
    """Return the error for a value of another type.

    :param found: the value or its type, in words.
    """
    expected = _EXPECTED[DEFINITIONS[name].kind]
    return ParameterError(
        f'parameter {name} has a value of the wrong type ({found})',
        f'expected is {expected}',
        expected=expected,
    )


def check_value(name: str, value: Any) -> None:
    """Raise ParameterError if the value is not allowed by itself.

    :param name: name of a field of Parameters.
    :param value: value of this field's type.
    """
    definition = DEFINITIONS[name]
    bounds, choices = definition.bounds, definition.choices
    if bounds and not bounds[0] <= value <= bounds[1]:
        raise _not_allowed(f'parameter {name} is {value:g}', value, definition.allowed)
    if choices and value not in choices:
        raise _not_allowed(f'parameter {name} is {value!r}', value, definition.allowed)
    if name == 'robots':
        _check_robots(value)
    if name == 'joint_groups':
        _check_groups(value)
    if name == 'recording_folder':
        _check_folder(name, value)


def _check_folder(name: str, value: str) -> None:
    if os.path.expanduser(value).startswith('~') or '\0' in value:
        allowed = "the path of a folder, in which ~ stands for a user's home"
        raise _not_allowed(f'parameter {name} is {value!r}', value, allowed)


def _not_allowed(what: str, value: object, allowed: str) -> ParameterError:
    return ParameterError(what, f'allowed: {allowed}', value=value, expected=allowed)


def check_all(parameters: Parameters) -> None:
    """Raise ParameterError for the first value that is not allowed, alone or with the others."""
    for name in DEFINITIONS:
        check_value(name, getattr(parameters, name))
    _check_ages(parameters)
    _check_frames(parameters)
    _check_frame_sources(parameters)
    _check_ramp(parameters)
    _check_workspaces(parameters)
    _check_joints(parameters)
    _check_gripper(parameters)


def motion_limits(parameters: Parameters) -> MotionLimits:
    """Return the limits of the twists, whose ramp is at least two ticks of the control rate."""
    from vla_ros.motion import MotionLimits  # NumPy comes with it: only when it is needed

    return MotionLimits(
        parameters.max_linear_speed_m_s,
        parameters.max_angular_speed_rad_s,
        parameters.max_linear_jerk_m_s3,
        parameters.max_angular_jerk_rad_s3,
        least_ramp_s=_TICKS_PER_RAMP / parameters.control_rate_hz,
    )


def joint_limits(
    parameters: Parameters, description: Mapping[str, JointLimit] | Cause
) -> JointLimits:
    """Return what limits the joints beside the contract; a ramp is at least two ticks.

    :param description: limits by joint, from the robot description.
    """
    from vla_ros.motion.joint_limits import JointLimits

    return JointLimits(
        parameters.max_joint_speed_rad_s or math.inf,
        parameters.max_joint_acceleration_rad_s2,
        _TICKS_PER_RAMP / parameters.control_rate_hz,
        description,
        parameters.max_joint_lead_rad,
    )


def workspace(text: str) -> tuple[float, ...]:
    """Return x_min, x_max, y_min, y_max, z_min, z_max; empty if there is no box.

    :param text: of one robot.
    :raises ParameterError: if it is not such a box.
    """
    if not text:
        return ()
    try:
        numbers = tuple(float(number) for number in text.split(','))
    except ValueError:
        numbers = ()
    lows, highs = numbers[::2], numbers[1::2]
    is_box = len(numbers) == 6 and all(-_FAR_M <= one <= _FAR_M for one in numbers)
    if not is_box or not all(low < high for low, high in zip(lows, highs, strict=True)):
        raise _not_allowed(
            f'parameter workspace_m has the box {text!r}',
            text,
            f'x_min, x_max, y_min, y_max, z_min, z_max in metres, each at most {_FAR_M:g}, each '
            'min below its max',
        )
    return numbers


def frame_rotation(text: str) -> tuple[float, ...]:
    """Return roll, pitch and yaw in radians.

    :param text: of one robot; empty: no rotation.
    :raises ParameterError: if it is not three angles.
    """
    if not text:
        return (0.0, 0.0, 0.0)
    try:
        angles = tuple(float(number) for number in text.split(','))
    except ValueError:
        angles = ()
    if len(angles) != 3 or not all(-_FULL_TURN <= one <= _FULL_TURN for one in angles):
        raise _not_allowed(
            f'parameter frame_rotation_rpy has the rotation {text!r}',
            text,
            f'roll, pitch, yaw in radians, each at most {_FULL_TURN:.4g}',
        )
    return angles


def has_tf2() -> bool:
    """Return whether the package tf2_ros is installed."""
    return importlib.util.find_spec('tf2_ros') is not None


def _check_frame_sources(parameters: Parameters) -> None:
    """Raise ParameterError if it is not known how frames lie, or known twice."""
    for name in ('contract_frame', 'tool_frame', 'frame_rotation_rpy'):
        text = getattr(parameters, name)
        separator = ';' if name == 'frame_rotation_rpy' else ','
        _check_number(parameters, name, len(text.split(separator)))
        if text and name != 'frame_rotation_rpy' and not has_tf2():
            raise ParameterError(
                f'parameter {name} is {text!r}, and the package tf2_ros is not installed',
                'install it (apt install ros-$ROS_DISTRO-tf2-ros-py), or set frame_rotation_rpy in '
                'place of contract_frame, and publish ee_pose in place of tool_frame',
                value=text,
            )
    for number, rotation in enumerate(parameters.frame_rotations):
        frame_rotation(rotation)
        if rotation and parameters.contract_frames[number]:
            raise ParameterError(
                f'parameters frame_rotation_rpy, {rotation!r}, and contract_frame, '
                f'{parameters.contract_frames[number]!r}, both say how the axes lie',
                'set one of them',
                value=rotation,
            )


def _check_number(parameters: Parameters, name: str, parts: int) -> None:
    robots = len(parameters.robot_names)
    if parts not in (1, robots):
        raise _not_allowed(
            f'parameter {name} is {getattr(parameters, name)!r}, {parts} parts',
            getattr(parameters, name),
            f'one, or {robots}, one for each robot in the parameter robots',
        )


def _check_workspaces(parameters: Parameters) -> None:
    boxes, robots = parameters.workspaces, len(parameters.robot_names)
    if len(boxes) != robots:
        raise _not_allowed(
            f'parameter workspace_m has {len(boxes)} boxes',
            parameters.workspace_m,
            f'one, or {robots}, one for each robot in the parameter robots',
        )
    for box in boxes:
        workspace(box)


def _check_robots(names: Sequence[str]) -> None:
    if tuple(names) == NO_ROBOTS:
        return
    for name in names:
        if not _ROBOT_NAME.fullmatch(name):
            raise _not_allowed(
                f'parameter robots has the name {name!r}',
                name,
                'up to 64 letters, digits and underscores, not beginning with a digit',
            )
    if len(set(names)) < len(names):
        raise _not_allowed(
            f'parameter robots is [{", ".join(names)}]',
            names,
            'each name once, because it begins the names of the topics of its robot',
        )


def _check_groups(prefixes: Sequence[str]) -> None:
    topics = [group_topic(prefix, '') for prefix in prefixes if list(prefixes) != ['']]
    for prefix, topic in zip(prefixes, topics, strict=False):
        if not _ROBOT_NAME.fullmatch(topic.removesuffix('/')) or topics.count(topic) > 1:
            raise _not_allowed(
                f'parameter joint_groups has {prefix!r}',
                prefix,
                'letters, digits and underscores, not beginning with a digit, each once, because '
                'it begins the name of a topic',
            )


def _check_joints(parameters: Parameters) -> None:
    """Raise ParameterError if a motion of joints is asked for what only displacements have."""
    if parameters.motion not in JOINT_MOTIONS:
        return
    if parameters.chunk_timing == 'from_pose':
        raise ParameterError(
            f'parameter chunk_timing is from_pose, and motion is {parameters.motion}: only '
            'displacements of a tool can be counted from its pose',
            'set chunk_timing to published or timed',
            value=parameters.chunk_timing,
        )
    if parameters.workspace_m:
        raise ParameterError(
            f'parameter workspace_m is set, and motion is {parameters.motion}: a box bounds the '
            'displacements of a tool, not joints',
            'empty it, and set limits of the joints (docs/motion.md)',
            value=parameters.workspace_m,
        )


def _check_gripper(parameters: Parameters) -> None:
    """Raise ParameterError if a gripper's goals cannot be made."""
    command = parameters.gripper_command
    if command == 'topic':
        return
    if parameters.gripper_closed_position == parameters.gripper_open_position:
        raise ParameterError(
            f'parameter gripper_command is {command}, and gripper_closed_position and '
            f'gripper_open_position are both {parameters.gripper_open_position:g}',
            "set both to the positions that the gripper's controller has",
            value=parameters.gripper_open_position,
        )
    if importlib.util.find_spec('control_msgs') is None:
        raise ParameterError(
            f'parameter gripper_command is {command}, and the package control_msgs is not '
            'installed',
            'install it (apt install ros-$ROS_DISTRO-control-msgs), or set gripper_command to '
            'topic',
            value=command,
        )


def _check_ages(parameters: Parameters) -> None:
    if parameters.inference_timeout_s > parameters.max_action_age_s:
        raise ParameterError(
            f'parameter inference_timeout_s is {parameters.inference_timeout_s:g}, above '
            f'max_action_age_s, {parameters.max_action_age_s:g}: an action that takes longer '
            'than that is never published',
            'raise max_action_age_s, or lower inference_timeout_s',
            value=parameters.inference_timeout_s,
        )


def _check_frames(parameters: Parameters) -> None:
    frames, robots = len(parameters.frame_ids), len(parameters.robot_names)
    if frames != robots:
        raise _not_allowed(
            f'parameter frame_id is {parameters.frame_id!r}, {frames} frames',
            parameters.frame_id,
            f'one, or {robots}, one for each robot in the parameter robots',
        )
    if parameters.motion not in ('none', *JOINT_MOTIONS) and not all(parameters.frame_ids):
        raise ParameterError(
            f'parameter motion is {parameters.motion}, and frame_id is {parameters.frame_id!r}: a '
            'displacement needs a frame',
            "set frame_id to the robot's frame that corresponds to the data set's, usually its "
            'base (docs/contracts.md)',
            value=parameters.frame_id,
        )


def _check_ramp(parameters: Parameters) -> None:
    """Raise ParameterError if the ramp is long, since the robot then moves by an old image."""
    ramp_s = motion_limits(parameters).ramp_s
    if ramp_s > _MAX_RAMP_S:
        raise ParameterError(
            f'parameters max_linear_jerk_m_s3, {parameters.max_linear_jerk_m_s3:g}, and '
            f'max_angular_jerk_rad_s3, {parameters.max_angular_jerk_rad_s3:g}, make ramps of '
            f'{ramp_s:.2g} s, so that the robot moves by an old image',
            f'allowed: {_MAX_RAMP_S:g} s, so at least '
            f'{4 * parameters.max_linear_speed_m_s / _MAX_RAMP_S**2:g} and '
            f'{4 * parameters.max_angular_speed_rad_s / _MAX_RAMP_S**2:g}, or lower speeds',
            value=ramp_s,
        )
