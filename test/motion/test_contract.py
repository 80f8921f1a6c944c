# SPDX-License-Identifier: Apache-2.0
"""Action contracts: the shipped ones, a person's own, mistakes in them, and what the docs say."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.places import ROOT
from vla_ros.motion import (
    ActionContract,
    ContractError,
    JointContract,
    describe,
    load_contracts,
    shipped_entry,
)
from vla_ros.motion.contract_fields import fields_of
from vla_ros.motion.joint_limits import JointLimit
from vla_ros.motion.state import AxisAngle, Joints, Position, state_dim, state_topics
from vla_ros.scripted.policy import spec_of
from vla_ros.scripted.script import Options
from vla_ros.types import ActionSpace

SUITES = ['libero_spatial', 'libero_object', 'libero_goal', 'libero_10', 'libero_90']
LIBERO = [*SUITES, *(f'{suite}_no_noops' for suite in SUITES)]
ALOHA = [
    *('aloha1_put_X_into_pot_300_demos', 'aloha1_fold_shorts_20_demos'),
    *('aloha1_fold_shirt_30_demos', 'aloha1_scoop_X_into_bowl_45_demos'),
]
BLOCKS = ['vla_ros_blocks', 'vla_ros_blocks4']
# The data sets of openvla-7b, with the two of its first stage.
MIXTURE = [
    'fractal20220817_data',
    'kuka',
    'bridge_orig',
    'taco_play',
    'jaco_play',
    'berkeley_cable_routing',
    'roboturk',
    'viola',
    'berkeley_autolab_ur5',
    'toto',
    'language_table',
    'stanford_hydra_dataset_converted_externally_to_rlds',
    'austin_buds_dataset_converted_externally_to_rlds',
    'nyu_franka_play_dataset_converted_externally_to_rlds',
    'furniture_bench_dataset_converted_externally_to_rlds',
    'ucsd_kitchen_dataset_converted_externally_to_rlds',
    'austin_sailor_dataset_converted_externally_to_rlds',
    'austin_sirius_dataset_converted_externally_to_rlds',
    'dlr_edan_shared_control_converted_externally_to_rlds',
    'iamlab_cmu_pickup_insert_converted_externally_to_rlds',
    'utaustin_mutex',
    'berkeley_fanuc_manipulation',
    'cmu_stretch',
    'bc_z',
    'fmb_dataset',
    'dobbe',
    'droid',
]

FIELDS: dict[str, Any] = {
    'robot': 'UR5e',
    'period_s': 0.1,
    'frame': 'end_effector',
    'metres_per_unit': 0.001,
    'rotation': 'axis_angle',
    'radians_per_unit': 0.01745,
    'gripper_closed': 255,  # a whole number is a number
    'gripper_open': 0.0,
    'max_linear_m_s': 0.25,
    'max_angular_rad_s': 1.0,
    'center_crop': True,
    'source': 'record.py',
}


JOINTS: dict[str, Any] = {
    'action_space': 'joint_position',
    'robot': 'two arms',
    'period_s': 0.04,
    'joints': ['a', 'b', 'left hand', 'c', 'right hand'],
    'grippers': ['left hand', 'right hand'],
    'radians_per_unit': 1.0,
    'gripper_closed': 0.0,
    'gripper_open': 1.0,
    'center_crop': True,
    'state': [
        {'value': 'position', 'unit': 0.001},
        {'value': 'axis_angle', 'unit': 1.0, 'near': [0, 0, 0, 1]},
        {'value': 'joints', 'joints': ['c', 'a'], 'zero': 0.5, 'unit': -2.0},
    ],
    'source': 'record.py',
}


def written(folder: Path, content: Any) -> Path:
    file = folder / 'mine.yaml'
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


def refusal(file: Path) -> str:
    with pytest.raises(ContractError) as caught:
        load_contracts(file)
    return str(caught.value)


# --- Shipped --------------------------------------------------------------------------------------


def test_what_is_shipped() -> None:
    contracts = load_contracts()
    assert set(contracts) == {'bridge_orig', 'fractal20220817_data', *LIBERO, *ALOHA, *BLOCKS}
    for key, contract in contracts.items():
        assert contract.unnorm_key == key
        assert contract.source.strip()
        # OpenVLA's training turns the gripper of every data set it knows to this.
        assert (contract.gripper_closed, contract.gripper_open) == (0.0, 1.0)


@pytest.mark.parametrize(
    ('key', 'rate_hz', 'scale'),
    [
        ('bridge_orig', 5, (1, 1)),
        ('fractal20220817_data', 3, (1, 1)),
        *((key, 20, (0.0133, 0.133)) for key in LIBERO),
    ],
)
def test_rates_and_units(key: str, rate_hz: float, scale: tuple[float, float]) -> None:
    contract = load_contracts()[key]
    assert contract.rate_hz == pytest.approx(rate_hz, rel=1e-12)
    assert (contract.metres_per_unit, contract.radians_per_unit) == scale


@pytest.mark.parametrize(
    ('key', 'largest'),
    [  # the outer one of q01 and q99; of LIBERO the outer one of all there is
        ('bridge_orig', [0.02872726, 0.0417035, 0.04016159, 0.08192048, 0.092887, 0.20718277]),
        (
            'fractal20220817_data',
            [0.2245353, 0.1493838, 0.2315898, 0.5892666, 0.4193012, 0.4479669],
        ),
        ('libero_spatial', [0.9375, 0.9375, 0.9375, 0.375, 0.375, 0.375]),
    ],
)
def test_the_limits_change_no_action_that_a_checkpoint_says(key: str, largest: list[float]) -> None:
    contract = load_contracts()[key]
    linear_m_s = math.hypot(*largest[:3]) * contract.metres_per_unit * contract.rate_hz
    angular_rad_s = math.hypot(*largest[3:]) * contract.radians_per_unit * contract.rate_hz
    assert linear_m_s <= contract.max_linear_m_s <= 1.03 * linear_m_s
    assert angular_rad_s <= contract.max_angular_rad_s <= 1.03 * angular_rad_s


def test_the_unit_of_libero_is_what_the_arm_moves_by() -> None:
    """OSC_POSE of robosuite: kp = 150, critically damped, a goal from where it is each step."""
    stiffness, period_s, dt = 150.0, 0.05, 0.002
    position = velocity = start = travelled = 0.0
    for step in range(500):
        if step % round(period_s / dt) == 0:
            travelled, start = position - start, position
        force = stiffness * (start + 1.0 - position) - 2 * stiffness**0.5 * velocity
        velocity += force * dt
        position += velocity * dt

    libero = load_contracts()['libero_spatial']
    assert libero.period_s == period_s
    assert libero.metres_per_unit == pytest.approx(0.05 * travelled, rel=0.01)
    assert libero.radians_per_unit == pytest.approx(0.5 * travelled, rel=0.01)


@pytest.mark.parametrize('key', ALOHA)
def test_aloha_moves_fourteen_joints_and_feels_them(key: str) -> None:
    contract = load_contracts()[key]
    assert isinstance(contract, JointContract)
    arm = ['waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate', 'gripper']
    assert list(contract.columns) == [f'{side}_{one}' for side in ('left', 'right') for one in arm]
    assert contract.gripper_columns == (6, 13)
    assert (contract.rate_hz, contract.action_space) == (25.0, ActionSpace.JOINT_POSITION)
    felt = [name for part in contract.state for name in part.joints]
    fingers = {'left_gripper': 'left_left_finger', 'right_gripper': 'right_left_finger'}
    assert felt == [fingers.get(name, name) for name in contract.columns]


# --- A person's own -------------------------------------------------------------------------------


def test_a_file_adds_and_replaces_and_leaves_the_others(tmp_path: Path) -> None:
    shipped = load_contracts()
    contracts = load_contracts(written(tmp_path, {'new': FIELDS, 'bridge_orig': FIELDS}))
    mine = ActionContract(unnorm_key='new', **{**FIELDS, 'gripper_closed': 255.0})
    assert contracts['new'] == mine
    assert contracts['bridge_orig'] == dataclasses.replace(mine, unnorm_key='bridge_orig')
    assert type(mine.gripper_closed) is type(contracts['new'].gripper_closed) is float
    del contracts['new'], contracts['bridge_orig'], shipped['bridge_orig']
    assert contracts == shipped
    assert load_contracts()['bridge_orig'].robot == 'WidowX 250, 6 joints'


def test_what_is_shipped_can_be_an_own_contract_under_another_name(tmp_path: Path) -> None:
    for key, contract in load_contracts().items():
        path = tmp_path / f'{key}.json'
        path.write_text(json.dumps({'mine': shipped_entry(key)}))
        assert load_contracts(path)['mine'] == dataclasses.replace(contract, unnorm_key='mine')
    with pytest.raises(ContractError, match="no contract is shipped for unnorm_key 'mine'"):
        shipped_entry('mine')


def test_entries_can_be_shared(tmp_path: Path) -> None:
    lines = ''.join(f'  {name}: {value}\n' for name, value in FIELDS.items())
    file = written(tmp_path, f'a: &a\n{lines}b: *a\nc:\n  <<: *a\n  frame: base\n')
    contracts = load_contracts(file)
    assert contracts['b'] == dataclasses.replace(contracts['a'], unnorm_key='b')
    assert contracts['c'] == dataclasses.replace(contracts['a'], unnorm_key='c', frame='base')


def test_a_contract_of_joints(tmp_path: Path) -> None:
    contract = load_contracts(written(tmp_path, {'mine': JOINTS}))['mine']
    assert contract.columns == ('a', 'b', 'left hand', 'c', 'right hand')
    assert contract.gripper_columns == (2, 4)
    assert (state_dim(contract.state), state_topics(contract.state)) == (
        8,
        ('ee_pose', 'joint_states'),
    )
    assert contract.summary == (
        'mine: two arms, 25 actions a second, positions of 5 joints, left hand, right hand from 0 '
        '(closed) to 1, state of 8 values from ee_pose and joint_states'
    )
    assert contract.limits == ()
    limits = {'a': {'low': -1, 'speed': 2}, 'c': {'high': 0.5}}
    limited = load_contracts(written(tmp_path, {'mine': {**JOINTS, 'limits': limits}}))['mine']
    assert limited.limits == (('a', JointLimit(low=-1.0, speed=2.0)), ('c', JointLimit(high=0.5)))
    spec = dataclasses.replace(spec_of(Options(action_dim=5)), period_s=None)
    described = describe(spec, contract)
    assert described.action_space is ActionSpace.JOINT_POSITION
    assert (described.names, described.period_s) == (contract.columns, 0.04)
    assert described.gripper.gripper_column == -1  # there are two
    one = dataclasses.replace(contract, grippers=('c',))
    assert describe(spec, one).gripper.gripper_column == 3
    another = dataclasses.replace(spec, action_dim=7, names=tuple('abcdefg'))
    assert describe(another, contract).names == another.names


PARTS = JOINTS['state']


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'action_space': 'joint_torque'},
            "action_space is 'joint_torque'; expected one of pose_delta, joint_position",
        ),
        ({'action_space': None}, 'action_space is None; expected one of pose_delta'),
        (
            {'action_space': 'pose_delta'},
            'joints is a field of action_space joint_position, and this one is pose_delta; set',
        ),
        ({'frame': 'base'}, 'frame is a field of action_space pose_delta, and this one is joint_'),
        ({'joints': 'a, b'}, "joints is 'a, b'; expected a list of 1 to 200 names"),
        ({'joints': []}, r'joints is \[\]; expected a list of 1'),
        ({'joints': ['a', 7]}, 'joints has 7; expected text'),
        ({'joints': ['a', 'b', 'a']}, "joints has 'a' twice; expected each name once"),
        ({'limits': [1]}, r'limits is \[1\]; expected a mapping: the name of a joint'),
        (
            {'limits': {'left hand': {'low': 0}}},
            "limits has 'left hand'; expected one of the joints that are no grippers: a, b, c",
        ),
        ({'limits': {'a': 1.0}}, 'limits, a is 1.0; expected a mapping with low, high or speed'),
        (
            {'limits': {'a': {'fast': 1}}},
            "limits, a: 'fast' is unknown; expected one of low, ",
        ),
        ({'limits': {'a': {'speed': 0}}}, 'limits, a: speed is 0; expected 0.0001 to 100'),
        (
            {'limits': {'a': {'low': 1, 'high': 0.5}}},
            'limits, a: low is 1, above high, 0.5; expected at most 0.5',
        ),
        ({'grippers': ['d']}, "grippers has 'd'; expected one of joints: a, b, left hand"),
        ({'radians_per_unit': 57.3}, 'radians_per_unit is 57.3; expected 1e-06 to 3.14159'),
        ({'state': 'all'}, "state is 'all'; expected a list of parts"),
        ({'state': ['all']}, "state, part 1 is 'all'; expected a mapping with value"),
        ({'state': [{'unit': 1.0}]}, 'state, part 1: missing: value; expected one of position, '),
        ({'state': [{'value': 'torque'}]}, "state, part 1: value is 'torque'; expected one of pos"),
        ({'state': [*PARTS, {'value': 'position'}]}, 'state, part 4: missing: unit; write all'),
        ({'state': [{**PARTS[0], 'near': 1}]}, "state, part 1: 'near' is unknown; expected one of"),
        ({'state': [{**PARTS[0], 'unit': 0}]}, 'state, part 1: unit is 0; expected a number other'),
        (
            {'state': [{**PARTS[1], 'near': [0, 1]}]},
            r'state, part 1: near is \[0, 1\]; expected ',
        ),
        ({'state': [{**PARTS[1], 'near': [0] * 4}]}, 'state, part 1: near is zero; expected a qua'),
        ({'state': [{**PARTS[2], 'joints': ['a', 'a']}]}, "state, part 1: joints has 'a' twice"),
        ({'state': [{**PARTS[2], 'zero': '0'}]}, "state, part 1: zero is '0'; expected a number"),
    ],
    ids=str,
)
def test_joints_and_states_that_can_not_be(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = written(tmp_path, {'mine': {**JOINTS, **changes}})
    assert re.match(f'contracts file {re.escape(str(file))}: mine: {message}', refusal(file))


@pytest.mark.parametrize('content', [FIELDS, JOINTS], ids=['displacements', 'joints'])
def test_what_a_contract_must_have(tmp_path: Path, content: dict[str, Any]) -> None:
    for name in set(content) - {'state', 'action_space'}:
        file = written(tmp_path, {'mine': {one: content[one] for one in content if one != name}})
        assert f': mine: missing: {name}; write all of them' in refusal(file)
    file = written(tmp_path, {'mine': {one: content[one] for one in content if one != 'state'}})
    assert load_contracts(file)['mine'].state == ()


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('frame', 'wrist', "frame is 'wrist'; expected one of base, end_effector"),
        ('rotation', 'quaternion', "rotation is 'quaternion'; expected one of rpy, axis_angle"),
        ('robot', '', "robot is ''; expected text that is not empty"),
        ('source', '  ', "source is '  '; expected text that is not empty"),
        ('source', None, 'source is None; expected text that is not empty'),
        ('frame', 3, 'frame is 3; expected text'),
        ('center_crop', 1, 'center_crop is 1; expected true or false'),
        ('center_crop', 'yes', "center_crop is 'yes'; expected true or false"),
        ('gripper_open', True, 'gripper_open is True; expected a number'),
        ('period_s', '5e-2', "period_s is '5e-2'; expected a number, with a point"),
        ('period_s', [0.2], r'period_s is \[0.2\]; expected a number'),
        ('period_s', 5.0e-4, 'period_s is 0.0005; expected 0.001 to 10'),
        ('period_s', 20, 'period_s is 20; expected 0.001 to 10'),
        ('metres_per_unit', 0, 'metres_per_unit is 0; expected 1e-06 to 1'),
        ('metres_per_unit', -1.0, 'metres_per_unit is -1.0; expected 1e-06 to 1'),
        ('radians_per_unit', 57.3, 'radians_per_unit is 57.3; expected 1e-06 to 3.14159'),
        ('gripper_closed', 4096, 'gripper_closed is 4096; expected -1000 to 1000'),
        ('gripper_closed', float('nan'), 'gripper_closed is nan; expected -1000 to 1000'),
        ('gripper_open', float('inf'), 'gripper_open is inf; expected -1000 to 1000'),
        ('max_linear_m_s', 10**300, 'max_linear_m_s is <997 bits>; expected 0.001 to 10'),
        ('robot', 'UR\x1b[31m', r"robot is 'UR\\x1b\[31m'; expected text"),
        ('source', ' \u200b', r"source is ' \\u200b'; expected text"),
        ('max_linear_m_s', 0.0, 'max_linear_m_s is 0.0; expected 0.001 to 10'),
        ('max_angular_rad_s', 90, 'max_angular_rad_s is 90; expected 0.001 to 30'),
    ],
)
def test_a_value_that_can_not_be(tmp_path: Path, name: str, value: Any, message: str) -> None:
    file = written(tmp_path, {'mine': {**FIELDS, name: value}})
    assert re.match(f'contracts file {re.escape(str(file))}: mine: {message}', refusal(file))


def test_open_is_not_closed(tmp_path: Path) -> None:
    file = written(tmp_path, {'mine': {**FIELDS, 'gripper_open': 255.0}})
    assert f'{file}: mine: gripper_closed and gripper_open are both 255; expected' in refusal(file)


def test_unknown_and_missing_fields(tmp_path: Path) -> None:
    misspelt = {('meters_per_unit' if n == 'metres_per_unit' else n): FIELDS[n] for n in FIELDS}
    file = written(tmp_path, {'mine': misspelt})
    assert refusal(file).endswith(
        f"{file}: mine: 'meters_per_unit' is unknown; did you mean metres_per_unit?"
    )
    file = written(tmp_path, {'mine': {**FIELDS, 'zzz': 1}})
    assert "mine: 'zzz' is unknown; expected one of robot, period_s, gripper" in refusal(file)
    file = written(tmp_path, {'mine': {**FIELDS, 'unnorm_key': 'mine'}})
    assert "mine: 'unnorm_key' is unknown; expected one of" in refusal(file)
    # A shipped name is no excuse: nothing is inherited.
    file = written(tmp_path, {'bridge_orig': {'robot': 'ViperX', 'center_crop': True}})
    assert f'{file}: bridge_orig: missing: period_s, gripper_closed, gripper' in refusal(file)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'has no contracts; expected an unnorm_key'),
        ('{}', 'has no contracts; expected an unnorm_key'),
        ('- robot: UR5e', 'has no contracts; expected an unnorm_key'),
        ('robot: UR5e', "robot is 'UR5e'; expected robot, period_s"),
        ('mine:', 'mine is None; expected robot, period_s'),
        ('10:\n  robot: UR5e', 'unnorm_key is 10; expected text'),
        ('mine:\n  robot: [UR5e', 'is not YAML: line 2, column'),
        ('mine:\n\trobot: UR5e', 'is not YAML: line 2, column 1: '),
        ('mine:\n  robot: a\n  robot: b', "line 3, column 3: 'robot' is there twice"),
        ('mine: {}\nmine: {}', "line 2, column 1: 'mine' is there twice"),
        ('mine: !!python/object/apply:os.system [ls]', 'is not YAML: line 1, column 7: could not'),
        ('mine: *nobody', 'is not YAML: line 1, column 7: found undefined alias'),
        ('? [a, b]\n: 1', 'is not YAML: line 1, column'),
        ('mine: \x07', "is not YAML: line 1: the character '\\x07' is not allowed"),
        ('a: 1\nb: \0', "is not YAML: line 2: the character '\\x00' is not allowed"),
        ('mine: {a: 1, a : 2}', "'a' is there twice"),
        ('mine:\n  ? a\n  ? "a"', "line 3, column 5: 'a' is there twice"),
        # What PyYAML does not call an error of YAML.
        ('mine: 2024-02-31', "line 1, column 7: '2024-02-31' is not a valid timestamp"),
        ('mine: 2024-13-01 12:00:00', "'2024-13-01 12:00:00' is not a valid timestamp"),
        ('mine: 0x_', "line 1, column 7: '0x_' is not a plain decimal number"),
        ('mine: !!int abc', "line 1, column 7: 'abc' is not a plain decimal number"),
        ('mine: !!int ""', "'' is not a plain decimal number"),
        ('mine: !!float [1]', 'line 1, column 7: '),
        ('mine: !!bool maybe', "'maybe' is not a valid bool"),
        ('mine: !!timestamp tomorrow', "'tomorrow' is not a valid timestamp"),
        ('mine: !!binary ä', 'line 1, column 7: '),
        ('mine: !!map abc', 'line 1, column 7: '),
        ('mine: {robot: 010}', "'010' is not a plain decimal number"),  # 8, to YAML
        ('mine: {robot: 1:30}', "'1:30' is not a plain decimal number"),  # 90
        ('mine: {robot: 1_0.5}', "'1_0.5' is not a plain decimal number"),
        ('mine: ' + '9' * 5000, 'is not a valid int'),
        ('mine: ' + '9' * 400, 'more than 1024 bits'),
        ('mine: "\\U00110000"', 'line 1: '),
        ('%YAML 1.' + '1' * 5000 + '\n---\na', 'line 1: '),
        # What would take too long, or more memory than there is.
        ('mine: ' + '[' * 2000, 'nested more than 20 levels deep'),
        ('- ' * 2000 + 'a', 'nested more than 20 levels deep'),
        ('? ' * 2000 + 'a', 'nested more than 20 levels deep'),
        ('mine: &a [*a]', "line 1, column 11: 'a' stands for something that contains it"),
        ('mine: &a {b: *a}', "'a' stands for something that contains it"),
        ('mine: &a\n  <<: *a', "'a' stands for something that contains it"),
        ('mine: ' + 'x' * 10_001, 'a value of 10001 characters; at most 10000 are allowed'),
        ('mine: [' + 'a,' * 400_000 + ']', 'more than 30000 values'),
        # What is no name.
        ('"a\\e[31m": {}', "unnorm_key is 'a\\x1b[31m'; expected text that can be seen"),
        ('"a\\nERROR forged": {}', "unnorm_key is 'a\\nERROR forged'; expected text"),
        ('"\\ud800": {}', "unnorm_key is '\\ud800'; expected text"),
        ('"\u200b": {}', "unnorm_key is '\\u200b'; expected text"),
        ('? ' + 'x' * 201 + '\n: {}', 'unnorm_key is '),
        ('2024-02-28: {}', 'unnorm_key is datetime.date(2024, 2, 28); expected text'),
        ('.nan: {}', 'unnorm_key is nan; expected text'),
        ('mine: "\\e[2J"', "mine is '\\x1b[2J'; expected robot, period_s"),
        ('mine: {"\\e[2J": 1}', "'\\x1b[2J' is unknown; expected one of robot"),
        ('mine: {? [a] : 1}', 'line 1, column 10: found unhashable key'),
    ],
    ids=lambda text: repr(text[:40]),
)
def test_a_damaged_file(tmp_path: Path, text: str, message: str) -> None:
    file = written(tmp_path, text)
    refused = refusal(file)
    assert len(refused) < 600 and refused.isprintable()
    assert refused.startswith(f'contracts file {file}')
    assert message in refused
    assert '\n' not in refused


@pytest.mark.parametrize(
    'line', ['[{0},{0},{0},{0},{0},{0}]', '{{a: {0}, b: {0}, c: {0}}}', '{{<<: [{0}, {0}, {0}]}}']
)
def test_aliases_that_mean_gigabytes(tmp_path: Path, line: str) -> None:
    """A few hundred bytes, which other parsers write out."""
    names = 'abcdefghijklmno'
    lines = [f'{name}: &{name} {line.format("*" + below)}' for below, name in pairwise(names)]
    text = '\n'.join(['a: &a {x: 1, y: 2}', *lines])
    assert len(text) < 500
    assert 'more than 30000 values' in refusal(written(tmp_path, text))


def test_no_text_is_anything_but_contracts_or_one_error(tmp_path: Path) -> None:
    """300 sound texts of which parts were replaced by what means something to YAML."""
    chance = random.Random(0)
    sound = yaml.safe_dump({'mine': FIELDS})
    parts = [*'\n\t :-?{}[],&*!|>%@`"\'#~<\\0179_.eEx', '<<', '!!', '---', '...', '*a', '&a ']
    parts += [
        '0x',
        '.inf',
        '!!int',
        '!!set',
        '!!omap ',
        '2024-',
        '\\ud800',
        'ü',
        '\u2028',
        '\ufeff',
    ]
    refused = 0
    for _ in range(300):
        text = sound
        for _ in range(chance.randint(1, 6)):
            place = chance.randrange(len(text))
            text = text[:place] + chance.choice(parts) + text[place + chance.randint(0, 8) :]
        file = written(tmp_path, text)
        try:
            load_contracts(file)
        except ContractError as error:
            refused += 1
            assert str(file) in str(error) and str(error).isprintable() and len(str(error)) < 600
    assert 150 < refused < 300


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    file = written(tmp_path, '\ufeff' + yaml.safe_dump({'mine': FIELDS}))
    assert load_contracts(file)['mine'].robot == 'UR5e'


def test_as_many_contracts_as_fit_are_read(tmp_path: Path) -> None:
    file = written(tmp_path, yaml.safe_dump({f'set_{number}': FIELDS for number in range(300)}))
    assert len(load_contracts(file)) == len(load_contracts()) + 300


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    nowhere = tmp_path / 'nowhere.yaml'
    assert f'{nowhere} does not exist; give the path' in refusal(nowhere)
    assert f'{tmp_path} is a folder; expected a regular file; give the path' in refusal(tmp_path)
    pipe = tmp_path / 'pipe.yaml'
    os.mkfifo(pipe)
    assert f'{pipe} is a named pipe; expected a regular file' in refusal(pipe)
    latin = tmp_path / 'latin.yaml'
    latin.write_bytes('mine:\n  robot: Bücker'.encode('latin-1'))
    assert f'{latin} is not text in UTF-8 (line 2: ' in refusal(latin)
    large = tmp_path / 'large.yaml'
    large.write_text('#' * 1_000_001)
    assert f'{large} is too large; expected at most 1000000 bytes' in refusal(large)


# --- The docs say the same ------------------------------------------------------------------------

SOURCES = 'contracts_sources.md'


def section(title: str, page: str = 'contracts.md') -> str:
    text = (ROOT / 'docs' / page).read_text()
    return re.split('^## ', text.split(f'\n## {title}\n')[1], flags=re.MULTILINE)[0]


def rows(title: str, page: str = 'contracts.md') -> list[list[str]]:
    lines = re.findall(r'^\| (`.*) \|$', section(title, page), flags=re.MULTILINE)
    return [line.split(' | ') for line in lines]


def sources() -> dict[str, str]:
    """The source of each column of the tables, in one line."""
    text = section('Sources', SOURCES)
    found = re.findall(r'^\* (.*?): (.*(?:\n  .*)*)', text, flags=re.MULTILINE)
    return {head: source.replace('\n ', '') for head, source in found}


def columns(text: str) -> dict[str, list[str]]:
    """The columns of a table by their heads; the first column has the heads of the rows."""
    lines = re.findall(r'^\|(.*)\|$', text, flags=re.MULTILINE)
    cells = [[cell.strip() for cell in line.split('|')] for line in lines if '---' not in line]
    return {head: list(column) for head, *column in zip(*cells, strict=True)}


def as_column(contract: ActionContract) -> list[str]:
    return [
        contract.robot,
        f'{contract.rate_hz:g}',
        contract.frame,
        f'{contract.metres_per_unit:g}',
        contract.rotation,
        f'{contract.radians_per_unit:g}',
        f'{contract.gripper_closed:g}, {contract.gripper_open:g}',
        f'{contract.max_linear_m_s:g}, {contract.max_angular_rad_s:g}',
        'yes' if contract.center_crop else 'no',
    ]


def test_the_section_of_aloha_shows_what_is_shipped() -> None:
    text = section('ALOHA')
    contracts = load_contracts()
    joints = {key: one for key, one in contracts.items() if isinstance(one, JointContract)}
    assert re.findall('`(aloha1.*?)`', text) == list(joints)
    for contract in joints.values():
        assert sources()['ALOHA'] == contract.source
        assert columns(text)['ALOHA'] == [
            contract.robot,
            f'{contract.rate_hz:g}',
            ', '.join(name.removeprefix('left_') for name in contract.columns[:7]),
            f'{contract.radians_per_unit:g}',
            f'{contract.gripper_closed:g}, {contract.gripper_open:g}',
            'yes' if contract.center_crop else 'no',
        ]


def test_the_table_shows_what_is_shipped() -> None:
    text = section('The shipped contracts')
    [suites] = re.findall(r'LIBERO stands for (.*?)\.\n', text, flags=re.DOTALL)
    shown = {
        name: (column, sources()[head])
        for head, column in columns(text).items()
        if head
        for name in re.findall('`(.*?)`', suites if head == 'LIBERO' else head)
    }
    contracts = load_contracts()
    contracts = {k: one for k, one in contracts.items() if isinstance(one, ActionContract)}
    assert list(shown) == list(contracts)
    assert shown == {key: (as_column(one), one.source) for key, one in contracts.items()}


def test_every_field_is_explained() -> None:
    explained = {name for cells in rows('The contract') for name in re.findall('`(.*?)`', cells[0])}
    assert explained == set(fields_of(ActionContract)) | set(fields_of(JointContract))
    explained = {name for cells in rows('The state') for name in re.findall('`(.*?)`', cells[0])}
    kinds = (Position, AxisAngle, Joints)
    assert explained == {'value', *(name for kind in kinds for name in fields_of(kind))}


def test_whatever_openvla_was_trained_on_is_shipped_or_left_out_with_a_reason() -> None:
    left_out = [cells[0].strip('`') for cells in rows('What is left out, and why', SOURCES)]
    shipped = set(load_contracts())
    assert sorted(left_out) == sorted(set(MIXTURE) - shipped)
    assert set(MIXTURE) & shipped == {'bridge_orig', 'fractal20220817_data'}


def test_the_example_in_the_docs_is_a_contract(tmp_path: Path) -> None:
    examples = re.findall(r'```yaml\n(.*?)```', section('A contract of your own'), re.DOTALL)
    contracts = load_contracts(written(tmp_path, ''.join(examples)))
    assert contracts['my_pick_and_place'].rate_hz == 10.0
    assert len(contracts['my_joints'].columns) == state_dim(contracts['my_joints'].state) == 7
