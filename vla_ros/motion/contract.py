"""The meaning of an action's seven numbers for each data set: units, axes, gripper and rate.

A policy repeats the numbers of the data set that it was trained on, and the data sets differ in
nearly everything. contracts.yaml has the meaning of each, with its source; docs/contracts.md
explains the fields. The numbers of any other data set have no known meaning.

Reads a file and returns frozen values. Independent of ROS and torch. Any thread.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vla_ros.files import FileError, read_text
from vla_ros.text import NAME, is_blank, is_name, is_visible, quoted
from vla_ros.types import PolicyError
from vla_ros.yaml_text import UniqueKeysLoader, YAMLTextError, parse_yaml

SHIPPED_CONTRACTS = Path(__file__).with_name('contracts.yaml')

_MAX_BYTES = 1_000_000
_PLAIN_NUMBER = re.compile(
    r'[-+]?(0|[1-9][0-9]*|[0-9]+\.[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+|\.inf)|\.nan', re.IGNORECASE
)

_EXPECTED = {
    str: 'text that is not empty, of visible characters',
    float: 'a number, with a point if it has an exponent: 0.05 or 5.0e-2',
    bool: 'true or false',
}


class ContractError(PolicyError):
    """A file of contracts can't be used, or there is no contract for a data set."""


def _field(bounds: tuple[float, float] | None = None, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(metadata={'bounds': bounds, 'choices': choices})


@dataclass(frozen=True)
class ActionContract:
    """The meaning of the actions of one data set.

    The first three values are a translation, the next three a rotation, and the last is the
    gripper's position (not its displacement). Translation and rotation are the end effector's
    displacement within one period. Where the data set's controller did not reach its goal in that
    time, they are the displacement that it reached.

    :param unnorm_key: name of the data set in a checkpoint's statistics.
    :param robot: robot that the data was recorded with.
    :param period_s: duration of one step of the data set, in which the displacement is made.
    :param frame: frame whose axes the values refer to, ``base`` or ``end_effector``; the rotation
        is about the end effector's origin in both cases.
    :param metres_per_unit: unit of the three translation values.
    :param rotation: ``rpy`` (roll, pitch and yaw about fixed x, y, z, in this order), or
        ``axis_angle`` (a vector along the axis with the length of the angle).
    :param radians_per_unit: unit of the three rotation values.
    :param gripper_closed: last value when the gripper is closed.
    :param gripper_open: last value when the gripper is open.
    :param max_linear_m_s: highest norm of the linear velocity in the data set.
    :param max_angular_rad_s: highest norm of the angular velocity in the data set.
    :param center_crop: whether training cropped its images to the middle 0.9 of the area, so that
        the policy needs such images.
    :param source: where these values are documented.
    """

    unnorm_key: str
    robot: str = _field()
    period_s: float = _field(bounds=(0.001, 10.0))
    frame: str = _field(choices=('base', 'end_effector'))
    metres_per_unit: float = _field(bounds=(1e-6, 1.0))
    rotation: str = _field(choices=('rpy', 'axis_angle'))
    radians_per_unit: float = _field(bounds=(1e-6, math.pi))
    gripper_closed: float = _field(bounds=(-1000.0, 1000.0))
    gripper_open: float = _field(bounds=(-1000.0, 1000.0))
    max_linear_m_s: float = _field(bounds=(0.001, 10.0))
    max_angular_rad_s: float = _field(bounds=(0.001, 30.0))
    center_crop: bool = _field()
    source: str = _field()

    def opening(self, gripper: float) -> float:
        """Return the gripper's opening: 0 closed, 1 open; may be below or above.

        :param gripper: an action's last value.
        """
        return (gripper - self.gripper_closed) / (self.gripper_open - self.gripper_closed)

    @property
    def rate_hz(self) -> float:
        """Rate of the data set's actions."""
        return 1.0 / self.period_s


_TYPES = typing.get_type_hints(ActionContract)
_FIELDS = {field.name: field for field in dataclasses.fields(ActionContract)[1:]}  # not the key


def load_contracts(path: str | Path | None = None) -> dict[str, ActionContract]:
    """Return the shipped contracts and the user's own.

    :param path: YAML file of the user's contracts; an entry replaces a shipped one of its name.
    :returns: contracts by ``unnorm_key``.
    :raises ContractError: if the file can't be read, is not YAML, or has an invalid value.
    """
    contracts = _read(SHIPPED_CONTRACTS)
    if path is not None:
        contracts.update(_read(Path(path)))
    return contracts


def was_cropped(unnorm_key: str, path: str | Path | None = None) -> bool:
    """Return whether training cropped its images, according to the data set's contract.

    :param path: file of the user's contracts, as for :func:`load_contracts`.
    :raises ContractError: if the data set has no contract.
    """
    contracts = load_contracts(path)
    if unnorm_key not in contracts:
        known = ', '.join(sorted(contracts))
        raise ContractError(
            'preprocessing is training, which needs a contract to know whether images were '
            f'cropped, and there is no action contract for unnorm_key {unnorm_key!r}',
            f'there are: {known}; add yours to a YAML file of contracts (docs/contracts.md), or '
            'set preprocessing to raw',
            value=unnorm_key,
            expected=f'one of {known}',
        )
    return contracts[unnorm_key].center_crop


def _read(file: Path) -> dict[str, ActionContract]:
    try:
        content = parse_yaml(read_text(file, _MAX_BYTES), _Loader)
    except FileError as error:
        raise ContractError(
            f'contracts file {error}', 'give the path of a YAML file of contracts'
        ) from error
    except YAMLTextError as error:
        raise ContractError(
            f'contracts file {file} is not YAML: {error}', 'fix the file'
        ) from error
    if not isinstance(content, dict) or not content:
        raise ContractError(
            f'contracts file {file} has no contracts',
            expected='an unnorm_key on each line without indentation, with these fields indented '
            f'below it: {", ".join(_FIELDS)}',
        )
    return {key: _contract(f'contracts file {file}', key, content[key]) for key in content}


class _Loader(UniqueKeysLoader):
    """A loader of plain decimal numbers only, since YAML reads 010 as 8 and 1:30 as 90."""


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    if not _PLAIN_NUMBER.fullmatch(node.value):
        raise yaml.MarkedYAMLError(
            problem=f'{quoted(node.value)} is not a plain decimal number',
            problem_mark=node.start_mark,
        )
    number: float = yaml.SafeLoader.yaml_constructors[node.tag](loader, node)
    return number


for _kind in ('int', 'float'):
    _Loader.add_constructor(f'tag:yaml.org,2002:{_kind}', _number)


def _contract(file: str, key: Any, content: Any) -> ActionContract:
    if not isinstance(key, str) or not is_name(key):
        raise ContractError(f'{file}: unnorm_key is {quoted(key)}', value=key, expected=NAME)
    if not isinstance(content, dict):
        raise ContractError(
            f'{file}: {key} is {quoted(content)}',
            value=content,
            expected=f'{", ".join(_FIELDS)}, indented below it',
        )
    for name in content:
        if name not in _FIELDS:
            close = difflib.get_close_matches(str(name), _FIELDS, n=1)
            expected = f'one of {", ".join(_FIELDS)}'
            hint = f'did you mean {close[0]}?' if close else ''
            raise ContractError(
                f'{file}: {key}: {quoted(name)} is unknown', hint, value=name, expected=expected
            )
    missing = [name for name in _FIELDS if name not in content]
    if missing:
        raise ContractError(
            f'{file}: {key}: missing: {", ".join(missing)}',
            'write all of them; an entry inherits nothing from a shipped one of its name',
        )
    values = {name: _value(f'{file}: {key}: {name}', name, content[name]) for name in _FIELDS}
    if values['gripper_closed'] == values['gripper_open']:
        raise ContractError(
            f'{file}: {key}: gripper_closed and gripper_open are both {values["gripper_open"]:g}',
            value=values['gripper_open'],
            expected='two different values',
        )
    return ActionContract(unnorm_key=key, **values)


def _value(what: str, name: str, value: Any) -> Any:
    expected, metadata = _TYPES[name], _FIELDS[name].metadata
    types = (int, float) if expected is float else (expected,)
    if type(value) not in types or (expected is str and not _is_text(value)):
        raise ContractError(f'{what} is {quoted(value)}', value=value, expected=_EXPECTED[expected])
    if metadata['choices'] and value not in metadata['choices']:
        raise ContractError(
            f'{what} is {quoted(value)}',
            value=value,
            expected=f'one of {", ".join(metadata["choices"])}',
        )
    if metadata['bounds']:
        low, high = metadata['bounds']
        if not low <= value <= high:  # nan is in no interval
            raise ContractError(
                f'{what} is {quoted(value)}', value=value, expected=f'{low:g} to {high:g}'
            )
        return float(value)
    return value


def _is_text(value: str) -> bool:
    return not is_blank(value) and all(is_visible(one) or one == '\n' for one in value)
