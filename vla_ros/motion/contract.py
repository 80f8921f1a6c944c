# SPDX-License-Identifier: Apache-2.0
"""The meaning of an action's numbers for each data set: units, axes, gripper and rate.

A policy repeats the numbers of the data set that it was trained on, and the data sets differ in
nearly everything. contracts.yaml has the meaning of each, with its source; docs/contracts.md
explains the fields. The numbers of any other data set have no known meaning.

Reads a file and returns frozen values. Independent of ROS and torch. Any thread.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from vla_ros.files import FileError, read_text
from vla_ros.motion.contract_fields import ContractError, choose, field, fields_of, read_fields
from vla_ros.motion.joint_limits import JointLimit, read_limits
from vla_ros.motion.server_keys import ServerKeys, read_server_keys
from vla_ros.motion.state import StatePart, read_state, state_dim, state_topics
from vla_ros.text import NAME, is_name, quoted
from vla_ros.types import ActionSpace
from vla_ros.yaml_text import UniqueKeysLoader, YAMLTextError, parse_yaml

SHIPPED_CONTRACTS = Path(__file__).with_name('contracts.yaml')

_MAX_BYTES = 1_000_000
_PLAIN_NUMBER = re.compile(
    r'[-+]?(0|[1-9][0-9]*|[0-9]+\.[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+|\.inf)|\.nan', re.IGNORECASE
)
_GRIPPER = (-1000.0, 1000.0)
_ROTATIONS = {'rpy': ('roll', 'pitch', 'yaw'), 'axis_angle': ('rx', 'ry', 'rz')}


@dataclass(frozen=True, kw_only=True)
class Contract(ABC):
    """What the contracts of all action spaces say.

    :param unnorm_key: name of the data set in a checkpoint's statistics.
    :param robot: robot that the data was recorded with.
    :param period_s: duration of one step of the data set.
    :param gripper_closed: value of a gripper's column when the gripper is closed.
    :param gripper_open: value of a gripper's column when the gripper is open.
    :param center_crop: whether training cropped its images to the middle 0.9 of the area, so that
        the policy needs such images.
    :param source: where these values are documented.
    :param state: parts of the robot's state in the policy's order; empty if it is not known.
    :param server: what a policy server that says nothing itself calls its inputs; None if unknown.
    """

    action_space: ClassVar[ActionSpace]
    unnorm_key: str
    robot: str = field()
    period_s: float = field(bounds=(0.001, 10.0))
    gripper_closed: float = field(bounds=_GRIPPER)
    gripper_open: float = field(bounds=_GRIPPER)
    center_crop: bool = field()
    source: str = field()
    state: tuple[StatePart, ...] = field(default=())
    server: ServerKeys | None = field(default=None)

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of an action's columns."""

    @property
    @abstractmethod
    def gripper_columns(self) -> tuple[int, ...]:
        """Indices of the grippers' columns."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """One line for the user."""

    def opening(self, gripper: float) -> float:
        """Return a gripper's opening: 0 closed, 1 open; may be below or above.

        :param gripper: value of its column.
        """
        return (gripper - self.gripper_closed) / (self.gripper_open - self.gripper_closed)

    @property
    def rate_hz(self) -> float:
        """Rate of the data set's actions."""
        return 1.0 / self.period_s

    @property
    def _begin(self) -> str:
        return f'{self.unnorm_key}: {self.robot}, {self.rate_hz:.3g} actions a second'

    @property
    def _travel(self) -> str:
        return f' from {self.gripper_closed:g} (closed) to {self.gripper_open:g}'

    @property
    def _end(self) -> str:
        if not self.state:
            return ''
        topics = ' and '.join(state_topics(self.state))
        return f', state of {state_dim(self.state)} values from {topics}'


