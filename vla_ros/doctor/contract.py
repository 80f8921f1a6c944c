# SPDX-License-Identifier: Apache-2.0
"""Checks whether the meaning of the data set's numbers is known; without it nothing may move."""

from __future__ import annotations

from collections.abc import Iterator

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, fail, ok, refused, warn


def check_contract(facts: Facts) -> Iterator[Finding]:
    from vla_ros.motion.contract import ActionContract, load_contracts
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
    if facts.moves and not isinstance(contract, ActionContract):
        yield fail(
            f'motion is twist, and the actions of {key} are '
            f'{contract.action_space.name}: they cause no twist',
            'set motion to none, and use the topic action',
        )
    yield ok(contract.summary)
