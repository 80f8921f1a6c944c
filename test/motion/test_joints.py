# SPDX-License-Identifier: Apache-2.0
"""From chunks of joint positions to the positions at any time, without ROS."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from support.joints import ACCELERATION, CONTRACT, KEY, LIMITS, NAMES, PERIOD_S, RAMP_S, Robot, ns
from vla_ros.motion import load_contracts
from vla_ros.motion.joint_limits import JointLimit, JointLimits
from vla_ros.motion.joint_states import JointsHeard
from vla_ros.motion.joints import JointMotion
from vla_ros.motion.state import JointPositions
from vla_ros.reasons import Cause, Reason
from vla_ros.types import ActionSpace

STEP_S = 0.002
SPEED = np.array([0.8, 1.0])
LOW, HIGH = np.array([-1.0, -0.5]), np.array([1.0, 0.5])


def check_bounds(positions: NDArray[np.float64], step_s: float = STEP_S) -> None:
    velocity = np.diff(positions, axis=0) / step_s
    change = np.diff(velocity, axis=0) / step_s
    assert (np.abs(velocity) <= SPEED * (1 + 1e-9)).all()
    # By both of the brake's edges within one step it may look like twice as much, by no more.
    assert (np.abs(change) <= 2 * SPEED / RAMP_S * (1 + 1e-6)).all()


def line(start: float, end: float, rows: int) -> NDArray[np.float64]:
    """[rows, 2]: both joints along a line, without the start."""
    return np.linspace([start, start], [end, end], rows + 1)[1:]


def test_rows_are_reached_one_ramp_later_and_the_last_exactly() -> None:
    robot = Robot()
    rows = line(0.0, 0.4, 25)
    assert robot.acts(rows, 0.0)
    positions = robot.sampled(0.0, 2.0)
    check_bounds(positions)
    for row in range(13, 25 - 7):  # a straight line is not rounded
        at = robot.motion.positions((row + 1) * PERIOD_S + RAMP_S)
        np.testing.assert_allclose(at, rows[row], atol=1e-12)
    assert not robot.motion.is_over(25 * PERIOD_S + 2 * RAMP_S - 1e-6)
    assert robot.motion.is_over(25 * PERIOD_S + 2 * RAMP_S + 1e-9)
    np.testing.assert_allclose(positions[-1], [0.4, 0.4], atol=1e-12)
    assert robot.motion.counters.motions == 1 and robot.motion.limited == ()


def test_a_far_row_is_approached_along_a_straight_line() -> None:
    robot = Robot(at=(-0.2, 0.1))
    assert robot.acts([[0.6, -0.1]] * 25, 0.0)
    positions = robot.sampled(0.0, 2.0)
    check_bounds(positions)
    np.testing.assert_array_equal(positions[0], [-0.2, 0.1])
    np.testing.assert_allclose(positions[:, 1], 0.1 - (positions[:, 0] + 0.2) / 4, atol=1e-12)
    assert robot.motion.clipped.clipped_joint_speed == 1
    np.testing.assert_allclose(positions[-1], [0.6, -0.1], atol=1e-12)  # 0.8 rad in 1 s


def test_limits_of_position_shorten_and_are_named() -> None:
    robot = Robot(at=(0.0, 0.3))
    assert robot.acts([[0.0, 5.0]] * 25, 0.0)
    positions = robot.sampled(0.0, 2.0)
    assert positions[:, 1].max() <= 0.5
    assert positions[-1, 1] == pytest.approx(0.5)
    assert robot.motion.limited == ('lift',)
    assert robot.motion.clipped.clipped_joint_position == 1
    robot.tell(positions[-1], 2.0)
    assert robot.acts([[0.0, 0.4]] * 25, 2.0)
    assert robot.motion.limited == ()


def test_joints_outside_their_limits_come_back() -> None:
    robot = Robot(at=(0.0, 0.7))
    assert robot.acts([[0.0, 0.9]] * 25, 0.0)
    positions = robot.sampled(0.0, 2.0)
    check_bounds(positions)
    assert (np.diff(positions[:, 1]) <= 1e-15).all()
    assert positions[-1, 1] == pytest.approx(0.5)


@pytest.mark.parametrize('seed', range(6))
def test_any_chunks_and_stops_keep_the_limits(seed: int) -> None:
    """Chunks far and near, at any time, replaced and stopped at any time."""
    random = np.random.default_rng(seed)
    robot = Robot(at=random.uniform(LOW, HIGH))
    heard = []
    at_s, next_s = 0.0, 0.0
    while at_s < 20.0:
        if at_s >= next_s:
            robot.tell(robot.heard.newest(NAMES, ns(at_s)), at_s)
            if random.random() < 0.3:
                robot.motion.stop(at_s)
            else:
                scale = 10.0 ** random.uniform(-2, 1)
                rows = np.cumsum(random.normal(size=(random.integers(1, 26), 2)), axis=0) * scale
                robot.acts(rows, at_s, random.uniform(0.3, 1.5), due_s=at_s - random.uniform(0, 1))
            next_s = at_s + random.choice([0.01, 0.1, 1.0, 2.0]) * random.random()
        at = robot.motion.positions(at_s)
        if at is not None:
            heard.append(at)
            robot.tell(at, at_s)
        else:
            robot.tell(robot.heard.newest(NAMES, ns(at_s - STEP_S)), at_s)
        at_s += STEP_S
    positions = np.array(heard)
    check_bounds(positions)
    assert (positions >= LOW - 1e-12).all() and (positions <= HIGH + 1e-12).all()
    assert robot.motion.counters.motions > 5


def test_a_chunk_replaces_the_rest_smoothly() -> None:
    robot = Robot()
    assert robot.acts(line(0.0, 0.5, 25), 0.0)
    before = robot.sampled(0.0, 0.5)
    robot.tell(before[-1], 0.5)
    assert robot.acts(line(0.2, -0.3, 25), 0.5)
    check_bounds(np.concatenate([before[:-1], robot.sampled(0.5, 2.0)]))
    np.testing.assert_allclose(robot.motion.positions(3.0), [-0.3, -0.3], atol=1e-12)


def test_the_same_future_twice_is_one_motion() -> None:
    """Timed rows of a second chunk that agrees take over without a trace."""
    once, twice = Robot(), Robot()
    rows = line(0.0, 0.4, 30)
    once.acts(rows, 0.0)
    twice.acts(rows[:25], 0.0)
    twice.tell((0.1, 0.1), 0.4)
    assert twice.acts(rows[5:], 0.4, due_s=0.2)
    assert twice.motion.counters.rows_skipped == 5
    np.testing.assert_allclose(once.sampled(0.4, 2.0), twice.sampled(0.4, 2.0), atol=1e-12)


def test_a_stop_brakes_and_does_not_turn_back() -> None:
    robot = Robot()
    robot.acts(line(0.0, 0.8, 25)[:, :] * [1, 0], 0.0)
    before = robot.sampled(0.0, 0.8)
    robot.motion.stop(0.8)
    after = robot.sampled(0.8, 1.0)
    check_bounds(np.concatenate([before[:-1], after]))
    assert robot.motion.is_over(0.8 + RAMP_S / 2 + 1e-9)
    speed = (before[-1, 0] - before[-2, 0]) / STEP_S
    brake = 2 * SPEED[0] / RAMP_S
    assert after[-1, 0] - after[0, 0] == pytest.approx(speed**2 / (2 * brake), rel=1e-2)
    robot.motion.stop(0.81)  # again: nothing changes
    np.testing.assert_array_equal(robot.sampled(0.81, 0.99)[-1], after[-1])


def test_a_motion_ends_in_time() -> None:
    robot = Robot()
    assert robot.acts(line(0.0, 0.5, 25), 0.0, valid_s=2 * RAMP_S + 0.01)
    # Row 0 has 0.01 s of its 0.04; the last row may end 24 periods later.
    assert robot.motion.is_over(2 * RAMP_S + 0.01 + 24 * PERIOD_S + 1e-9)
    assert not Robot().acts(line(0.0, 0.5, 25), 0.0, valid_s=2 * RAMP_S - 0.01)


def test_a_motion_begins_at_the_last_command_that_is_still_held() -> None:
    robot = Robot()
    robot.acts([[0.1, 0.1]] * 25, 0.0)
    robot.tell((0.08, 0.06), 3.0)  # they sag
    robot.acts([[0.1, 0.1]], 3.0)
    np.testing.assert_allclose(robot.motion.positions(3.0), [0.1, 0.1], atol=1e-12)
    robot.tell((-0.4, 0.1), 5.0)  # moved by others
    robot.acts([[0.1, 0.1]], 5.0)
    np.testing.assert_allclose(robot.motion.positions(5.0), [-0.4, 0.1])
    robot.motion.forget()
    robot.tell((-0.38, 0.1), 8.0)  # the operator may have moved them a little
    robot.acts([[0.1, 0.1]], 8.0)
    np.testing.assert_allclose(robot.motion.positions(8.0), [-0.38, 0.1])


def test_grippers_move_row_by_row() -> None:
    robot = Robot()
    robot.acts([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], 0.0)
    assert not robot.motion.begin_rows(RAMP_S - 0.01) and robot.motion.openings == {}
    assert robot.motion.begin_rows(RAMP_S) and robot.motion.openings == {'hand': 1.0}
    assert not robot.motion.begin_rows(RAMP_S + 0.03)
    assert robot.motion.begin_rows(RAMP_S + 0.05) and robot.motion.openings == {'hand': 0.0}
    robot.motion.forget()
    assert robot.motion.openings == {}


@pytest.mark.parametrize('seed', range(10))
def test_a_hand_turns_where_the_joints_begin_its_row(seed: int) -> None:
    """Chunks and holds come at any moment; at a turn the joints are where the row before leads."""
    generator = np.random.default_rng(seed)
    robot, rows = Robot(), 60
    path = np.cumsum(generator.uniform(-0.5, 0.5, (rows, 2)) * SPEED * PERIOD_S, axis=0)
    path = np.clip(path, LOW, HIGH)
    hand = np.repeat(generator.integers(0, 2, rows // 6), 6)
    now_s, next_s, turned = 0.0, 0.0, []
    while now_s < rows * PERIOD_S + 2 * RAMP_S:
        robot.tell(robot.motion.positions(now_s) if now_s else (0.0, 0.0), now_s)
        if now_s >= next_s and (row := int((now_s + 1e-9) / PERIOD_S)) < rows:
            chunk = np.column_stack([path, hand])[row : row + 12]
            assert robot.acts(chunk, now_s, 9.0, due_s=row * PERIOD_S)
            next_s = now_s + float(generator.uniform(0.01, 0.3))
        before = robot.motion.openings.get('hand')
        if robot.motion.begin_rows(now_s) and robot.motion.openings['hand'] != before:
            turned.append((robot.motion.openings['hand'], robot.motion.positions(now_s)))
        now_s += 0.002
    changes = [row for row in range(rows) if row == 0 or hand[row] != hand[row - 1]]
    assert [opening for opening, _ in turned] == hand[changes].tolist()
    starts = np.vstack([np.zeros(2), path])[changes]
    off = np.abs(np.array([place for _, place in turned]) - starts)
    assert (off <= SPEED * RAMP_S / 3 + 0.01).all()


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'space': ActionSpace.POSE_DELTA}, Reason.MOTION_NOT_JOINT_POSITIONS),
        ({'actions': np.zeros((2, 7))}, Reason.MOTION_SHAPE),
        ({'actions': np.array([[0.0, 0.0, np.nan]])}, Reason.MOTION_NOT_FINITE),
        ({'actions': np.array([[1.7e308, 0.0, 0.0]])}, None),  # finite, and far
        ({'unnorm_key': 'other'}, Reason.MOTION_NO_CONTRACT),
        ({'unnorm_key': 'bridge_orig'}, Reason.MOTION_NOT_JOINT_POSITIONS),
        ({'valid_until_s': 0.4}, Reason.MOTION_NO_TIME),
        ({'due_s': -1.0}, Reason.MOTION_ROWS_PAST),
        ({'now_ns': ns(0.3)}, Reason.MOTION_JOINTS_STALE),
    ],
)
def test_what_is_no_motion_is_refused_and_stops(changes: dict, reason: Reason | None) -> None:
    robot = Robot()
    contracts = {**load_contracts(), KEY: CONTRACT}
    robot.motion.adjust(contracts, LIMITS, 0.0)
    robot.acts(line(0.0, 0.5, 25), 0.0)
    arguments = {
        'actions': np.zeros((1, 3)),
        'unnorm_key': KEY,
        'now_s': 0.0,
        'valid_until_s': 1.5,
        'now_ns': ns(0.0),
        **changes,
    }
    assert robot.motion.execute(**arguments) == (reason is None)
    cause = robot.motion.cause
    assert (cause and cause.reason) == reason
    assert robot.motion.counters.motions_refused == (reason is not None)
    if reason:
        assert robot.motion.is_over(0.0)


def test_without_a_limit_of_speed_nothing_moves() -> None:
    robot = Robot(JointLimits(np.inf, ACCELERATION, 0.04, {'turn': JointLimit(speed=1.0)}, np.inf))
    assert not robot.acts([[0.0, 0.0]], 0.0)
    assert robot.motion.cause is not None
    assert robot.motion.cause.reason is Reason.MOTION_JOINT_LIMITS
    assert 'joint lift' in robot.motion.cause.message
    assert 'max_joint_speed_rad_s' in robot.motion.cause.message


def test_the_tightest_of_all_limits_counts() -> None:
    description = {'a': JointLimit(-2.0, 0.5, 3.0), 'b': JointLimit(-9.0, 9.0, 0.25)}
    contract = {'a': JointLimit(-1.0, 1.0, 2.0)}
    bounds = JointLimits(2.5, 10.0, 0.04, description, np.inf).of(['a', 'b'], contract)
    assert not isinstance(bounds, Cause)
    assert bounds.low.tolist() == [-1.0, -9.0] and bounds.high.tolist() == [0.5, 9.0]
    assert bounds.speed.tolist() == [2.0, 0.25] and bounds.ramp_s == pytest.approx(0.4)
    slow = JointLimits(2.5, 5.0, 0.04, description, np.inf).of(['a', 'b'], contract)
    assert isinstance(slow, Cause) and 'at most 1.25' in slow.message
    none = JointLimits(2.5, 10.0, 0.04, description, np.inf).of(['a'], {'a': JointLimit(0.6, 1.0)})
    assert isinstance(none, Cause) and '0.6 to 0.5' in none.message


def test_other_limits_stop_the_motion_and_the_next_obeys() -> None:
    robot = Robot()
    robot.acts(line(0.0, 0.5, 25), 0.0)
    robot.motion.adjust({KEY: CONTRACT}, LIMITS, 0.5)
    assert not robot.motion.is_over(1.0)  # nothing has changed
    robot.motion.adjust({KEY: CONTRACT}, replace(LIMITS, speed_rad_s=0.2), 0.5)
    assert robot.motion.is_over(0.5 + RAMP_S / 2 + 1e-9)
    robot.tell((0.1, 0.1), 1.0)
    assert robot.acts([[0.4, 0.4]] * 25, 1.0)
    assert (np.abs(np.diff(robot.sampled(1.0, 1.5), axis=0)) <= 0.2 * STEP_S * (1 + 1e-9)).all()


def test_samples_are_the_motion_to_come() -> None:
    robot = Robot()
    assert robot.motion.samples(0.0, 0.02) == []
    robot.acts(line(0.0, 0.5, 25), 0.0)
    samples = robot.motion.samples(0.0, 0.02)
    assert [one.at_s for one in samples] == pytest.approx(0.02 * np.arange(1, 76))
    for one in samples:
        np.testing.assert_allclose(one.positions, robot.motion.positions(one.at_s), atol=1e-12)
    assert not samples[-1].velocities.any()
    [rest] = robot.motion.samples(5.0, 0.02)
    assert rest.at_s == 0.02
    np.testing.assert_allclose(rest.positions, [0.5, 0.5])


# -- where the joints are --------------------------------------------------------------------------


def test_joints_of_several_publishers_are_each_as_old_as_their_own() -> None:
    heard = JointsHeard(0.2)
    missing = heard.newest(['a', 'b'], 1)
    assert isinstance(missing, Cause) and missing.reason is Reason.MOTION_NO_JOINTS
    heard.hear(JointPositions(['a', 'x'], [0.1, np.nan]), ns(0.0), ns(0.0))
    missing = heard.newest(['a', 'b'], ns(0.0))
    assert isinstance(missing, Cause)
    assert "of b came on joint_states, which has 'a', 'x'" in missing.message
    heard.hear(JointPositions(['b'], [0.2]), ns(0.15), ns(0.15))
    assert heard.newest(['b', 'a'], ns(0.15)).tolist() == [0.2, 0.1]
    stale = heard.newest(['a', 'b'], ns(0.25))
    assert isinstance(stale, Cause) and 'position of a ' in stale.message
    heard.hear(JointPositions(['a'], [0.9]), ns(0.1), ns(0.25))
    heard.hear(JointPositions(['a'], [0.8]), ns(0.05), ns(0.25))  # late on its way
    assert heard.newest(['a'], ns(0.25)).tolist() == [0.9]
    heard.forget()
    assert isinstance(heard.newest(['a'], ns(0.25)), Cause)


@pytest.mark.parametrize(
    ('names', 'positions', 'stamp_ns', 'words'),
    [
        (['a'], [], ns(0.0), '1 names and 0 positions'),
        (['a', 'a'], [0.0, 0.0], ns(0.0), 'twice'),
        (['a'], [0.0], 0, 'no stamp'),
        (['a'], [0.0], ns(0.5), 'future'),
        ([str(one) for one in range(1001)], [0.0] * 1001, ns(0.0), 'more than 1000'),
    ],
)
def test_unusable_joint_states_are_rejected(
    names: list[str], positions: list[float], stamp_ns: int, words: str
) -> None:
    heard = JointsHeard(0.2)
    heard.hear(JointPositions(['a'], [0.0]), ns(-0.1), ns(-0.1))
    cause = heard.hear(JointPositions(names, positions), stamp_ns, ns(0.0))
    assert cause is not None and words in cause.message
    assert heard.newest(['a'], ns(0.0)) == cause
    assert heard.counters.joints_rejected == 1
    heard.hear(JointPositions(['a'], [0.5]), ns(0.0), ns(0.0))
    assert heard.newest(['a'], ns(0.0)).tolist() == [0.5]
    heard.hear(JointPositions(['a'], [np.inf]), ns(0.01), ns(0.01))
    assert isinstance(heard.newest(['a'], ns(0.01)), Cause)


def test_aloha_moves() -> None:
    heard, key = JointsHeard(0.2), 'aloha1_fold_shorts_20_demos'
    motion = JointMotion(load_contracts(), JointLimits(1.0, 20.0, 0.04, {}, np.inf), key, heard)
    assert len(motion.joints) == 12
    heard.hear(JointPositions(motion.joints, [0.1] * 12), ns(0), ns(0))
    assert motion.execute(np.full((25, 14), 0.9), key, 0.0, 1.5, ns(0))
    assert motion.begin_rows(0.1)
    assert motion.openings == {'left_gripper': 1.0, 'right_gripper': 1.0}
