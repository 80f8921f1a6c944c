# SPDX-License-Identifier: Apache-2.0
"""The state by contract: orientations as robosuite has them, parts, and how they join."""

from __future__ import annotations

import ast
import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.fakes import SPEC
from vla_ros.motion import ContractError, load_contracts
from vla_ros.motion.orientation import axis_angle, nearer, unit_quaternion
from vla_ros.motion.pose import Pose
from vla_ros.motion.state import AxisAngle, JointPositions, Joints, Position
from vla_ros.motion.state_parts import StateParts, state_of
from vla_ros.simulation.scene import import_mujoco

MS = 10**6
POINT = np.array([0.1, 0.2, 0.3])
TURN = np.array([1.0, 0.0, 0.0, 0.0])
DOWN = AxisAngle(unit=1.0, near=(1.0, 0.0, 0.0, 0.0))
FINGERS = Joints(joints=('finger_1', 'finger_2'), zero=0.0, unit=1.0)
HALF = math.sqrt(0.5)


# -- orientations ----------------------------------------------------------------------------------

# Of robosuite 1.5.2 and of openvla-oft's copy, which agree: quaternion x, y, z, w, and the vector.
ROBOSUITE = [
    ([0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0]),
    ([0.0, 0.0, 0.0, -1.0], [0.0, 0.0, 0.0]),  # 2 pi, and still zeros
    ([1.0, 0.0, 0.0, 0.0], [math.pi, 0.0, 0.0]),
    ([-1.0, 0.0, 0.0, 0.0], [-math.pi, 0.0, 0.0]),
    ([0.0, HALF, 0.0, HALF], [0.0, math.pi / 2, 0.0]),
    ([0.0, HALF, 0.0, -HALF], [0.0, 3 * math.pi / 2, 0.0]),  # w below 0: above pi
    ([0.6, 0.0, 0.0, -0.8], [4.99618308959301, 0.0, 0.0]),
    ([-0.6, 0.0, 0.0, 0.8], [-1.2870022175865687, 0.0, 0.0]),
    ([1e-9, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0]),  # w is exactly 1: a smaller angle is none
    ([1e-4, 0.0, 0.0, math.sqrt(1 - 1e-8)], [2e-4, 0.0, 0.0]),
    ([0.0, 0.0, 0.5, 1.0000000001], [0.0, 0.0, 0.0]),  # w is cut to 1
]


@pytest.mark.parametrize(('quaternion', 'vector'), ROBOSUITE, ids=str)
def test_axis_and_angle_are_those_of_robosuite(
    quaternion: list[float], vector: list[float]
) -> None:
    assert axis_angle(np.array(quaternion)) == pytest.approx(vector, rel=1e-7, abs=1e-12)


def test_axis_and_angle_are_bit_for_bit_those_of_robosuite() -> None:
    """The installed one, taken out of its file: to import it needs more packages."""
    found = importlib.util.find_spec('robosuite')
    if found is None or found.origin is None:
        pytest.skip('robosuite is not installed')
    file = Path(found.origin).with_name('utils') / 'transform_utils.py'
    [function] = [
        one
        for one in ast.parse(file.read_text()).body
        if isinstance(one, ast.FunctionDef) and one.name == 'quat2axisangle'
    ]
    robosuite: dict[str, Any] = {'np': np, 'math': math}
    exec(compile(ast.Module([function], []), str(file), 'exec'), robosuite)
    random = np.random.default_rng(0)
    for scale in (1.0, 1e-3, 1e-8):  # also near the turns of 0 and 2 pi
        for quaternion in random.normal(size=(500, 4)) * [scale, scale, scale, 1.0]:
            quaternion /= np.linalg.norm(quaternion)
            expected = robosuite['quat2axisangle'](quaternion.copy())
            assert (axis_angle(quaternion) == expected).all()


def test_a_quaternion_is_one_of_norm_one() -> None:
    assert unit_quaternion(np.array([0.0, 0.0, 0.0, 0.995])) == pytest.approx([0, 0, 0, 1])
    for wrong in ([0.0] * 4, [0, 0, 0, 2.0], [0, 0, 0, 0.98], [math.nan, 0, 0, 1], [math.inf] * 4):
        with pytest.raises(ValueError, match=r'allowed: 0\.99 to 1\.01'):
            unit_quaternion(np.array(wrong, np.float64))


