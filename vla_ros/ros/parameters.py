"""Every parameter of the node: type, default, meaning and bounds, declared and read here only.

Used by the executor's thread.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_ros.errors import VlaError
from vla_ros.motion import MotionLimits

_ROBOT_NAME = re.compile(r'[A-Za-z_][A-Za-z0-9_]{0,63}')  # a token of a ROS name
_EXPECTED = {
    bool: 'bool',
    float: 'float (write 2.0, not 2)',
    str: 'str',
    tuple: 'a list of names (write [a, b])',
}
_MAX_RAMP_S = 0.5
_TICKS_PER_RAMP = 2
_NOT_OURS = ('use_sim_time', 'start_type_description_service')


class ParameterError(VlaError, ValueError):
    """A parameter is unknown, or its value is not allowed."""


def _parameter(
    default: Any,
    description: str,
    bounds: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    read_only: bool = False,
) -> Any:
    metadata = {
        'description': description,
        'bounds': bounds,
        'choices': choices,
        'read_only': read_only,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameters:
    """The values of one configuration; config/vla.yaml shows the same names and defaults."""

    model: str = _parameter(
        '', 'checkpoint folder, hub id such as openvla/openvla-7b, or scripted:...'
    )
    revision: str = _parameter('', 'branch, tag or commit of a hub id; empty: its main branch')
    device: str = _parameter('auto', 'auto (cuda, then mps, then cpu), cuda, cuda:N, mps or cpu')
    dtype: str = _parameter('auto', 'auto, float32, bfloat16 or float16')
    quantization: str = _parameter(
        'none',
        'weights of 8 or 4 bits: faster on a CPU, smaller everywhere, not exact',
        choices=('none', 'int8', 'int4'),
    )
    compile: bool = _parameter(False, 'compile the model with torch.compile while warming up')
    unnorm_key: str = _parameter(
        '', 'data set whose statistics scale the actions; empty: the only one there is'
    )
    robots: tuple[str, ...] = _parameter(
        (),
        'names of the robots that the policy serves, each with topics NAME/image, NAME/action and '
        'so on; empty: one robot, whose topics are image, action and so on',
        read_only=True,
    )
    instruction: str = _parameter(
        '', 'what the robot shall do until the instruction topic says otherwise; empty: hold'
    )
    autostart: bool = _parameter(
        True, 'configure at start, activate when the policy is ready', read_only=True
    )
    enabled: bool = _parameter(
        True, 'whether robots may act before anybody has called ~/enable', read_only=True
    )
    latch_file: str = _parameter(
        '',
        'file that keeps what the operator decided (stop, disable, hold) when the process ends; '
        "empty: one in ROS_HOME for this node's name and ROS domain",
        read_only=True,
    )
    max_command_age_s: float = _parameter(
        2.0,
        'maximum age of a command that sets a robot going (an instruction, enable, reset, '
        'activate), from its sending [s]',
        bounds=(0.1, 3600.0),
        read_only=True,
    )
    image_transport: str = _parameter(
        'raw',
        'raw: subscribe to image; compressed: to image/compressed',
        choices=('raw', 'compressed'),
    )
    image_reliability: str = _parameter(
        'auto',
        "of the image subscription; auto follows the publisher's offer",
        choices=('auto', 'reliable', 'best_effort'),
    )
    preprocessing: str = _parameter(
        'raw',
        'raw: pictures as they are; training: as in OpenVLA training, cropped where the contract '
        'of unnorm_key says so',
        choices=('raw', 'training'),
    )
    rotate_180: bool = _parameter(
        False, 'turn pictures by 180 degrees first, as LIBERO needs it for its own'
    )
    frame_id: str = _parameter(
        '',
        'frame that the actions are given in, put into their header; with robots one for all, or '
        'one of each with commas between them',
    )
    contracts: str = _parameter(
        '', 'YAML file that says what the actions of further data sets mean; see docs/contracts.md'
    )
    motion: str = _parameter(
        'none',
        'twist: also send what a robot can follow, on the topics twist and gripper',
        choices=('none', 'twist'),
    )
    control_rate_hz: float = _parameter(
        50.0, 'so often is a twist sent while the robot moves', bounds=(20.0, 1000.0)
    )
    max_linear_speed_m_s: float = _parameter(
        0.25, 'no twist is faster; faster motions are made shorter', bounds=(0.001, 10.0)
    )
    max_angular_speed_rad_s: float = _parameter(
        1.0, 'no twist is faster; faster motions are made shorter', bounds=(0.001, 50.0)
    )
    max_linear_jerk_m_s3: float = _parameter(
        100.0, "bound of the twists' second derivative; a lower one ramps longer", (0.1, 1e5)
    )
    max_angular_jerk_rad_s3: float = _parameter(
        400.0, "bound of the twists' second derivative; a lower one ramps longer", (0.1, 1e5)
    )
    first_image_timeout_s: float = _parameter(
        10.0, 'say what is wrong when no picture came since activation', bounds=(0.01, 3600.0)
    )
    image_timeout_s: float = _parameter(
        2.0, 'hold when no new picture came for so long', bounds=(0.01, 3600.0)
    )
    frozen_image_timeout_s: float = _parameter(
        5.0,
        'hold when for so long all images were ones that had come before; 0: still images are '
        'allowed',
        bounds=(0.0, 3600.0),
    )
    no_instruction_timeout_s: float = _parameter(
        30.0,
        'say what is wrong when pictures come for so long and no instruction',
        bounds=(0.01, 86400.0),
    )
    max_instruction_age_s: float = _parameter(
        0.0,
        'an instruction that is not repeated for so long is taken back; 0: it holds for ever',
        bounds=(0.0, 86400.0),
    )
    max_image_age_s: float = _parameter(
        0.5, 'a picture older than this is not given to the policy', bounds=(0.001, 3600.0)
    )
    inference_timeout_s: float = _parameter(
        1.0,
        'an inference that takes longer is cancelled, and the node holds',
        bounds=(0.01, 3600.0),
    )
    max_action_age_s: float = _parameter(
        1.5, 'an action whose picture is older than this is not published', bounds=(0.01, 3600.0)
    )
    hang_timeout_s: float = _parameter(
        10.0,
        'the process ends when a late inference does not come back, or when it does not run itself',
        bounds=(0.1, 3600.0),
    )
    load_timeout_s: float = _parameter(
        900.0, 'loading, with a download, may take so long', bounds=(1.0, 86400.0)
    )
    warmup_timeout_s: float = _parameter(
        900.0, 'warming up may take so long', bounds=(1.0, 86400.0)
    )

    @property
    def robot_names(self) -> tuple[str, ...]:
        """Of all there are; empty for the only one that needs none."""
        return self.robots or ('',)

    @property
    def motion_limits(self) -> MotionLimits:
        return MotionLimits(
            self.max_linear_speed_m_s,
            self.max_angular_speed_rad_s,
            self.max_linear_jerk_m_s3,
            self.max_angular_jerk_rad_s3,
            least_ramp_s=_TICKS_PER_RAMP / self.control_rate_hz,
        )

    @property
    def frame_ids(self) -> list[str]:
        """Of each robot, in their order."""
        frames = [frame.strip() for frame in self.frame_id.split(',')]
        return frames * len(self.robot_names) if len(frames) == 1 else frames

    def check(self) -> None:
        """Check the values, alone and together.

        :raises ParameterError: on the first that is not allowed.
        """
        for field in dataclasses.fields(self):
            check_value(field.name, getattr(self, field.name))
        if self.inference_timeout_s > self.max_action_age_s:
            raise ParameterError(
                f'parameter inference_timeout_s is {self.inference_timeout_s:g}, above '
                f'max_action_age_s, {self.max_action_age_s:g}: actions that take so long would '
                'never be published; raise max_action_age_s, or lower inference_timeout_s'
            )
        if len(self.frame_ids) != len(self.robot_names):
            raise ParameterError(
                f'parameter frame_id is {self.frame_id!r}, {len(self.frame_ids)} frames; allowed: '
                f'one, or {len(self.robot_names)}, one for each robot in the parameter robots'
            )
        if self.motion_limits.ramp_s > _MAX_RAMP_S:
            raise ParameterError(
                f'parameters max_linear_jerk_m_s3, {self.max_linear_jerk_m_s3:g}, and '
                f'max_angular_jerk_rad_s3, {self.max_angular_jerk_rad_s3:g}, make ramps of '
                f'{self.motion_limits.ramp_s:.2g} s, so that the robot moves by what was seen long '
                f'ago; allowed: {_MAX_RAMP_S:g} s, so at least '
                f'{4 * self.max_linear_speed_m_s / _MAX_RAMP_S**2:g} and '
                f'{4 * self.max_angular_speed_rad_s / _MAX_RAMP_S**2:g}, or lower speeds'
            )
        if self.motion == 'twist' and not all(self.frame_ids):
            raise ParameterError(
                f'parameter motion is twist, and frame_id is {self.frame_id!r}: a twist needs the '
                "frame along whose axes it is; name this robot's frame that stands for the data "
                "set's, usually its base (docs/contracts.md)"
            )


def topic_prefix(robot: str) -> str:
    """What the names of a robot's topics begin with.

    :param robot: its name; empty if it needs none.
    """
    return f'{robot}/' if robot else ''


def is_ours(name: str) -> bool:
    """False for what ROS itself declares on every node."""
    return name not in _NOT_OURS and not name.startswith('qos_overrides.')


def check_name(name: str) -> None:
    """:raises ParameterError: if the node has no such parameter."""
    names = [field.name for field in dataclasses.fields(Parameters)]
    if name not in names and is_ours(name):
        close = difflib.get_close_matches(name, names, n=1)
        hint = f'did you mean {close[0]}?' if close else f'there are: {", ".join(names)}'
        raise ParameterError(f'parameter {name} is unknown; {hint}')


def typed_value(name: str, value: Any) -> Any:
    """As the field of Parameters has it, of a value from a parameter file.

    :raises ParameterError: if it has another type. ROS, too, takes no 2 for 2.0.
    """
    kind = type(Parameters.__dataclass_fields__[name].default)
    if kind is tuple and isinstance(value, list) and all(type(item) is str for item in value):
        return tuple(value)
    if type(value) is not kind:
        raise _wrong_type(name, f'it is {value!r}')
    return value


def _wrong_type(name: str, found: str) -> ParameterError:
    expected = _EXPECTED[type(Parameters.__dataclass_fields__[name].default)]
    return ParameterError(
        f'parameter {name} has a value of the wrong type ({found}); expected is {expected}'
    )


def check_value(name: str, value: Any) -> None:
    """
    :param name: of a field of Parameters.
    :raises ParameterError: if the value is not allowed, whatever the others are.
    """
    metadata = Parameters.__dataclass_fields__[name].metadata
    bounds, choices = metadata['bounds'], metadata['choices']
    if bounds and not bounds[0] <= value <= bounds[1]:
        raise ParameterError(
            f'parameter {name} is {value:g}; allowed: {bounds[0]:g} to {bounds[1]:g}'
        )
    if choices and value not in choices:
        raise ParameterError(f'parameter {name} is {value!r}; allowed: {", ".join(choices)}')
    if name == 'robots':
        _check_robots(value)


def _check_robots(names: Sequence[str]) -> None:
    for name in names:
        if not _ROBOT_NAME.fullmatch(name):
            raise ParameterError(
                f'parameter robots has the name {name!r}; allowed: up to 64 letters, digits and '
                'underscores, the first of them no digit'
            )
    if len(set(names)) < len(names):
        raise ParameterError(
            f'parameter robots is [{", ".join(names)}]; allowed: each name once, as it stands in '
            "the names of its robot's topics"
        )


def declare_parameters(node: Node) -> None:
    """Declare all, and refuse what a person set that does not exist.

    :raises ParameterError: if a name is unknown, a value has another type or is out of bounds, or
        there can't be such robots.
    """
    for name in node._parameter_overrides:
        check_name(name)
    for field in dataclasses.fields(Parameters):
        # rclpy takes an empty list for one of bytes: to ROS this default is a value not set.
        default = field.default if field.default != () else Parameter.Type.STRING_ARRAY
        try:
            node.declare_parameter(field.name, default, _descriptor(field))
        except InvalidParameterTypeException as error:
            raise _wrong_type(field.name, str(error)) from error
        except InvalidParameterValueException as error:
            raise ParameterError(f'parameter {field.name}: {error}') from error
    check_value('robots', _value(node, 'robots'))  # topics are made at the start


def read_parameters(node: Node) -> Parameters:
    """The values as they are, checked.

    :raises ParameterError: if a value is not allowed.
    """
    names = [field.name for field in dataclasses.fields(Parameters)]
    parameters = Parameters(**{name: _value(node, name) for name in names})
    parameters.check()
    return parameters


def read_robot_names(node: Node) -> tuple[str, ...]:
    """Of all there are, checked when they were declared; it can't change."""
    return Parameters(robots=_value(node, 'robots')).robot_names


def _value(node: Node, name: str) -> Any:
    value = node.get_parameter_or(name).value
    return tuple(value or ()) if name == 'robots' else value


def _descriptor(field: dataclasses.Field[Any]) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=field.metadata['description'], read_only=field.metadata['read_only']
    )
    if field.metadata['choices']:
        descriptor.additional_constraints = 'one of ' + ', '.join(field.metadata['choices'])
    if field.metadata['bounds']:
        low, high = field.metadata['bounds']
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor
