# SPDX-License-Identifier: Apache-2.0
"""Chunks whose rows are due from their observation on: each in its time or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from support.motions import CONTRACT, LIMITS, motion, sampled
from vla_ros.reasons import Reason

PERIOD_S = CONTRACT.period_s
RAMPS_S = 2 * LIMITS.ramp_s
FOREVER_S = 1e6
FINE_HZ = 1000.0


@pytest.mark.parametrize('seed', range(20))
def test_late_chunks_play_each_row_in_its_time_and_none_twice(seed: int) -> None:
    """Each chunk has an age of its own; what its time has left is made, by the newest chunk."""
    generator = np.random.default_rng(seed)
    one = motion(rotation='axis_angle')
    now_s, expected, moved, skipped = 100.0, np.zeros(6), np.zeros(6), 0
    for number in range(8):
        rows = int(generator.integers(3, 12))
        age_s = float(generator.uniform(0.0, (rows - 0.5) * PERIOD_S))
        actions = np.column_stack([generator.uniform(-0.02, 0.02, (rows, 6)), np.ones(rows)])
        due_s = now_s - age_s
        assert one.execute(actions, 'bridge', now_s, FOREVER_S, due_s=due_s)
        last = number == 7
        lasts_s = rows * PERIOD_S + RAMPS_S if last else generator.uniform(0, 0.9 * PERIOD_S)
        lasts_s = np.ceil(lasts_s * FINE_HZ) / FINE_HZ
        starts_s = np.maximum(due_s + PERIOD_S * np.arange(rows), now_s)
        ends_s = np.minimum(due_s + PERIOD_S * np.arange(1, rows + 1), now_s + lasts_s)
        expected += (np.clip(ends_s - starts_s, 0.0, None) / PERIOD_S) @ actions[:, :6]
        skipped += int((due_s + PERIOD_S * np.arange(1, rows + 1) <= now_s).sum())
        moved += sampled(one, lasts_s - 1 / FINE_HZ, FINE_HZ, from_s=now_s).sum(axis=0) / FINE_HZ
        now_s += lasts_s
    np.testing.assert_allclose(moved, expected, rtol=0, atol=5e-4)
    assert one.counters.rows_skipped == skipped > 0
    assert one.counters.motions == 8


def test_a_chunk_like_the_one_before_changes_nothing() -> None:
    """The rows of two observations that agree about what is to come are one motion."""
    metres = np.array([0.01, 0.02, -0.01, 0.03, 0.0, 0.02])
    path = np.column_stack([metres, np.zeros((6, 5)), [1, 1, 0, 0, 1, 1]])
    one, other = motion(), motion()
    one.execute(path, 'bridge', 0.0, FOREVER_S, due_s=0.0)
    other.execute(path[:3], 'bridge', 0.0, FOREVER_S, due_s=0.0)
    for now_s in np.arange(0.0, 1.6, 0.02):
        if abs(now_s - 0.46) < 1e-9:  # of an observation at 0.2 s
            other.execute(path[1:], 'bridge', now_s, FOREVER_S, due_s=PERIOD_S)
        np.testing.assert_allclose(one.twist(now_s), other.twist(now_s), atol=1e-12)
        one.begin_rows(now_s)
        other.begin_rows(now_s)
        assert one.gripper == other.gripper


def test_the_gripper_of_a_row_that_is_past_is_not_told() -> None:
    one = motion()
    rows = np.column_stack([np.zeros((4, 6)), [0.0, 1.0, 1.0, 0.0]])
    one.execute(rows, 'bridge', 10.0, FOREVER_S, due_s=10.0 - 1.5 * PERIOD_S)
    assert one.begin_rows(10.0) and one.gripper == 1.0  # half a period is a ramp, too
    assert one.counters.rows_skipped == 1
    assert not one.begin_rows(10.0 + 0.9 * PERIOD_S)
    assert one.begin_rows(10.0 + 2.1 * PERIOD_S) and one.gripper == 0.0
    assert not one.begin_rows(20.0)


@pytest.mark.parametrize('rows', [1, 4])
def test_a_chunk_whose_rows_are_all_past_stops_the_robot(rows: int) -> None:
    one = motion()
    actions = np.tile([0.02, 0, 0, 0, 0, 0, 1.0], (rows, 1))
    one.execute(actions, 'bridge', 0.0, FOREVER_S)
    late_s = rows * PERIOD_S + 0.001
    assert not one.execute(actions, 'bridge', 0.1, FOREVER_S, due_s=0.1 - late_s)
    assert one.cause is not None and one.cause.reason is Reason.MOTION_ROWS_PAST
    assert 'chunk_timing' in one.cause.message
    assert one.is_over(0.1) and not one.begin_rows(10.0)
    assert (one.counters.motions_refused, one.counters.rows_skipped) == (1, rows)


def test_a_row_is_past_when_its_validity_leaves_no_time() -> None:
    one = motion()
    actions = np.tile([0.02, 0, 0, 0, 0, 0, 1.0], (3, 1))
    valid_s = RAMPS_S + 0.05  # so a row lasts 0.05 s
    assert one.execute(actions, 'bridge', 0.1, valid_s, due_s=0.0)
    assert one.counters.rows_skipped == 1
    assert one.is_over(PERIOD_S) is False
    moved = sampled(one, 2.0, FINE_HZ, from_s=0.1).sum(axis=0)[0] / FINE_HZ
    assert moved == pytest.approx(2 * 0.02 * 0.05 / PERIOD_S, abs=1e-4)