def test_of_the_two_quaternions_the_nearer_one_is_taken() -> None:
    reference = np.array([1.0, 0.0, 0.0, 0.0])
    for w in (0.05, -0.05):
        turn = np.array([math.sqrt(1 - w * w), 0.0, 0.0, w])
        assert (nearer(-turn, reference) == turn).all() and (nearer(turn, reference) == turn).all()
        for sign in (1.0, -1.0):  # whatever sign the driver chooses, the vector does not jump
            [x, _, _] = DOWN.values(Pose(POINT, sign * turn))
            assert x == pytest.approx(2 * math.acos(w)) and 3.0 < x < 3.3


# -- parts -----------------------------------------------------------------------------------------


def message(**positions: float) -> JointPositions:
    return JointPositions(list(positions), list(positions.values()))


def test_liberos_state() -> None:
    contract = load_contracts()['libero_spatial_no_noops']
    spec = replace(SPEC, state_dim=8)
    parts = StateParts(state_of(spec, contract, 'auto'), 0.05, '')
    assert parts.topics == ('ee_pose', 'joint_states')
    assert parts.add_pose(Pose(POINT, -TURN), 'world', 0) is None
    fingers = message(panda_finger_joint2=0.04, panda_joint1=9.0, panda_finger_joint1=0.03)
    joined = parts.add_joints(fingers, 20 * MS)
    assert joined is not None and joined.stamp_ns == 20 * MS
    assert joined.values == pytest.approx([*POINT, math.pi, 0, 0, 0.03, -0.04])


def test_near_is_the_quaternion_of_liberos_hand() -> None:
    """LIBERO's state is quat2axisangle of MuJoCo's quaternion of the body right_hand.

    That is a product along the arm, so its sign is that of the arm's posture, and does not jump.
    The arm starts as in LIBERO 8f1084e: libero/libero/envs/robots/mounted_panda.py.
    """
    mujoco = import_mujoco()
    found = importlib.util.find_spec('robosuite')
    assert found is not None and found.origin is not None
    file = Path(found.origin).parent / 'models' / 'assets' / 'robots' / 'panda' / 'robot.xml'
    data = mujoco.MjData(model := mujoco.MjModel.from_xml_path(str(file)))
    start = [0.0, -0.161037389, 0.0, -2.44459747, 0.0, 2.22675220, math.pi / 4]
    near = np.array(
        next(one for one in load_contracts()['libero_goal'].state if one.label == DOWN.label).near
    )
    random = np.random.default_rng(0)
    for number in range(500):
        data.qpos[:] = start + (number > 0) * random.uniform(-0.6, 0.6, 7)
        mujoco.mj_kinematics(model, data)
        quaternion = np.roll(data.body('right_hand').xquat, -1)  # w comes first in MuJoCo
        vector = axis_angle(quaternion)
        if number == 0:
            assert vector == pytest.approx([math.pi, 0.0, -0.089], abs=0.002)
        assert quaternion @ near > 0.3
        for sign in (1.0, -1.0):  # a driver may publish either
            assert DOWN.values(Pose(POINT, sign * quaternion)) == pytest.approx(vector)


def test_alohas_state() -> None:
    contract = load_contracts()['aloha1_fold_shirt_30_demos']
    parts = StateParts(state_of(replace(SPEC, state_dim=14), contract, 'contract'), 0.05, '')
    assert parts.topics == ('joint_states',)
    arm = ('waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate')
    left = {f'left_{name}': 0.1 * number for number, name in enumerate(arm)}
    right = {f'right_{name}': -0.1 * number for number, name in enumerate(arm)}
    # Each arm has a publisher of its own, and closes or opens its hand.
    assert parts.add_joints(message(**left, left_left_finger=0.01844), 0) is None
    joined = parts.add_joints(message(right_left_finger=0.058, **right), 10 * MS)
    assert joined is not None
    expected = [*left.values(), 0.0, *right.values(), 1.0]
    assert joined.values == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ('names', 'positions', 'text'),
    [
        (['finger_1', 'b'], [0.0, 1.0], "no joint finger_2; it has 'finger_1', 'b'; name all"),
        (['finger_1', 'finger_2'], [0.0], '2 names and 1 positions; allowed: one position for'),
        (['finger_1', 'finger_2', 'finger_1'], [0.0] * 3, 'has finger_1 twice; allowed: once'),
        (['finger_1', 'finger_2'], [0.0, math.nan], r'is \[0.0, nan\]; allowed: all finite'),
    ],
)
def test_joints_that_can_not_be_used(names: list[str], positions: list[float], text: str) -> None:
    parts = StateParts([FINGERS], 0.05, '')
    with pytest.raises(ValueError, match=text):
        parts.add_joints(JointPositions(names, positions), 0)
    assert parts.add_joints(message(b=1.0), 0) is None
    assert not parts.concerns(message(b=1.0)) and parts.concerns(message(finger_1=1.0))
    assert parts.why_none() == (
        "nothing came of joint_states with finger_1, finger_2 (joint_states has 'b')"
    )


@pytest.mark.parametrize(('frame_id', 'expected'), [('base', 'base'), ('', 'world')])
def test_poses_have_one_frame(frame_id: str, expected: str) -> None:
    parts = StateParts([Position(unit=0.001)], 0.05, frame_id)
    for frame in ('base', 'world', ''):
        if frame != expected and parts.add_pose(Pose(POINT, TURN), expected, 0):
            with pytest.raises(ValueError, match=f"frame '{frame}'; allowed: '{expected}', as in "):
                parts.add_pose(Pose(POINT, TURN), frame, 0)
    joined = parts.add_pose(Pose(POINT, TURN), expected, 0)
    assert joined is not None and joined.values == pytest.approx([100, 200, 300])
    parts.clear()
    if not frame_id:
        assert parts.add_pose(Pose(POINT, TURN), 'another', 0)


@pytest.mark.parametrize('change', [{'position': [0, math.inf, 0]}, {'quaternion': [0, 0, 0, 0]}])
def test_a_pose_that_can_not_be_used_leaves_nothing(change: dict[str, Any]) -> None:
    parts = StateParts([Position(unit=1.0), DOWN], 0.05, '')
    pose = replace(Pose(POINT, TURN), **{k: np.array(v, np.float64) for k, v in change.items()})
    with pytest.raises(ValueError, match='allowed: '):
        parts.add_pose(pose, 'base', 0)
    assert parts.why_none() == 'nothing came of position of ee_pose; orientation of ee_pose'


def test_parts_are_joined_within_the_tolerance() -> None:
    parts = StateParts([Position(unit=1.0), FINGERS], 0.05, '')
    for stamp_ms in (0, 40, 80):
        assert parts.add_joints(message(finger_1=stamp_ms, finger_2=0), stamp_ms * MS) is None
    assert parts.why_none() == 'nothing came of position of ee_pose'
    joined = parts.add_pose(Pose(POINT, TURN), 'base', 45 * MS)
    assert joined is not None and joined.stamp_ns == 45 * MS
    assert joined.values == pytest.approx([*POINT, 40, 0])  # the nearest, not the newest
    assert parts.add_joints(message(finger_1=1, finger_2=0), 95 * MS) is not None  # 50 ms
    assert parts.why_none() == ''
    assert parts.add_joints(message(finger_1=1, finger_2=0), 96 * MS) is None
    assert parts.why_none() == 'position of ee_pose is 0.05 s behind the newest part'


def test_of_parts_with_one_stamp_the_last_one_is_taken() -> None:
    """A simulation stands still, and its joints are moved."""
    parts = StateParts([Position(unit=1.0), FINGERS], 0.05, '')
    for opening in (0.01, 0.02, 0.03):
        parts.add_joints(message(finger_1=opening, finger_2=0.0), 0)
    joined = parts.add_pose(Pose(POINT, TURN), 'world', 10 * MS)
    assert joined is not None
    assert joined.values[3] == pytest.approx(
        FINGERS.values(message(finger_1=0.03, finger_2=0.0))[0]
    )


def test_where_the_state_comes_from() -> None:
    libero = load_contracts()['libero_goal']
    bridge = load_contracts()['bridge_orig']
    eight = replace(SPEC, state_dim=8)
    assert state_of(eight, libero, 'auto') == state_of(eight, libero, 'contract') == libero.state
    assert not state_of(eight, libero, 'topic') and not state_of(SPEC, libero, 'contract')
    assert not state_of(eight, bridge, 'auto') and not state_of(eight, None, 'auto')
    for contract in (bridge, None):
        with pytest.raises(ContractError, match='there is no contract with a state for '):
            state_of(eight, contract, 'contract')
    with pytest.raises(ContractError, match='a state of 8 values, and the policy reads 7'):
        state_of(replace(SPEC, state_dim=7), libero, 'auto')
