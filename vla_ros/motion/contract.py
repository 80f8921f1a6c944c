"""What the seven numbers of an action mean, for each data set: its unit, axes, gripper and rate.

A policy repeats the numbers of the data set that it was trained on, and the data sets agree on next
to nothing. contracts.yaml says what each of them means and where that is written; what a person has
to know about it is in docs/contracts.md. A data set that is not in there has no known meaning.

Knows neither ROS nor torch: a file goes in, frozen values come out. Any thread.
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
    str: 'text that is not empty, of characters that can be seen',
    float: 'a number, with a point if it has an exponent: 0.05 or 5.0e-2',
    bool: 'true or false',
}


class ContractError(PolicyError):
    """A file of contracts can't be used, or there is no contract for a data set."""


def _field(bounds: tuple[float, float] | None = None, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(metadata={'bounds': bounds, 'choices': choices})


@dataclass(frozen=True)
class ActionContract:
    """What an action of one data set means.

    The first three values are a translation, the next three a rotation, the last is the gripper,
    which is where it shall be and not how far it shall move. Translation and rotation are what the
    end effector shall move by within one period: what it did move by, where the data set's
    controller did not arrive in that time.

    :param unnorm_key: the data set, as the statistics of a checkpoint name it.
    :param robot: which robot the data is of.
    :param period_s: one step of the data set, the time that the displacement is for.
    :param frame: along, and about, whose axes: ``base`` or ``end_effector``; the rotation is
        about the end effector's origin either way.
    :param metres_per_unit: of the three translation values.
    :param rotation: ``rpy`` (roll, pitch and yaw about fixed x, y, z, one after the other), or
        ``axis_angle`` (a vector along the axis, as long as the angle).
    :param radians_per_unit: of the three rotation values.
    :param gripper_closed: the last value when the gripper is closed.
    :param gripper_open: the last value when it is open.
    :param max_linear_m_s: norm of the linear velocity; faster the data set's robot did not move.
    :param max_angular_rad_s: norm of the angular velocity, likewise.
    :param center_crop: training cropped its pictures: show the policy the middle 0.9 of the area.
    :param source: where all this is written.
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
        """0 closed, 1 open; may lie beyond.

        :param gripper: an action's last value.
        """
        return (gripper - self.gripper_closed) / (self.gripper_open - self.gripper_closed)

    @property
    def rate_hz(self) -> float:
        """How many actions a second the data set has."""
        return 1.0 / self.period_s


_TYPES = typing.get_type_hints(ActionContract)
_FIELDS = {field.name: field for field in dataclasses.fields(ActionContract)[1:]}  # not the key


def load_contracts(path: str | Path | None = None) -> dict[str, ActionContract]:
    """The shipped contracts, and a person's own laid over them.

    :param path: a YAML file; an entry of a shipped name takes the whole entry's place.
    :returns: by ``unnorm_key``.
    :raises ContractError: if the file can't be read, is no YAML, or says something that can't be.
    """
    contracts = _read(SHIPPED_CONTRACTS)
    if path is not None:
        contracts.update(_read(Path(path)))
    return contracts


def was_cropped(unnorm_key: str, path: str | Path | None = None) -> bool:
    """Whether training cropped its pictures, by the data set's contract.

    :param path: of a person's own contracts, as of :func:`load_contracts`.
    :raises ContractError: if there is no contract for it.
    """
    contracts = load_contracts(path)
    if unnorm_key not in contracts:
        raise ContractError(
            f'whether training cropped its pictures depends on the data set, and there is no '
            f'action contract for unnorm_key {unnorm_key!r}; there are: '
            f'{", ".join(sorted(contracts))}',
            'add one of your own to a YAML file of contracts (docs/contracts.md), or take '
            'preprocessing raw',
            value=unnorm_key,
            expected=f'one of {", ".join(sorted(contracts))}',
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
        raise ContractError(f'contracts file {file} is not YAML: {error}') from error
    if not isinstance(content, dict) or not content:
        raise ContractError(
            f'contracts file {file} has no contracts',
            expected='an unnorm_key on each line that is not indented, and below it: '
            f'{", ".join(_FIELDS)}',
        )
    return {key: _contract(f'contracts file {file}', key, content[key]) for key in content}


class _Loader(UniqueKeysLoader):
    """Takes plain decimal numbers only: to YAML 010 is 8, and 1:30 is 90."""


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    if not _PLAIN_NUMBER.fullmatch(node.value):
        raise yaml.MarkedYAMLError(
            problem=f'{quoted(node.value)} is no plain decimal number', problem_mark=node.start_mark
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
            'write them all: an entry takes nothing over from a shipped one of its name',
        )
    values = {name: _value(f'{file}: {key}: {name}', name, content[name]) for name in _FIELDS}
    if values['gripper_closed'] == values['gripper_open']:
        raise ContractError(
            f'{file}: {key}: gripper_closed and gripper_open are both {values["gripper_open"]:g}',
            value=values['gripper_open'],
            expected='two different values, or open could not be told from closed',
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
