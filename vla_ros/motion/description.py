"""What the columns of a policy's actions are: by the policy itself, or by a contract."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.motion.contract import ActionContract
from vla_ros.motion.displacement import ACTION_DIM
from vla_ros.types import ActionSpace, PolicySpec

_ROTATIONS = {'rpy': ('roll', 'pitch', 'yaw'), 'axis_angle': ('rx', 'ry', 'rz')}


@dataclass(frozen=True)
class GripperColumn:
    """The gripper in an action, as VlaAction names its fields.

    :param gripper_column: index of the column; -1 if there is none, or nobody knows.
    :param gripper_closed: value of that column when the gripper is closed.
    :param gripper_open: value of that column when the gripper is open.
    """

    gripper_column: int = -1
    gripper_closed: float = 0.0
    gripper_open: float = 0.0


@dataclass(frozen=True)
class ActionDescription:
    """What a chunk of actions means.

    :param names: of the columns.
    :param period_s: time between two rows; None if nobody knows.
    """

    action_space: ActionSpace
    names: tuple[str, ...]
    period_s: float | None
    gripper: GripperColumn


def describe(spec: PolicySpec, contract: ActionContract | None) -> ActionDescription:
    """Return what the actions mean; the contract fills in what the policy does not know.

    :param contract: of the data set whose statistics scaled the actions. It applies to actions of
        seven values only.
    """
    if contract is None or spec.action_dim != ACTION_DIM:
        return ActionDescription(spec.action_space, spec.names, spec.period_s, GripperColumn())
    space, names = spec.action_space, spec.names
    if space is ActionSpace.UNKNOWN:
        space = ActionSpace.POSE_DELTA
        names = ('x', 'y', 'z', *_ROTATIONS[contract.rotation], 'gripper')
    gripper = GripperColumn(ACTION_DIM - 1, contract.gripper_closed, contract.gripper_open)
    return ActionDescription(space, names, spec.period_s or contract.period_s, gripper)
