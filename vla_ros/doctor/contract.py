# SPDX-License-Identifier: Apache-2.0
"""Checks whether the meaning of the data set's numbers is known; without it nothing may move."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, fail, ok, refused, warn
from vla_ros.motion.joint_limits import NO_LIMIT
from vla_ros.reasons import Cause

if TYPE_CHECKING:
    from vla_ros.motion.contract import Contract


def check_contract(facts: Facts) -> Iterator[Finding]:
    from vla_ros.motion.contract import load_contracts
    from vla_ros.motion.contract_fields import ContractError

    try:
        contracts = load_contracts(facts.request.contracts or None)
    except ContractError as error:
        yield refused(error, 'fix the file')
        return
    key = facts.unnorm_key
    if not key:
        return  # the key's check has said why
    contract = facts.contract = contracts.get(key)
    if contract is None:
        needs_it = facts.moves or facts.request.preprocessing == 'training'
        yield (fail if needs_it else warn)(
            f'there is no action contract for {key}: its actions are published, but cause '
            'no motion',
            'write one (contracts:=FILE), if you know units, frame, rate and gripper of the data '
            f'set; existing contracts: {", ".join(sorted(contracts))}',
        )
        return
    if facts.request.preprocessing == 'training' and not facts.request.unnorm_key:
        yield fail(
            'preprocessing is training and unnorm_key is empty: whether training cropped images '
            'depends on the data set, which the node needs before it reads the checkpoint',
            f'unnorm_key:={key}',
        )
    yield from _check_motion(facts, contract)
    yield ok(contract.summary)


def _check_motion(facts: Facts, contract: Contract) -> Iterator[Finding]:
    """Yield what keeps the actions from becoming a motion."""
    from vla_ros.motion.contract import JointContract
    from vla_ros.motion.joints import grouped
    from vla_ros.parameters.definition import JOINT_MOTIONS, Parameters

    parameters = facts.parameters or Parameters()
    of_joints = isinstance(contract, JointContract)
    if facts.moves and of_joints != (parameters.motion in JOINT_MOTIONS):
        others = JOINT_MOTIONS if of_joints else ('twist', 'pose')
        yield fail(
            f'motion is {parameters.motion}, and the actions of {contract.unnorm_key} are '
            f'{contract.action_space.name}: they cause no such motion',
            f'set motion to {" or ".join(others)}, or to none, and use the topic action',
        )
    elif facts.moves and isinstance(contract, JointContract):
        joints = contract.moving_joints
        groups = grouped(joints, parameters.joint_groups or ('',))
        if isinstance(groups, Cause):
            yield fail(groups.message, 'correct joint_groups')
        known = dict(contract.limits)
        unlimited = [name for name in joints if math.isinf(known.get(name, NO_LIMIT).speed)]
        if unlimited and not (parameters.max_joint_speed_rad_s or parameters.robot_description):
            yield fail(
                f'nothing limits the speed of {", ".join(unlimited)}, so nothing moves',
                'set max_joint_speed_rad_s, or robot_description, or limits in the contract',
            )
