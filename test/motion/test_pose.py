# SPDX-License-Identifier: Apache-2.0
"""Poses, what is heard of them, and how far an arm has come in a chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_ros.motion.gripper import Change, GripperSwitch
from vla_ros.motion.pose import Pose, PoseHistory
from vla_ros.motion.route import Box, inward, path_of, rows_done
from vla_ros.reasons import Cause, Reason

NS = 10**9
NOW_NS = 1000 * NS
LEVEL = (0.0, 0.0, 0.0, 1.0)


def a_pose(generator: np.random.Generator) -> Pose:
    quaternion = generator.normal(size=4)
    return Pose(generator.normal(size=3), quaternion / np.linalg.norm(quaternion))


def matrix(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def turn(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation matrix of a rotation vector, by its series."""
    x, y, z = vector
    skew, total, term = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.eye(3), np.eye(3)
    for order in range(1, 40):
        term = term @ skew / order
        total = total + term
    return total


@pytest.mark.parametrize('seed', range(20))
def test_displacements_are_those_of_the_contract(seed: int) -> None:
    """docs/contracts.md: base means p + d and D R, end_effector p + R d and R D."""
    generator = np.random.default_rng(seed)
    pose, step = a_pose(generator), generator.uniform(-1.5, 1.5, 6)
    rotation, delta = matrix(pose.quaternion), turn(step[3:])
    base, own = pose.moved(step, 'base'), pose.moved(step, 'end_effector')
    np.testing.assert_allclose(base.position, pose.position + step[:3])
    np.testing.assert_allclose(matrix(base.quaternion), delta @ rotation, atol=1e-12)
    np.testing.assert_allclose(own.position, pose.position + rotation @ step[:3])
    np.testing.assert_allclose(matrix(own.quaternion), rotation @ delta, atol=1e-12)
    for frame, goal in (('base', base), ('end_effector', own)):
        np.testing.assert_allclose(pose.step_to(goal, frame), step, atol=1e-9)
        np.testing.assert_allclose(pose.step_to(pose, frame), 0, atol=1e-12)


# -- what is heard ---------------------------------------------------------------------------------


def heard(
    *times_s: float, history: PoseHistory | None = None, speed_m_s: float = 0.1
) -> PoseHistory:
    history = history or PoseHistory(span_s=2.0, max_age_s=0.2)
    for at_s in times_s:
        stamp_ns = NOW_NS + round(at_s * NS)
        assert hear(history, (speed_m_s * at_s, 0, 0), stamp_ns=stamp_ns) is None
    return history


def hear(
    history: PoseHistory,
    position: Sequence[float] = (0, 0, 0),
    quaternion: Sequence[float] = LEVEL,
    frame: str = 'base',
    stamp_ns: int = NOW_NS,
) -> Cause | None:
    return history.hear(position, quaternion, frame, stamp_ns, NOW_NS)


def reason(answer: object) -> Reason | None:
    return answer.reason if isinstance(answer, Cause) else None


def test_the_pose_in_an_image_is_between_the_poses_around_it() -> None:
    history = PoseHistory(span_s=2.0, max_age_s=0.2)
    half = math.pi / 4
    hear(history, (0, 0, 0), stamp_ns=NOW_NS - NS // 10)
    hear(history, (0.02, 0, 0.04), (0, 0, math.sin(half / 2), math.cos(half / 2)))
    pose = history.at(NOW_NS - NS // 40)
    assert isinstance(pose, Pose)
    np.testing.assert_allclose(pose.position, [0.015, 0, 0.03])
    np.testing.assert_allclose(
        pose.step_to(Pose(np.zeros(3), np.array(LEVEL)), 'base')[5], -0.75 * half
    )


@pytest.mark.parametrize(
    ('at_s', 'expected'),
    [
        (-0.3, None),
        (-0.25, None),
        (0.0, None),
        (-0.301, Reason.MOTION_POSE_UNCOVERED),  # before the first
        (0.001, Reason.MOTION_POSE_UNCOVERED),  # after the newest
        (-0.1, Reason.MOTION_POSE_UNCOVERED),  # in a gap
    ],
)
def test_an_image_that_no_poses_are_around(at_s: float, expected: Reason | None) -> None:
    history = heard(-0.3, -0.21, 0.0)
    assert reason(history.at(NOW_NS + round(at_s * NS))) == expected


def test_no_pose_and_a_stale_one() -> None:
    history = PoseHistory(span_s=2.0, max_age_s=0.2)
    assert reason(history.newest(NOW_NS)) is Reason.MOTION_NO_POSE
    heard(-0.2, history=history)
    assert reason(history.newest(NOW_NS)) is None
    assert reason(history.newest(NOW_NS + 1)) is Reason.MOTION_POSE_STALE


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'position': (0, math.nan, 0)}, 'not finite'),
        ({'quaternion': (0, 0, 0, 0)}, 'norm 0'),
        ({'quaternion': (0, 0, 0, 1.02)}, 'norm 1.02'),
        ({'quaternion': (0, math.nan, 0, 1)}, 'norm nan'),
        ({'stamp_ns': 0}, 'no stamp'),
        ({'stamp_ns': NOW_NS + NS}, '1.00 s in the future'),
    ],
)
def test_a_pose_that_is_none(changes: dict[str, object], words: str) -> None:
    history = heard(-0.02)
    cause = hear(history, **changes)  # type: ignore[arg-type]
    assert cause is not None and cause.reason is Reason.MOTION_POSE_INVALID
    assert words in cause.message
    assert history.newest(NOW_NS) == cause  # until a good one comes
    heard(-0.01, history=history)
    assert reason(history.newest(NOW_NS)) is None
    assert (history.counters.poses_received, history.counters.poses_rejected) == (3, 1)


def test_poses_out_of_order_are_dropped() -> None:
    history = heard(-0.04, -0.02)
    assert hear(history, (5, 5, 5), stamp_ns=NOW_NS - NS // 50) is None
    assert hear(history, (5, 5, 5), stamp_ns=NOW_NS - NS // 30) is None
    assert history.last is not None and history.last.position[0] < 1
    assert history.counters.poses_rejected == 2


@pytest.mark.parametrize('what', ['jump', 'turn', 'frame'])
def test_what_was_heard_before_a_jump_is_forgotten(what: str) -> None:
    history = heard(-0.1, -0.02)
    cause = {
        'jump': lambda: hear(history, (0, 0.2, 0)),
        'turn': lambda: hear(history, quaternion=(0, 1, 0, 0)),
        'frame': lambda: hear(history, frame='tool'),
    }[what]()
    expected = Reason.MOTION_POSE_FRAME if what == 'frame' else Reason.MOTION_POSE_JUMP
    assert reason(cause) is expected
    assert reason(history.at(NOW_NS - NS // 20)) is expected  # an image from before
    assert reason(history.newest(NOW_NS)) is None  # where it is now is known
    assert reason(history.at(NOW_NS)) is None


def test_the_history_is_bounded_and_keeps_the_newest() -> None:
    history = PoseHistory(span_s=1.0, max_age_s=0.2)
    for number in range(6_000):
        hear(history, stamp_ns=NOW_NS - 6 * NS + number * NS // 1000)
    assert len(history.since(0)) <= 3000
    newest = history.newest(NOW_NS)
    assert not isinstance(newest, Cause) and newest.stamp_ns == NOW_NS - NS // 1000
    assert reason(history.at(NOW_NS - NS)) is None
    assert reason(history.at(NOW_NS - 4 * NS)) is Reason.MOTION_POSE_UNCOVERED


def test_a_clock_that_jumps_forgets_the_poses() -> None:
    history = heard(-0.1, 0.0)
    history.forget()
    assert reason(history.newest(NOW_NS)) is Reason.MOTION_NO_POSE
    assert hear(history, (9, 9, 9), stamp_ns=NOW_NS - 3600 * NS) is None


# -- the workspace ---------------------------------------------------------------------------------


def test_a_goal_is_bounded_to_the_box_and_a_tool_outside_may_not_go_further() -> None:
    box = Box.of([0, 1, 0, 1, 0, 1])
    start = np.array([0.5, -0.2, 1.3])
    np.testing.assert_allclose(box.bounded(np.array([2, -0.5, 1.4]), start), [1, -0.2, 1.3])
    np.testing.assert_allclose(box.bounded(np.array([0.4, 0.5, 0.9]), start), [0.4, 0.5, 0.9])


def test_velocities_outside_the_box_lead_inward_in_every_frame() -> None:
    box, generator = Box.of([0, 1, 0, 1, 0, 1]), np.random.default_rng(0)
    for _ in range(200):
        at = Pose(generator.uniform(-0.5, 1.5, 3), a_pose(generator).quaternion)
        twist = generator.normal(size=6)
        for frame in ('base', 'end_effector'):
            after = at.moved(1e-6 * inward(twist, at, frame, box), frame).position
            outside = np.maximum(np.maximum(-at.position, at.position - 1), 0)
            assert (
                np.maximum(-after, after - 1)[outside > 0] <= outside[outside > 0] + 1e-12
            ).all()
            inside = Pose(np.full(3, 0.5), at.quaternion)
            np.testing.assert_allclose(inward(twist, inside, frame, box), twist)


# -- how far an arm has come -----------------------------------------------------------------------

DOWN, UP, STAY = (0, 0, -0.02), (0, 0, 0.02), (0, 0, 0)
PICK = path_of(
    Pose(np.array([0, 0, 0.06]), np.array(LEVEL)),
    [np.array([*move, 0, 0, 0]) for move in (DOWN, DOWN, DOWN, STAY, UP, UP, UP)],
    'base',
)
PICK_STATES = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]  # row 3 closes
PERIOD_S = 0.2


def done(
    heights: Sequence[float],
    changes: Sequence[Change] = (),
    states: Sequence[float | None] = PICK_STATES,
    every_s: float = 0.05,
) -> int | None:
    """Of PICK, by an arm at these heights after the image, which is of 0 s."""
    track = [
        (every_s * number, Pose(np.array([0, 0, height]), np.array(LEVEL)))
        for number, height in enumerate(heights, start=1)
    ]
    progress = rows_done(PICK, states, track, changes, (0.0, PERIOD_S))
    return None if progress is None else progress.done


def test_an_arm_that_waited_has_done_nothing() -> None:
    generator = np.random.default_rng(1)
    assert done(list(0.06 + generator.uniform(-0.002, 0.002, 40))) == 0


def test_rows_that_the_arm_has_made_are_done() -> None:
    assert done([0.055, 0.045, 0.04, 0.035]) == 1
    assert done([0.05, 0.04, 0.029]) == 2
    assert done([0.05, 0.03, 0.01, 0.003, 0.0, 0.0]) == 3  # the gripper has not closed
    assert done([0.05, 0.03, 0.01, 0.004, 0.004]) == 2  # not quite there


def test_an_arm_that_lifts_is_not_taken_for_one_on_its_way_down() -> None:
    """At each height of the way up the gripper has closed: the hand must not open again."""
    closed = [Change(0.25, 0.0)]
    down = [0.05, 0.03, 0.01, 0.0, 0.0]
    waits = [0.0] * 4
    assert done([*down, *waits], closed) == 4
    for lifted, rows in ((0.009, 4), (0.011, 5), (0.021, 5), (0.039, 6), (0.06, 6)):
        way = [height for height in (0.005, 0.015, 0.025, 0.035, 0.045) if height < lifted]
        assert done([*down, *waits, *way, lifted], closed) == rows, lifted


def test_a_pause_takes_its_time() -> None:
    closed = [Change(0.25, 0.0)]
    assert done([0.05, 0.03, 0.01, 0.0, 0.0, 0.0, 0.0], closed) == 3
    assert done([0.05, 0.03, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], closed) == 4


def test_a_gripper_that_closed_early_skips_the_rest_of_the_way_to_it() -> None:
    assert done([0.05, 0.04, 0.035, 0.035], [Change(0.15, 0.0)]) == 3


def test_a_gripper_that_moved_otherwise_is_not_matched() -> None:
    assert done([0.05, 0.03, 0.03], [Change(0.1, 0.0)], [1.0] * 8) is None
    assert done([0.05, 0.03, 0.03], [Change(0.1, 0.0), Change(0.12, 1.0)]) is None
    assert done([0.05, 0.03, 0.03], [Change(0.1, 1.0)], [None, *PICK_STATES[1:4], *[0.0] * 4]) == 1


def test_a_state_between_two_rows_of_one_tick_was_never_told() -> None:
    """By a coarse clock several rows are due at once; the gripper goes where the last one is."""
    switch = GripperSwitch()
    switch.follow([1.0, 0.0, 1.0, 0.0], [0.0, 0.05, 0.1, 0.2], [1.0] * 4, 0.0)
    assert switch.begin_rows(0.0)
    assert switch.begin_rows(0.1) and switch.opening == 1.0
    assert switch.changes_since(-1.0) == [Change(0.0, 1.0)]
    assert switch.begin_rows(0.2)
    assert switch.changes_since(0.0) == [Change(0.2, 0.0)]


@pytest.mark.parametrize('seed', range(30))
def test_no_row_is_done_twice_and_none_is_skipped_by_an_arm_that_plays_them(seed: int) -> None:
    """Of any path and at any moment, the rest of the rows leads to the same end."""
    generator = np.random.default_rng(seed)
    steps = [np.array([*generator.uniform(-0.03, 0.03, 3), 0, 0, 0]) for _ in range(8)]
    path = path_of(a_pose(generator), steps, 'base')
    states = [1.0]
    for _ in range(8):
        states.append(1.0 - states[-1] if generator.random() < 0.3 else states[-1])
    stop = int(generator.integers(1, 160))
    track, changes = [], []
    for twentieth in range(stop + 1):
        row, part = divmod(twentieth, 20)
        at_s = 0.001 + twentieth / 20 * PERIOD_S
        if not part and states[row + 1] != states[row]:
            changes.append(Change(at_s - 1e-6, states[row + 1]))
        track.append((at_s, path[row].moved(part / 20 * steps[row], 'base')))
    progress = rows_done(path, states, track, changes, (0.0, PERIOD_S))
    assert progress is not None
    assert progress.done in (row, min(row + 1, 7))
    if progress.done > row:
        assert part >= 8
    assert 0.1 <= progress.left <= 1.0
