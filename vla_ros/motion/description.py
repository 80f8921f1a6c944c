# SPDX-License-Identifier: Apache-2.0
"""The description of a policy's actions, taken from the policy's spec and from a contract."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.motion.contract import Contract
from vla_ros.types import ActionSpace, PolicySpec


@dataclass(frozen=True)
class GripperColumn:
    """The gripper in an action, as VlaAction names its fields.

    :param gripper_column: index of the column; -1 if there is none, if there are several, or if it
        is unknown.
    :param gripper_closed: value of that column when the gripper is closed.
    :param gripper_open: value of that column when the gripper is open.
    """

    gripper_column: int = -1
    gripper_closed: float = 0.0
    gripper_open: float = 0.0


@dataclass(frozen=True)
class ActionDescription:
    """The meaning of a chunk of actions.

    :param names: names of the columns.
    :param period_s: time between two rows; None if unknown.
    """

    action_space: ActionSpace
    names: tuple[str, ...]
    period_s: float | None
    gripper: GripperColumn


def describe(spec: PolicySpec, contract: Contract | None) -> ActionDescription:
    """Return the meaning of the actions; the contract completes what the spec leaves unknown.

    :param contract: contract of the data set whose statistics scaled the actions. It does not apply
        to a policy with another number of columns, or another action space.
    """
    if contract is None or not _applies(contract, spec):
        return ActionDescription(spec.action_space, spec.names, spec.period_s, GripperColumn())
    space, names = spec.action_space, spec.names
    if space is ActionSpace.UNKNOWN:
        space, names = contract.action_space, contract.columns
    gripper = GripperColumn()
    if len(contract.gripper_columns) == 1:
        [column] = contract.gripper_columns
        gripper = GripperColumn(column, contract.gripper_closed, contract.gripper_open)
    return ActionDescription(space, names, spec.period_s or contract.period_s, gripper)


def _applies(contract: Contract, spec: PolicySpec) -> bool:
    fits = spec.action_space in (ActionSpace.UNKNOWN, contract.action_space)
    return fits and spec.action_dim == len(contract.columns)
