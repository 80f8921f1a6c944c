# SPDX-License-Identifier: Apache-2.0
"""Parameters of a motion that are set while the robot moves: the next command obeys."""

from __future__ import annotations

from typing import Any

import pytest
from ros.test_motion_output import BOX, FROM_POSE, Arm

from support.outputs import a_setup
from vla_ros.reasons import Reason


def sets(arm: Arm, **options: Any) -> None:
    """Set parameters; all others have their defaults."""
    arm.output.adjust(a_setup(arm.node, arm.clock, motion='twist', **options))


def moves(arm: Arm) -> int:
    """The number of twists of an arm that moves."""
    assert arm.speeds[-1] > 0
    return len(arm.twists)


@pytest.mark.parametrize('options', [FROM_POSE, {'workspace_m': BOX}])
def test_a_pose_is_needed_from_now_on(options: dict[str, Any]) -> None:
    arm = Arm()
    arm.acts_by([(0.02, 1)] * 8, valid_s=5.0)
    arm.runs(0.3)
    sent = moves(arm)
    sets(arm, **options)
    assert len(arm.twists) == sent + 1  # immediately
    arm.runs(2.0)
    assert (arm.speeds[sent:] == 0).all()
    arm.acts()
    assert arm.reason is Reason.MOTION_NO_POSE
    arm.poses(0.1)
    arm.acts_by([(0.02, 1)] * 3, valid_s=5.0)
    arm.poses(0.3)
    sent = moves(arm)
    assert arm.output.counters[1].poses_received > 0
    sets(arm)
    assert arm.speeds[-1] == 0 and not arm.node.hears
    arm.acts()
    arm.runs(0.1)
    moves(arm)


def test_another_workspace() -> None:
    arm = Arm(workspace_m=BOX)
    arm.poses(0.1)
    arm.acts_by([(0.005, 1)] * 4, valid_s=5.0)
    arm.poses(0.3)
    moves(arm)
    sets(arm, workspace_m='-1, 0.02, -1, 1, -1, 1')
    assert arm.speeds[-1] == 0
    arm.acts_by([(0.02, 1)] * 3, valid_s=5.0)
    arm.poses(2.0)
    assert arm.position[0] == pytest.approx(0.02, abs=1e-3)


def test_a_pose_may_be_less_old_from_now_on() -> None:
    arm = Arm(workspace_m=BOX)
    arm.poses(0.1)
    arm.acts_by([(0.005, 1)] * 4, valid_s=5.0)
    arm.poses(0.3)
    arm.runs(0.1)  # the newest pose is 0.1 s old
    sent = moves(arm)
    sets(arm, workspace_m=BOX, max_pose_age_s=0.05)
    arm.runs(0.02)
    assert arm.speeds[sent] == 0 and arm.reason is Reason.MOTION_POSE_STALE
    arm.pose()
    sets(arm, workspace_m=BOX, max_pose_age_s=10.0)
    arm.runs(1.0)
    arm.acts_by([(0.005, 1)] * 4, valid_s=5.0)
    arm.runs(0.1)
    moves(arm)


def test_another_rate_of_twists() -> None:
    arm = Arm()
    arm.acts_by([(0.02, 1)] * 8, valid_s=5.0)
    arm.runs(0.3)
    moves(arm)
    sets(arm, control_rate_hz=100.0)  # ramps may be shorter: the motion goes on
    assert arm.node.period_s == 0.01
    arm.runs(0.1)
    moves(arm)
    arm.output.hold()
    for _ in range(60):
        arm.clock.advance(arm.node.period_s)
        arm.node.timer()
    assert (arm.speeds[-20:] == 0).all()
    heard = len(arm.twists)
    arm.runs(0.1)
    assert len(arm.twists) == heard  # 20 twists in 0.2 s end it
    arm.acts_by([(0.02, 1)] * 8, valid_s=5.0)
    arm.runs(0.3)
    sets(arm, control_rate_hz=20.0)
    assert arm.node.period_s == 0.05
    arm.runs(0.1)
    moves(arm)


def test_another_rate_while_a_motion_ends() -> None:
    arm = Arm()
    arm.acts()
    arm.runs(0.1)
    arm.output.hold()
    arm.runs(0.1)
    sent = len(arm.twists)
    sets(arm, control_rate_hz=100.0)
    for _ in range(60):
        arm.clock.advance(arm.node.period_s)
        arm.node.timer()
    assert 8 <= len(arm.twists) - sent <= 12  # for the 0.1 s that were left
