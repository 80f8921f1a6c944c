# SPDX-License-Identifier: Apache-2.0
"""Declaration of the node's parameters; used by the executor's thread."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from vla_ros.parameters.check import (
    ParameterError,
    check_all,
    check_name,
    check_value,
    wrong_type,
)
from vla_ros.parameters.definition import DEFINITIONS, NO_ROBOTS, Definition, Parameters, Settable


def topic_prefix(robot: str) -> str:
    """Return the prefix of the names of a robot's topics.

    :param robot: its name; empty for one robot without a name.
    """
    return f'{robot}/' if robot else ''


def declare_parameters(node: Node) -> None:
    """Declare every parameter.

    :raises ParameterError: if a name that the user set is unknown, a value has another type or is
        out of bounds, or the robots' names are not allowed.
    """
    for name in node._parameter_overrides:
        check_name(name)
    for definition in DEFINITIONS.values():
        name, default = definition.name, definition.default
        # rclpy takes an empty list for one of bytes. A parameter without a value would empty the
        # answer to a request for all, such as that of `ros2 param dump`.
        value = list(NO_ROBOTS) if default == () else default
        given = node._parameter_overrides.get(name)
        empty = given is not None and given.type_ is RosParameter.Type.NOT_SET  # [] of a file
        try:
            node.declare_parameter(name, value, _descriptor(definition), ignore_override=empty)
        except InvalidParameterTypeException as error:
            raise wrong_type(name, str(error)) from error
        except InvalidParameterValueException as error:
            raise ParameterError(f'parameter {name}: {error}') from error
    check_value('robots', _value(node, 'robots'))  # topics are made at the start


def read_parameters(node: Node) -> Parameters:
    """Return the current values, checked.

    :raises ParameterError: if a value is not allowed.
    """
    parameters = Parameters(**{name: _value(node, name) for name in DEFINITIONS})
    check_all(parameters)
    return parameters


def read_robot_names(node: Node) -> tuple[str, ...]:
    """Return the robots' names; ``declare_parameters`` has checked them, and they can't change."""
    return Parameters(robots=_value(node, 'robots')).robot_names


def _value(node: Node, name: str) -> Any:
    value = node.get_parameter_or(name).value
    if DEFINITIONS[name].kind is not tuple:
        return value
    return () if tuple(value or NO_ROBOTS) == NO_ROBOTS else tuple(value)


def _descriptor(definition: Definition) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=definition.description,
        read_only=definition.settable is Settable.AT_START,
    )
    if definition.choices:
        descriptor.additional_constraints = f'one of {definition.allowed}'
    if definition.bounds:
        low, high = definition.bounds
        if definition.kind is int:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor
