# SPDX-License-Identifier: Apache-2.0
"""From an action to the twists that a robot is sent, without ROS."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from support.motions import (
    CONTRACT,
    FOREVER_S,
    LIMITS,
    WIDE,
    action,
    motion,
    random_action,
    sampled,
    within,
)
from vla_ros.motion import Motion, MotionLimits, load_contracts
from vla_ros.motion.displacement import action_twist
from vla_ros.motion.orientation import quaternion_of_rpy, vector_of
from vla_ros.parameters.check import ParameterError, check_all, motion_limits
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Reason

# -- what an action means -------------------------------------------------------------------------


def test_a_displacement_is_divided_by_the_period() -> None:
    twist = action_twist(action(0.02, -0.04, 0.01, 0.1, 0.0, 0.0), CONTRACT)
    np.testing.assert_allclose(twist, [0.1, -0.2, 0.05, 0.5, 0.0, 0.0])


def test_units_are_the_contracts() -> None:
    libero = replace(
        CONTRACT,
        period_s=0.05,
        metres_per_unit=0.05,
        rotation='axis_angle',
        radians_per_unit=0.5,
        gripper_closed=1.0,
        gripper_open=-1.0,
    )
    values = action(1.0, 0.0, -0.5, 0.2, 0.4, -0.2, -1.0)
    np.testing.assert_allclose(action_twist(values, libero), [1.0, 0, -0.5, 2.0, 4.0, -2.0])
    assert libero.opening(values[6]) == 1.0
    assert libero.opening(0.5) == 0.25


@pytest.mark.parametrize(
    ('rpy', 'expected'),
    [
        ([0.3, 0.0, 0.0], [0.3, 0.0, 0.0]),
        ([0.0, -0.7, 0.0], [0.0, -0.7, 0.0]),
        ([0.0, 0.0, 3.0], [0.0, 0.0, 3.0]),
        ([0.0, 0.0, 2 * math.pi + 0.5], [0.0, 0.0, 0.5]),  # the shorter way round
        ([0.0, 0.0, 4.0], [0.0, 0.0, 4.0 - 2 * math.pi]),
        # Roll first, about fixed axes: x to z by the pitch, which the yaw leaves alone.
        ([math.pi / 2, math.pi / 2, 0.0], np.array([1, 1, -1]) * (2 * math.pi / 3) / math.sqrt(3)),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    ],
)
def test_roll_pitch_yaw_is_a_rotation_about_one_axis(
    rpy: list[float], expected: list[float]
) -> None:
    np.testing.assert_allclose(vector_of(quaternion_of_rpy(np.array(rpy))), expected, atol=1e-12)


def test_a_rotation_vector_turns_as_the_three_rotations_do() -> None:
    generator = np.random.default_rng(0)
    for rpy in generator.uniform(-math.pi, math.pi, (200, 3)):
        vector = vector_of(quaternion_of_rpy(rpy))
        assert np.linalg.norm(vector) <= math.pi + 1e-12
        np.testing.assert_allclose(_about(vector), _fixed_axes(*rpy), atol=1e-9)


def _about(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rodrigues' formula."""
    angle = np.linalg.norm(vector)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _fixed_axes(roll: float, pitch: float, yaw: float) -> NDArray[np.float64]:
    def turn(angle: float, first: int, second: int) -> NDArray[np.float64]:
        matrix = np.eye(3)
        matrix[first, first] = matrix[second, second] = math.cos(angle)
        matrix[second, first], matrix[first, second] = math.sin(angle), -math.sin(angle)
        return matrix

    return turn(yaw, 0, 1) @ turn(pitch, 2, 0) @ turn(roll, 1, 2)


# -- how it is made -------------------------------------------------------------------------------


@pytest.mark.parametrize('jerk', [100.0, 1e3, 1e5])
@pytest.mark.parametrize('rate_hz', [20.0, 50.0, 333.0])
@pytest.mark.parametrize('unnorm_key', ['bridge_orig', 'fractal20220817_data', 'libero_spatial'])
def test_the_motion_adds_up_to_the_displacement(
    unnorm_key: str, rate_hz: float, jerk: float
) -> None:
    """Whenever the timer's ticks are, as a robot moves that goes on as it was told last."""
    contract = load_contracts()[unnorm_key]
    parameters = Parameters(
        control_rate_hz=rate_hz,
        max_linear_speed_m_s=0.5,
        max_angular_speed_rad_s=2.0,
        max_linear_jerk_m_s3=jerk,
        max_angular_jerk_rad_s3=min(4 * jerk, 1e5),
    )
    check_all(parameters)
    # Nothing in it is faster than 0.3 m/s and 0.6 rad/s.
    twist = np.array([0.1, -0.2, 0.15, 0.2, -0.3, 0.4])
    values = action(
        *(twist[:3] * contract.period_s / contract.metres_per_unit),
        *(twist[3:] * contract.period_s / contract.radians_per_unit),
    )
    expected = contract.period_s * action_twist(values, contract)
    for phase in np.linspace(0.0, 1.0, 11):
        one = Motion({unnorm_key: contract}, motion_limits(parameters), unnorm_key)
        assert one.execute(values, unnorm_key, 0.0, FOREVER_S)
        moved = sampled(one, 2.0, rate_hz, from_s=phase / rate_hz).sum(axis=0) / rate_hz
        assert np.linalg.norm((moved - expected)[:3]) < 0.01 * np.linalg.norm(expected[:3])
        assert np.linalg.norm((moved - expected)[3:]) < 0.01 * np.linalg.norm(expected[3:])
        assert one.counters.motions == 1
        assert one.counters.clipped_linear == one.counters.clipped_angular == 0


def test_a_motion_ends_with_its_ramps() -> None:
    one = motion()
    one.execute(action(0.03), 'bridge', 10.0, FOREVER_S)
    horizon_s = 0.2 + 2 * LIMITS.ramp_s
    assert not one.twist(10.0).any()
    assert one.twist(10.0 + horizon_s / 2)[0] == pytest.approx(0.15)
    assert one.twist(10.0 + horizon_s - 1e-3)[0] > 0
    assert not one.is_over(10.0 + horizon_s - 1e-3)
    for later_s in (0.0, 0.1, 1e9):
        assert one.is_over(10.0 + horizon_s + 1e-9 + later_s)
        assert not one.twist(10.0 + horizon_s + 1e-9 + later_s).any()


def test_a_motion_ends_early_with_its_actions_validity() -> None:
    one = motion()
    ramps_s = 2 * LIMITS.ramp_s
    assert one.execute(action(0.03), 'bridge', 0.0, valid_until_s=ramps_s + 0.05)
    assert sampled(one, 1.0, 1000.0)[:, 0].sum() / 1000 == pytest.approx(0.15 * 0.05, rel=0.01)
    assert not one.is_over(ramps_s + 0.04) and one.is_over(ramps_s + 0.05)
    for remaining_s in (-0.1, 0.0, ramps_s):  # too little for the ramps
        assert not one.execute(action(0.03), 'bridge', 1.0, valid_until_s=1.0 + remaining_s)
        assert one.is_over(1.0)
    assert not sampled(one, 1.0, from_s=1.0).any()


def test_steady_actions_make_one_steady_motion() -> None:
    """Every 0.2 s, and sometimes a little later or sooner, the same step."""
    one = motion()
    starts_s = np.cumsum([0.0, 0.2, 0.21, 0.19, 0.22, 0.18, 0.2])
    speeds = []
    for start_s, end_s in itertools.pairwise(starts_s):
        one.execute(action(0.02), 'bridge', float(start_s), FOREVER_S)
        speeds += [one.twist(float(now_s))[0] for now_s in np.arange(start_s, end_s, 0.01)]
    settled = speeds[round(2 * LIMITS.ramp_s / 0.01) + 1 :]
    assert max(settled) <= 0.1 + 1e-12
    assert min(settled) > 0.08


def test_a_new_action_takes_the_place_of_the_one_before() -> None:
    one = motion()
    one.execute(action(0.02), 'bridge', 0.0, FOREVER_S)
    before = sampled(one, 0.1, 1000.0)
    one.execute(action(0.0, 0.02), 'bridge', 0.1, FOREVER_S)
    after = sampled(one, 1.0, 1000.0, from_s=0.101)
    moved = np.concatenate([before, after]).sum(axis=0) / 1000
    np.testing.assert_allclose(moved[:3], [0.01, 0.02, 0.0], atol=2e-4)


def test_stop_is_at_once_and_forgets() -> None:
    one = motion()
    one.execute(action(0.02, 0, 0, 0, 0, 0, 1.0), 'bridge', 0.0, FOREVER_S)
    assert one.twist(0.15).any() and one.begin_rows(0.15)
    one.stop()
    assert one.is_over(0.15)
    assert not sampled(one, 1.0, from_s=0.15).any()
    assert one.gripper == 1.0


# -- limits ---------------------------------------------------------------------------------------


def test_too_fast_a_motion_is_made_shorter_in_its_direction_and_counted() -> None:
    one = motion()
    one.execute(action(0.3, 0.4, 0.0, 0.0, 0.0, 0.1), 'bridge', 0.0, FOREVER_S)  # 2.5 m/s
    fastest = one.twist(0.2)
    np.testing.assert_allclose(fastest, [0.15, 0.2, 0.0, 0.0, 0.0, 0.5], rtol=1e-9)
    assert (one.counters.clipped_linear, one.counters.clipped_angular) == (1, 0)
    one.execute(action(0.01, 0.0, 0.0, 0.0, 0.3), 'bridge', 1.0, FOREVER_S)  # 1.5 rad/s
    assert one.twist(1.2)[4] == pytest.approx(1.0)
    assert (one.counters.clipped_linear, one.counters.clipped_angular) == (1, 1)
    assert one.counters.motions == 2


def test_the_contracts_limits_hold_where_they_are_lower() -> None:
    one = motion(max_linear_m_s=0.1, max_angular_rad_s=0.3)
    one.execute(action(1.0, 0, 0, 1.0), 'bridge', 0.0, FOREVER_S)
    assert one.twist(0.15)[0] == pytest.approx(0.1)
    assert one.twist(0.15)[3] == pytest.approx(0.3)


@pytest.mark.parametrize('seed', range(40))
def test_no_twist_is_ever_beyond_the_limits(seed: int) -> None:
    """Whatever the actions are, whenever they come, and whenever the timer looks."""
    generator = np.random.default_rng(seed)
    limits = MotionLimits(*10.0 ** generator.uniform(-2, 1, 2), *10.0 ** generator.uniform(0, 4, 2))
    one = motion(limits, rotation=str(generator.choice(['rpy', 'axis_angle'])))
    now_s = float(generator.choice([0.0, 1.8e9]))
    executed, ramps_s = 0, 2 * limits.ramp_s
    for _ in range(60):
        finite = np.isfinite(values := random_action(generator)).all()
        moves = one.execute(values, 'bridge', now_s, now_s + generator.uniform(-0.1, 1.0) + ramps_s)
        assert finite or not moves
        executed += 1
        for _ in range(generator.integers(1, 20)):
            now_s += generator.exponential(0.02)
            twist = one.twist(now_s)
            assert np.isfinite(twist).all()
            assert within(twist[np.newaxis], limits)
    assert one.counters.motions + one.counters.motions_refused == executed
    assert one.counters.motions > 20
    assert one.counters.clipped_linear > 0


@pytest.mark.parametrize('seed', range(10))
def test_jerk_stays_within_its_limits(seed: int) -> None:
    """Between full speeds in opposite directions, at the worst of times."""
    generator = np.random.default_rng(seed)
    one = motion()
    fine_hz = 2000.0
    twists = []
    now_s = 0.0
    for _ in range(40):
        sign = generator.choice([-1.0, 1.0])
        one.execute(action(sign, 0, 0, 0, sign * 3.0), 'bridge', now_s, FOREVER_S)
        seconds = round(generator.choice([0.02, LIMITS.ramp_s, 0.25]) * fine_hz) / fine_hz
        twists.append(sampled(one, seconds - 1 / fine_hz, fine_hz, from_s=now_s))
        now_s += seconds
    jerk = np.diff(np.concatenate(twists), n=2, axis=0) * fine_hz**2
    linear = np.linalg.norm(jerk[:, :3], axis=1).max()
    angular = np.linalg.norm(jerk[:, 3:], axis=1).max()
    assert 0.5 * LIMITS.linear_m_s3 < linear <= LIMITS.linear_m_s3 * (1 + 1e-6)
    assert angular <= LIMITS.angular_rad_s3 * (1 + 1e-6)


def test_a_ramp_too_long_to_act_on_what_is_seen_is_refused() -> None:
    with pytest.raises(ParameterError, match=r'ramps of 1 s.*at least 4 and 16'):
        check_all(Parameters(max_linear_jerk_m_s3=1.0))
    check_all(Parameters(max_linear_jerk_m_s3=4.0, max_angular_jerk_rad_s3=16.0))


# -- what is no motion ----------------------------------------------------------------------------


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('place', [0, 4, 6])
def test_what_is_not_finite_stops_the_robot(place: int, value: float) -> None:
    one = motion()
    one.execute(action(0.02), 'bridge', 0.0, FOREVER_S)
    values = action(0.02)
    values[place] = value
    assert not one.execute(values, 'bridge', 0.1, FOREVER_S)
    assert one.cause is not None and one.cause.reason is Reason.MOTION_NOT_FINITE
    assert 'not finite' in one.cause.message
    assert one.is_over(0.1)
    assert (one.counters.motions, one.counters.motions_refused) == (1, 1)
    assert one.execute(action(0.02), 'bridge', 0.2, FOREVER_S)
    assert one.cause is None


def test_without_a_contract_there_is_no_motion() -> None:
    one = Motion({'bridge': CONTRACT}, LIMITS, 'kitchen')
    assert one.cause is not None and one.cause.reason is Reason.MOTION_NO_CONTRACT
    assert "'kitchen'" in one.cause.message
    assert 'bridge' in one.cause.message
    assert not one.execute(action(0.02), 'kitchen', 0.0, FOREVER_S)
    assert not sampled(one, 1.0).any()
    assert one.counters.motions_refused == 1


def test_positions_of_joints_are_no_motion() -> None:
    key = 'aloha1_put_X_into_pot_300_demos'
    one = Motion(load_contracts(), LIMITS, 'bridge_orig')
    assert one.execute(action(0.02), 'bridge_orig', 0.0, FOREVER_S)
    assert not one.execute(np.zeros((25, 14)), key, 0.05, FOREVER_S)
    assert one.cause is not None and one.cause.reason is Reason.MOTION_NOT_A_DISPLACEMENT
    assert 'JOINT_POSITION' in one.cause.message
    assert not sampled(one, 1.0).any() and one.contract is None
    assert one.counters.motions_refused == 1


def test_another_data_set_than_before_has_its_own_contract() -> None:
    slow = replace(CONTRACT, unnorm_key='slow', period_s=1.0)
    one = Motion({'bridge': CONTRACT, 'slow': slow}, WIDE, '')
    one.execute(action(0.1), 'slow', 0.0, FOREVER_S)
    assert one.twist(0.5)[0] == pytest.approx(0.1)
    one.execute(action(0.1), 'bridge', 2.0, FOREVER_S)
    assert one.twist(2.2)[0] == pytest.approx(0.5)
    assert not one.execute(action(0.1), 'unknown', 2.16, FOREVER_S)
    assert one.is_over(2.16)


def test_an_action_of_another_size_is_no_motion() -> None:
    one = motion()
    assert not one.execute(np.zeros(14), 'bridge', 0.0, FOREVER_S)
    assert one.cause == (Reason.MOTION_SHAPE, 'the action has 14 values; a motion needs 7')


# -- gripper --------------------------------------------------------------------------------------


def test_the_gripper_does_not_waver() -> None:
    one = motion()
    heard = []
    for opening in (0.5, 0.45, 0.61, 0.5, 0.41, 0.39, 0.5, 0.59, 0.996, 1.7, -0.9):
        one.execute(action(0, 0, 0, 0, 0, 0, opening), 'bridge', 0.0, FOREVER_S)
        assert one.begin_rows(0.1)
        heard.append(one.gripper)
    assert heard == [None, None, 1, 1, 1, 0, 0, 0, 1, 1, 0]


def test_what_was_told_of_the_gripper_is_forgotten_when_asked() -> None:
    one = motion()
    one.execute(action(0, 0, 0, 0, 0, 0, 1.0), 'bridge', 0.0, FOREVER_S)
    assert one.begin_rows(0.1) and one.gripper == 1.0
    one.forget_gripper()
    one.execute(action(0, 0, 0, 0, 0, 0, 0.5), 'bridge', 0.0, FOREVER_S)
    assert one.begin_rows(0.1)
    assert one.gripper is None


def test_an_action_that_is_no_motion_leaves_the_gripper_alone() -> None:
    one = motion()
    one.execute(action(0, 0, 0, 0, 0, 0, 0.0), 'bridge', 0.0, FOREVER_S)
    assert one.begin_rows(0.1)
    assert not one.execute(action(math.nan, 0, 0, 0, 0, 0, 1.0), 'bridge', 0.0, FOREVER_S)
    assert one.gripper == 0.0


def test_the_grippers_sign_is_the_contracts() -> None:
    one = motion(gripper_closed=1.0, gripper_open=-1.0)
    one.execute(action(0, 0, 0, 0, 0, 0, 1.0), 'bridge', 0.0, FOREVER_S)
    assert one.begin_rows(0.1) and one.gripper == 0.0
    one.execute(action(0, 0, 0, 0, 0, 0, -1.0), 'bridge', 0.0, FOREVER_S)
    assert one.begin_rows(0.1)
    assert one.gripper == 1.0