@dataclass(frozen=True, kw_only=True)
class ActionContract(Contract):
    """The meaning of actions that are displacements of a tool (``pose_delta``).

    The first three values are a translation, the next three a rotation, and the last is the
    gripper's position (not its displacement). Translation and rotation are the end effector's
    displacement within one period. Where the data set's controller did not reach its goal in that
    time, they are the displacement that it reached.

    :param frame: frame whose axes the values refer to, ``base`` or ``end_effector``; the rotation
        is about the end effector's origin in both cases.
    :param metres_per_unit: unit of the three translation values.
    :param rotation: ``rpy`` (roll, pitch and yaw about fixed x, y, z, in this order), or
        ``axis_angle`` (a vector along the axis with the length of the angle).
    :param radians_per_unit: unit of the three rotation values.
    :param max_linear_m_s: highest norm of the linear velocity in the data set.
    :param max_angular_rad_s: highest norm of the angular velocity in the data set.
    """

    action_space: ClassVar[ActionSpace] = ActionSpace.POSE_DELTA
    frame: str = field(choices=('base', 'end_effector'))
    metres_per_unit: float = field(bounds=(1e-6, 1.0))
    rotation: str = field(choices=('rpy', 'axis_angle'))
    radians_per_unit: float = field(bounds=(1e-6, math.pi))
    max_linear_m_s: float = field(bounds=(0.001, 10.0))
    max_angular_rad_s: float = field(bounds=(0.001, 30.0))

    @property
    def summary(self) -> str:
        """One line for the user."""
        return (
            f'{self._begin}, axes of the {self.frame}, rotation as {self.rotation}, '
            f'gripper{self._travel}, at most {self.max_linear_m_s:g} m/s{self._end}'
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of an action's seven columns."""
        return ('x', 'y', 'z', *_ROTATIONS[self.rotation], 'gripper')

    @property
    def gripper_columns(self) -> tuple[int, ...]:
        """The last column."""
        return (len(self.columns) - 1,)


@dataclass(frozen=True, kw_only=True)
class JointContract(Contract):
    """The meaning of actions that are positions of joints (``joint_position``).

    Each column is the position that a joint should have at the end of the period.

    :param joints: name of each column.
    :param grippers: those of ``joints`` that are grippers, from ``gripper_closed`` to
        ``gripper_open``.
    :param radians_per_unit: unit of the columns of all other joints.
    :param limits: name and limits, in radians, of the joints that have any.
    """

    action_space: ClassVar[ActionSpace] = ActionSpace.JOINT_POSITION
    joints: tuple[str, ...] = field()
    grippers: tuple[str, ...] = field()
    radians_per_unit: float = field(bounds=(1e-6, math.pi))
    limits: tuple[tuple[str, JointLimit], ...] = field(default=())

    @property
    def summary(self) -> str:
        """One line for the user."""
        return (
            f'{self._begin}, positions of {len(self.joints)} joints, '
            f'{", ".join(self.grippers)}{self._travel}{self._end}'
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the joints."""
        return self.joints

    @property
    def moving_joints(self) -> tuple[str, ...]:
        """Names of the joints that are no grippers, in their order."""
        return tuple(name for name in self.joints if name not in self.grippers)

    @property
    def gripper_columns(self) -> tuple[int, ...]:
        """Columns of the joints that are grippers."""
        return tuple(self.joints.index(name) for name in self.grippers)


_INHERITS_NOTHING = 'write all of them; an entry inherits nothing from a shipped one of its name'
_SPACES: Mapping[str, type[Contract]] = {
    'pose_delta': ActionContract,
    'joint_position': JointContract,
}


def load_contracts(path: str | Path | None = None) -> dict[str, Contract]:
    """Return the shipped contracts and the user's own.

    :param path: YAML file of the user's contracts; an entry replaces a shipped one of its name.
    :returns: contracts by ``unnorm_key``.
    :raises ContractError: if the file can't be read, is not YAML, or has an invalid value.
    """
    contracts = _read(SHIPPED_CONTRACTS)
    if path is not None:
        contracts.update(_read(Path(path)))
    return contracts


def shipped_displacements(unnorm_key: str) -> ActionContract:
    """Return a shipped contract of displacements.

    :raises ContractError: if none of that name is shipped.
    """
    contract = _read(SHIPPED_CONTRACTS).get(unnorm_key)
    if not isinstance(contract, ActionContract):
        raise ContractError(
            f'no contract of displacements is shipped for unnorm_key {unnorm_key!r}',
            'take a data set of the table in docs/contracts.md',
            value=unnorm_key,
        )
    return contract


def shipped_entry(unnorm_key: str) -> dict[str, Any]:
    """Return a shipped contract's fields as its file has them, for a file of one's own.

    :raises ContractError: if none of that name is shipped.
    """
    entry: dict[str, Any] | None = _content(SHIPPED_CONTRACTS).get(unnorm_key)
    if entry is None:
        raise ContractError(
            f'no contract is shipped for unnorm_key {unnorm_key!r}',
            'take a data set of the table in docs/contracts.md',
            value=unnorm_key,
        )
    return entry


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


def _read(file: Path) -> dict[str, Contract]:
    content = _content(file)
    return {key: _contract(f'contracts file {file}', key, content[key]) for key in content}


def _content(file: Path) -> dict[Any, Any]:
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
            f'below it: {_named(ActionContract)}',
        )
    return content


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


def _named(kind: type[Contract]) -> str:
    """Return the fields that each contract of a kind must have."""
    return ', '.join(name for name, one in fields_of(kind).items() if one.default is MISSING)


def _contract(file: str, key: Any, content: Any) -> Contract:
    if not isinstance(key, str) or not is_name(key):
        raise ContractError(f'{file}: unnorm_key is {quoted(key)}', value=key, expected=NAME)
    what = f'{file}: {key}'
    if not isinstance(content, dict):
        raise ContractError(
            f'{what} is {quoted(content)}',
            value=content,
            expected=f'{_named(ActionContract)}, indented below it (docs/contracts.md)',
        )
    kind = choose(what, _SPACES, 'action_space', content, default='pose_delta')
    given = {name: value for name, value in content.items() if name != 'action_space'}
    _check_space(what, kind, given)
    values = read_fields(what, kind, given, _INHERITS_NOTHING)
    if 'state' in values:
        values['state'] = read_state(f'{what}: state', values['state'])
    if 'server' in values:
        values['server'] = read_server_keys(f'{what}: server', values['server'])
    if values['gripper_closed'] == values['gripper_open']:
        raise ContractError(
            f'{what}: gripper_closed and gripper_open are both {values["gripper_open"]:g}',
            value=values['gripper_open'],
            expected='two different values',
        )
    _check_grippers(what, values)
    if 'limits' in values:
        joints = [name for name in values['joints'] if name not in values['grippers']]
        values['limits'] = tuple(read_limits(f'{what}: limits', values['limits'], joints).items())
    contract: Contract = kind(unnorm_key=key, **values)
    return contract


def _check_space(what: str, kind: type[Contract], given: Mapping[Any, Any]) -> None:
    """Raise ContractError for a field that contracts of another action space have."""
    for space, other in _SPACES.items():
        for name in fields_of(other):
            if name in given and name not in fields_of(kind):
                raise ContractError(
                    f'{what}: {name} is a field of action_space {space}, and this one is '
                    f'{kind.action_space.name.lower()}',
                    f'set action_space to {space}, or leave {name} out',
                    value=name,
                )


def _check_grippers(what: str, values: Mapping[str, Any]) -> None:
    for name in values.get('grippers', ()):
        if name not in values['joints']:
            raise ContractError(
                f'{what}: grippers has {quoted(name)}',
                value=name,
                expected=f'one of joints: {", ".join(values["joints"])}',
            )
