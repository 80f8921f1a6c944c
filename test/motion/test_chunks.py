# SPDX-License-Identifier: Apache-2.0
"""A chunk of several rows as a motion: each row in its time, once, whatever replaces the rest."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from support.motions import (
    CONTRACT,
    FOREVER_S,
    LIMITS,
    action,
    motion,
    random_action,
    sampled,
    within,
)
from vla_ros.motion import Motion, MotionLimits
from vla_ros.reasons import Reason
from vla_ros.types import ActionSpace

FINE_HZ = 1000.0
RAMPS_S = 2 * LIMITS.ramp_s


def displacements(
    generator: np.random.Generator, rows: int, period_s: float
) -> NDArray[np.float64]:
    """[K, 7]: no row beyond LIMITS, the gripper anywhere."""
    directions = generator.normal(size=(rows, 2, 3))
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    speeds = generator.uniform(0, 0.95, (rows, 2, 1)) * [[LIMITS.linear_m_s], [0.3]]
    moves = (directions * speeds).reshape(rows, 6) * period_s
    return np.column_stack([moves, generator.uniform(-0.2, 1.2, rows)])


def one_by_one(metres: float, rows: int = 3) -> NDArray[np.float64]:
    """[K, 7]: row k moves along axis k only."""
    return metres * np.eye(rows, 7)


def gripping(*openings: float) -> NDArray[np.float64]:
    """[K, 7]: only the gripper is moved."""
    return np.array([action(0, 0, 0, 0, 0, 0, opening) for opening in openings])


# -- rows in their time ----------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(20))
def test_the_motion_of_chunks_is_the_rows_that_were_played(seed: int) -> None:
    """Each chunk replaces the rest of the one before, at any moment.

    A row that ended adds its displacement, a row that was interrupted its part, the rows to come
    nothing: so none is lost, and none is played twice.
    """
    generator = np.random.default_rng(seed)
    one = motion(rotation='axis_angle')
    now_s = float(generator.choice([0.0, 1000.0]))
    expected, moved = np.zeros(6), np.zeros(6)
    for number in range(6):
        rows, period_s = int(generator.integers(1, 26)), float(generator.uniform(0.02, 0.3))
        actions = displacements(generator, rows, period_s)
        assert one.execute(actions, 'bridge', now_s, FOREVER_S, period_s=period_s)
        whole_s = rows * period_s
        lasts_s = whole_s + RAMPS_S + 0.01 if number == 5 else generator.uniform(0, 1.2 * whole_s)
        lasts_s = round(lasts_s * FINE_HZ) / FINE_HZ
        played = np.clip((lasts_s - period_s * np.arange(rows)) / period_s, 0.0, 1.0)
        expected += played @ actions[:, :6]
        moved += sampled(one, lasts_s - 1 / FINE_HZ, FINE_HZ, from_s=now_s).sum(axis=0) / FINE_HZ
        now_s += lasts_s
    assert one.is_over(now_s + 1e-9)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=5e-4)
    assert one.counters.motions == 6
    assert one.counters.clipped_linear == one.counters.clipped_angular == 0


def test_each_row_moves_in_its_time_only() -> None:
    one = motion()
    assert one.execute(one_by_one(0.02), 'bridge', 10.0, FOREVER_S)
    for row in range(3):
        begins_s, ends_s = 10.0 + 0.2 * row, 10.0 + 0.2 * (row + 1) + RAMPS_S
        times_s = np.linspace(9.0, 12.0, 601)
        moves = np.array([one.twist(float(now_s))[row] > 0 for now_s in times_s])
        within_its_time = (times_s > begins_s + 1e-9) & (times_s < ends_s - 1e-9)
        assert (moves == within_its_time).all()
    assert not one.is_over(10.0 + 0.6 + RAMPS_S - 1e-3)
    assert one.is_over(10.0 + 0.6 + RAMPS_S + 1e-9)


def test_a_chunk_is_played_at_the_policys_period() -> None:
    one = motion()
    one.execute(one_by_one(0.01, rows=2), 'bridge', 0.0, FOREVER_S, period_s=0.1)
    twists = sampled(one, 1.0, FINE_HZ)
    np.testing.assert_allclose(twists.sum(axis=0)[:2] / FINE_HZ, [0.01, 0.01], rtol=1e-3)
    assert not twists[round((0.2 + RAMPS_S) * FINE_HZ) + 1 :].any()


def test_a_chunk_of_one_row_is_that_action() -> None:
    chunk, single = motion(), motion()
    values = action(0.02, -0.01, 0, 0.1, 0, 0, 1.0)
    assert chunk.execute(values[np.newaxis], 'bridge', 0.0, valid_until_s=0.35)
    assert single.execute(values, 'bridge', 0.0, valid_until_s=0.35)
    np.testing.assert_array_equal(sampled(chunk, 1.0), sampled(single, 1.0))
    assert chunk.begin_rows(0.1) and single.begin_rows(0.1)
    assert chunk.gripper == single.gripper == 1.0


def test_chunks_that_overlap_make_one_steady_motion() -> None:
    """The robot never brakes between two rows, nor where a chunk replaces another."""
    one = motion()
    speeds = []
    for start_s in (0.0, 0.73, 0.8, 1.99, 2.0):
        one.execute(np.tile(action(0.02), (8, 1)), 'bridge', start_s, FOREVER_S)
        speeds.append(sampled(one, 1.0, FINE_HZ, from_s=start_s)[:, 0])
    settled = np.concatenate([speeds[0][round(RAMPS_S * FINE_HZ) + 1 :], *speeds[1:]])
    np.testing.assert_allclose(settled, 0.1, rtol=1e-9)


@pytest.mark.parametrize('seed', range(10))
def test_a_stop_within_a_chunk_is_zero_immediately(seed: int) -> None:
    generator = np.random.default_rng(seed)
    one = motion()
    one.execute(displacements(generator, 8, 0.2), 'bridge', 0.0, FOREVER_S)
    now_s, gripper = float(generator.uniform(0, 1.6)), one.gripper
    one.stop()
    assert one.is_over(now_s)
    assert not sampled(one, 3.0, from_s=now_s).any()
    assert not one.begin_rows(now_s + 3.0)
    assert one.gripper == gripper


# -- validity and limits ---------------------------------------------------------------------------


@pytest.mark.parametrize('left_s', [0.01, 0.1, 0.199, 0.2, 5.0])
def test_no_row_lasts_beyond_its_validity(left_s: float) -> None:
    """Row k is valid k periods longer than row 0; each is cut short by the same time."""
    one = motion()
    valid_s = RAMPS_S + left_s
    assert one.execute(one_by_one(0.02), 'bridge', 0.0, valid_until_s=valid_s)
    for row in range(3):
        valid_until_s = valid_s + 0.2 * row
        times_s = np.arange(0.0, 1.5, 1 / FINE_HZ)
        speeds = np.array([one.twist(float(now_s))[row] for now_s in times_s])
        assert not speeds[times_s >= valid_until_s].any()
        assert speeds.sum() / FINE_HZ == pytest.approx(0.1 * min(left_s, 0.2), rel=0.01)


def test_a_chunk_that_is_not_valid_for_its_ramps_is_no_motion() -> None:
    one = motion()
    assert not one.execute(one_by_one(0.02), 'bridge', 0.0, valid_until_s=RAMPS_S)
    assert one.cause is not None and one.cause.reason is Reason.MOTION_NO_TIME
    assert one.is_over(0.0)


@pytest.mark.parametrize('seed', range(20))
def test_speed_and_jerk_of_any_chunks_stay_within_their_limits(seed: int) -> None:
    generator = np.random.default_rng(seed)
    one = motion()
    twists, now_s = [], 0.0
    for _ in range(12):
        rows, period_s = int(generator.integers(1, 9)), float(generator.choice([0.01, 0.05, 0.2]))
        full = generator.choice([-1.0, 0.0, 1.0], (rows, 7)) * [1, 1, 0, 3, 0, 3, 1]
        valid_until_s = now_s + RAMPS_S + generator.uniform(0.001, 0.4)
        assert one.execute(full, 'bridge', now_s, valid_until_s, period_s=period_s)
        seconds = round(generator.choice([0.02, LIMITS.ramp_s, 0.25, 1.0]) * FINE_HZ) / FINE_HZ
        twists.append(sampled(one, seconds - 1 / FINE_HZ, FINE_HZ, from_s=now_s))
        now_s += seconds
    heard = np.concatenate(twists)
    assert within(heard, LIMITS)
    jerk = np.diff(heard, n=2, axis=0) * FINE_HZ**2
    assert np.linalg.norm(jerk[:, :3], axis=1).max() <= LIMITS.linear_m_s3 * (1 + 1e-6)
    assert np.linalg.norm(jerk[:, 3:], axis=1).max() <= LIMITS.angular_rad_s3 * (1 + 1e-6)
    assert one.counters.clipped_linear > 0


@pytest.mark.parametrize('seed', range(20))
def test_chunks_of_any_values_are_within_the_limits_or_refused(seed: int) -> None:
    generator = np.random.default_rng(seed)
    limits = MotionLimits(*10.0 ** generator.uniform(-2, 1, 2), *10.0 ** generator.uniform(0, 4, 2))
    one = motion(limits)
    now_s = float(generator.choice([0.0, 1.8e9]))
    for executed in itertools.count(1):
        values = np.array([random_action(generator) for _ in range(generator.integers(1, 4))])
        moves = one.execute(values, 'bridge', now_s, now_s + 2 * limits.ramp_s + 0.1)
        assert np.isfinite(values).all() or not moves
        for _ in range(generator.integers(1, 20)):
            now_s += generator.exponential(0.05)
            twist = one.twist(now_s)
            assert np.isfinite(twist).all()
            assert within(twist[np.newaxis], limits)
        if executed == 40:
            break
    assert one.counters.motions + one.counters.motions_refused == executed
    assert one.counters.motions > 5


def test_a_chunk_is_counted_once_however_many_rows_are_too_fast() -> None:
    one = motion()
    one.execute(one_by_one(1.0), 'bridge', 0.0, FOREVER_S)
    assert (one.counters.motions, one.counters.clipped_linear) == (1, 1)
    assert one.counters.clipped_angular == 0


# -- gripper ---------------------------------------------------------------------------------------


def test_the_gripper_moves_when_the_arm_begins_its_row() -> None:
    """Which is one ramp, 0.1 s, after the row's command."""
    one = motion()
    one.execute(gripping(1.0, 0.5, 0.0, 1.0), 'bridge', 0.0, FOREVER_S)
    heard = []
    for tick in range(100):
        if one.begin_rows(tick / 100 + 1e-9):
            heard.append((tick, one.gripper))
    assert heard == [(10, 1.0), (30, 1.0), (50, 0.0), (70, 1.0)]


@pytest.mark.parametrize('seed', range(10))
def test_the_gripper_turns_where_its_row_begins_whatever_replaces_the_rest(seed: int) -> None:
    """The arm is then where the rows before lead to, but for the rounding of corners.

    Chunks come at any moment, also sooner than a ramp, and agree about the path.
    """
    generator = np.random.default_rng(seed)
    limits = MotionLimits(0.25, 1.0, generator.uniform(5.0, 100.0), 400.0)
    period_s, rows = float(generator.uniform(0.06, 0.3)), 30
    path = displacements(generator, rows, period_s)
    path[:, 3:6] = 0.0
    path[:, 6] = generator.integers(0, 2, rows)
    begins = np.vstack([np.zeros(3), np.cumsum(path[:, :3], axis=0)])
    one, at, now_s, next_s, turned = motion(limits), np.zeros(3), 0.0, 0.0, []
    while now_s < rows * period_s + 2 * limits.ramp_s:
        if now_s >= next_s and (row := int(now_s / period_s)) < rows:
            chunk = path[row : row + 8]
            one.execute(chunk, 'bridge', now_s, FOREVER_S, period_s=period_s, due_s=row * period_s)
            next_s = now_s + float(generator.uniform(0.01, 3 * period_s))
        before = one.gripper
        if one.begin_rows(now_s) and one.gripper != before:
            turned.append((one.gripper, at))
        at = at + one.twist(now_s + 5e-4)[:3] / FINE_HZ
        now_s += 1 / FINE_HZ
    changes = [row for row in range(rows) if row == 0 or path[row, 6] != path[row - 1, 6]]
    assert [opening for opening, _ in turned] == path[changes, 6].tolist()
    corner_m = 2 * limits.linear_m_s * limits.ramp_s / 6  # a ramp early it would be 6 times that
    for row, (_, place) in zip(changes, turned, strict=True):
        assert np.linalg.norm(place - begins[row]) <= corner_m + limits.linear_m_s * 2e-3


@pytest.mark.parametrize('gap_s', [0.013, 0.09, 0.21])
def test_no_chunk_takes_the_gripper_of_a_row_that_has_begun(gap_s: float) -> None:
    """Actions of single rows that follow each other sooner than a ramp: each is carried out."""
    one, heard, gap = motion(), [], round(gap_s * 1000)
    for tick in range(10 * gap + 101):
        if tick % gap == 0 and tick < 10 * gap:
            one.execute(gripping(tick // gap % 2), 'bridge', tick / 1000, FOREVER_S)
        if one.begin_rows(tick / 1000 + 1e-9):
            heard.append(one.gripper)
    assert heard == [0.0, 1.0] * 5


def test_a_late_tick_begins_all_rows_that_are_due_together() -> None:
    one = motion()
    one.execute(gripping(1.0, 0.0, 0.5, 1.0), 'bridge', 0.0, FOREVER_S)
    assert one.begin_rows(0.6)
    assert one.gripper == 0.0  # row 1 closed it, and row 2 leaves it there
    assert not one.begin_rows(0.6)


def test_the_gripper_ignores_rows_that_are_no_longer_valid() -> None:
    one = motion()
    one.execute(gripping(1.0, 0.0, 0.0), 'bridge', 0.0, valid_until_s=0.3)
    assert one.begin_rows(0.15) and one.gripper == 1.0
    assert not one.begin_rows(0.3 + 0.4)
    assert one.gripper == 1.0


def test_a_new_chunk_replaces_the_grippers_rows() -> None:
    one = motion()
    one.execute(gripping(1.0, 0.0), 'bridge', 0.0, FOREVER_S)
    one.execute(gripping(1.0, 1.0), 'bridge', 0.1, FOREVER_S)
    assert one.begin_rows(0.21) and one.gripper == 1.0
    assert not one.begin_rows(0.35)
    assert one.begin_rows(0.41) and one.gripper == 1.0


# -- what is no motion -----------------------------------------------------------------------------


@pytest.mark.parametrize('column', [0, 4, 6])
@pytest.mark.parametrize('row', [0, 2])
def test_a_row_that_is_not_finite_stops_the_robot(row: int, column: int) -> None:
    one = motion()
    one.execute(np.tile(action(0.02, 0, 0, 0, 0, 0, 1.0), (3, 1)), 'bridge', 0.0, FOREVER_S)
    assert one.begin_rows(0.1)
    values = one_by_one(0.02)
    values[row, column] = math.nan
    assert not one.execute(values, 'bridge', 0.1, FOREVER_S)
    assert one.cause is not None and one.cause.reason is Reason.MOTION_NOT_FINITE
    assert str(values[row].tolist()) in one.cause.message
    assert one.is_over(0.1) and not one.begin_rows(10.0)
    assert one.gripper == 1.0
    assert (one.counters.motions, one.counters.motions_refused) == (1, 1)


JOINTS = [space for space in ActionSpace if space.name.startswith('JOINT_')]


@pytest.mark.parametrize('space', JOINTS)
@pytest.mark.parametrize('unnorm_key', ['bridge', 'unknown'])
def test_joint_actions_are_no_displacement(space: ActionSpace, unnorm_key: str) -> None:
    one = motion()
    one.execute(one_by_one(0.02), 'bridge', 0.0, FOREVER_S)
    assert not one.execute(one_by_one(0.02), unnorm_key, 0.1, FOREVER_S, space)
    assert one.cause is not None and one.cause.reason is Reason.MOTION_NOT_A_DISPLACEMENT
    assert space.name in one.cause.message
    assert one.is_over(0.1)
    assert one.execute(one_by_one(0.02), 'bridge', 0.2, FOREVER_S, ActionSpace.POSE_DELTA)
    assert one.cause is None


def test_a_chunk_without_a_contract_is_no_motion() -> None:
    """Neither its units nor, if the policy does not tell it, its period is known."""
    one = Motion({'bridge': CONTRACT}, LIMITS, '')
    for period_s in (None, 0.1):
        assert not one.execute(one_by_one(0.02), 'unknown', 0.0, FOREVER_S, period_s=period_s)
        assert one.cause is not None and one.cause.reason is Reason.MOTION_NO_CONTRACT
    assert one.counters.motions_refused == 2


def test_a_chunk_of_rows_of_another_size_is_no_motion() -> None:
    one = motion()
    assert not one.execute(np.zeros((4, 14)), 'bridge', 0.0, FOREVER_S)
    assert one.cause == (Reason.MOTION_SHAPE, 'the action has 14 values; a motion needs 7')
