# SPDX-License-Identifier: Apache-2.0
"""What one robot's twists are when the process is slow, and when a clock is not what it seems.

Around a stand-in for the node: time is the test's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from numpy.typing import NDArray

from support.outputs import NS, Clock, StandIn, a_setup, admitted, pose_message
from vla_ros.motion import Pose
from vla_ros.reasons import Reason
from vla_ros.ros.output import close_outputs
from vla_ros.ros.twist_output import TwistOutput
from vla_ros.types import ActionSpace

PERIOD_S = 0.02


class Arm:
    def __init__(self, clock: Clock | None = None, **options: Any) -> None:
        """
        :param options: parameters.
        """
        self.position = np.zeros(3)
        self.clock = clock or Clock()
        self.node = StandIn()
        self.output = TwistOutput(a_setup(self.node, self.clock, motion='twist', **options))

    @property
    def twists(self) -> list[TwistStamped]:
        return self.node.publishers['twist'].sent

    @property
    def speeds(self) -> NDArray[np.float64]:
        return np.array([one.twist.linear.x for one in self.twists])

    @property
    def grippers(self) -> list[float]:
        return [one.data for one in self.node.publishers['gripper'].sent]

    def acts(self, metres: float = 0.01, valid_s: float = 1.0, after_s: float = 0.0) -> None:
        """
        :param after_s: between its publication and its motion.
        """
        self.acts_by([(metres, 1)], valid_s, after_s)

    def acts_by(
        self,
        rows: Sequence[tuple[float, float]],
        valid_s: float = 1.0,
        after_s: float = 0.0,
        period_s: float | None = None,
        space: ActionSpace = ActionSpace.UNKNOWN,
        age_s: float = 0.0,
        image_age_s: float = 0.0,
    ) -> None:
        """
        :param rows: metres along x, and the gripper, of each.
        :param period_s: of the policy; None: the contract's.
        :param space: of the policy.
        :param age_s: how long ago row 0 was due.
        :param image_age_s: of its image.
        """
        now = self.clock.now()
        self.clock.advance(after_s)
        self.output.publish(
            admitted(
                now,
                [[metres, 0, 0, 0, 0, 0, gripper] for metres, gripper in rows],
                valid_s,
                period_s=period_s,
                space=space,
                age_s=age_s,
                image_age_s=image_age_s,
            )
        )

    def runs(self, seconds: float) -> None:
        for _ in range(round(seconds / PERIOD_S)):
            self.clock.advance(PERIOD_S)
            self.node.timer()

    def poses(self, seconds: float, obeys: bool = True) -> None:
        """Run, and publish where it is; it follows the twists."""
        for _ in range(round(seconds / PERIOD_S)):
            sent = len(self.twists)
            self.runs(PERIOD_S)
            if obeys and len(self.twists) > sent:
                self.position[0] += PERIOD_S * self.twists[-1].twist.linear.x
            self.pose()

    def pose(self, frame: str = 'base', w: float = 1.0, age_s: float = 0.0) -> None:
        pose = Pose(self.position, np.array([0, 0, 0, w]))
        message = pose_message(pose, frame, self.clock.now_ns() - round(age_s * NS))
        self.node.hears['ee_pose'](message)

    @property
    def reason(self) -> Reason | None:
        cause = self.output.cause
        return cause.reason if cause else None


def test_an_action_is_a_displacement_then_zeros_then_silence() -> None:
    arm = Arm()
    arm.acts(metres=0.01)
    arm.runs(2.0)
    assert arm.speeds.sum() * PERIOD_S == pytest.approx(0.01)
    zeros = int((arm.speeds == 0).sum())
    assert (arm.speeds[-zeros:] == 0).all() and zeros == 10
    assert len(arm.speeds) < 40


@pytest.mark.parametrize('back_s', [0.05, 0.09, 5.0])
def test_a_clock_that_is_set_back_moves_the_robot_no_further(back_s: float) -> None:
    arm = Arm()
    arm.acts(metres=0.01)
    for _ in range(3):
        arm.runs(0.1)
        arm.clock.jump(-back_s)
    arm.runs(2.0)
    assert arm.speeds.sum() * PERIOD_S == pytest.approx(0.01)


def test_a_motion_by_simulated_time_follows_it() -> None:
    clock = Clock()
    clock.is_simulated = True
    arm = Arm(clock)
    arm.acts()
    arm.runs(0.1)
    moving = arm.speeds[-1]
    for _ in range(10):  # simulated time stands still, the timer does not
        clock.advance(PERIOD_S)
        clock.jump(-PERIOD_S)
        arm.node.timer()
    assert (arm.speeds[-10:] == moving).all()
    for _ in range(10):
        clock.advance(PERIOD_S)
        clock.jump(-PERIOD_S)
        arm.node.timer()
    assert arm.speeds[-1] == 0


@pytest.mark.parametrize('simulated', [False, True])
def test_the_other_clock_knows_nothing_of_the_motion(simulated: bool) -> None:
    clock = Clock()
    clock.is_simulated = simulated
    arm = Arm(clock)
    arm.acts()
    arm.runs(0.1)
    assert arm.speeds[-1] > 0
    clock.is_simulated = not simulated
    arm.node.timer()
    clock.advance(PERIOD_S)
    arm.node.timer()
    assert arm.speeds[-1] == 0


@pytest.mark.parametrize('after_s', [0.0, 0.015, 0.05])
@pytest.mark.parametrize('valid_s', [0.3, 0.25, 0.21])
def test_the_robot_stands_still_when_its_action_is_no_longer_valid(
    valid_s: float, after_s: float
) -> None:
    arm = Arm()
    began_ns = arm.clock.now_ns()
    arm.acts(metres=0.05, valid_s=valid_s, after_s=after_s)
    arm.runs(1.0)
    stamps_s = [
        (one.header.stamp.sec * NS + one.header.stamp.nanosec - began_ns) / NS for one in arm.twists
    ]
    moving_s = [stamp for stamp, speed in zip(stamps_s, arm.speeds, strict=True) if speed]
    assert moving_s and max(moving_s) < valid_s + 1e-9


def test_an_action_that_is_valid_for_less_than_its_ramps_is_no_motion() -> None:
    arm = Arm()
    arm.acts(valid_s=0.2)
    arm.runs(0.5)
    assert not len(arm.twists)
    assert arm.output.motion.counters.motions_refused == 1
    cause = arm.output.motion.cause
    assert cause is not None and cause.reason is Reason.MOTION_NO_TIME
    assert 'valid for another 0.200 s' in cause.message


def test_a_twist_that_was_right_before_a_suspension_is_not_sent_after_it() -> None:
    arm = Arm()
    arm.acts(metres=0.05)
    arm.runs(0.1)
    sent = len(arm.twists)
    arm.clock.advance(PERIOD_S)
    arm.clock.delay_s = 3.0  # between reading the clock and sending
    arm.node.timer()
    arm.clock.delay_s = 0.0
    assert len(arm.twists) == sent
    arm.runs(0.1)
    assert (arm.speeds[sent:] == 0).all()


def test_a_twist_that_is_due_is_sent_between_other_callbacks() -> None:
    """Each client that dies before its answer, and each view that is drawn, takes the executor."""
    arm = Arm()
    arm.acts(metres=0.05)
    arm.runs(0.06)
    before = len(arm.twists)
    for _ in range(5):
        arm.clock.advance(0.03)  # a callback
        arm.output.catch_up()
    assert len(arm.twists) == before + 5
    arm.output.catch_up()
    arm.node.timer()  # it was due all the time, and has been caught up
    assert len(arm.twists) == before + 5


def test_a_chunk_is_its_rows_then_zeros_then_silence() -> None:
    arm = Arm()
    arm.acts_by([(0.01, 1), (0.02, 1), (-0.01, 0), (0.0, 1)])
    arm.runs(0.14)
    heard = [len(arm.grippers)]
    for _ in range(4):
        arm.runs(0.2)
        heard.append(len(arm.grippers))
    assert heard == [1, 2, 3, 4, 4]  # each a ramp, 0.1 s, after its row's command
    assert arm.grippers == [1, 1, 0, 1]
    arm.runs(2.0)
    assert arm.speeds.sum() * PERIOD_S == pytest.approx(0.02)
    assert arm.speeds.min() < 0
    assert (arm.speeds[-10:] == 0).all()
    assert len(arm.grippers) == 4
    assert arm.output.motion.counters.motions == 1


def test_a_chunk_lasts_as_the_policy_says() -> None:
    arm = Arm()
    arm.acts_by([(0.01, 1)] * 8, period_s=0.1)
    arm.runs(0.8 + 0.2)
    assert arm.speeds.sum() * PERIOD_S == pytest.approx(0.08)
    assert len(arm.grippers) == 8


def test_a_new_chunk_replaces_the_rest_of_the_one_before() -> None:
    arm = Arm()
    arm.acts_by([(0.01, 1)] * 8)
    arm.runs(0.3)
    arm.acts_by([(0.01, 0)] * 2)
    arm.runs(2.0)
    assert arm.speeds.sum() * PERIOD_S == pytest.approx(0.015 + 0.02)
    assert arm.speeds.max() == pytest.approx(0.05)
    assert arm.grippers == [1, 1, 0, 0]


def test_a_hold_ends_a_chunk() -> None:
    arm = Arm()
    arm.acts_by([(0.01, 1)] * 8)
    arm.runs(0.36)
    sent = len(arm.twists)
    arm.output.hold()
    arm.runs(2.0)
    assert len(arm.twists) > sent and (arm.speeds[sent:] == 0).all()
    assert len(arm.grippers) == 2


@pytest.mark.parametrize('valid_s', [0.3, 0.25])
def test_row_k_is_valid_k_periods_longer(valid_s: float) -> None:
    arm = Arm()
    began_ns = arm.clock.now_ns()
    arm.acts_by([(0.02, 1), (0.02, 1)], valid_s=valid_s)
    arm.runs(1.0)
    moving_s = [
        (one.header.stamp.sec * NS + one.header.stamp.nanosec - began_ns) / NS
        for one in arm.twists
        if one.twist.linear.x
    ]
    assert 0.2 < max(moving_s) < 0.2 + valid_s + 1e-9


def test_a_suspension_plays_no_row_late() -> None:
    arm = Arm()
    arm.acts_by([(0.01, 1), (0.01, 0), (0.01, 0)], valid_s=0.5)
    arm.runs(0.1)
    sent = len(arm.twists)
    arm.clock.advance(3.0)
    arm.runs(1.0)
    assert (arm.speeds[sent:] == 0).all()
    assert arm.grippers == [1]


def test_rows_that_are_past_their_time_are_skipped() -> None:
    arm = Arm()
    arm.acts_by([(0.01, 1), (0.01, 0), (0.02, 0)], age_s=0.3)  # row 1 has half of its time left
    arm.runs(1.0)
    assert arm.speeds.sum() * PERIOD_S == pytest.approx(0.025)
    assert arm.grippers == [0, 0]
    assert arm.output.motion.counters.rows_skipped == 1


def test_a_chunk_whose_rows_are_all_past_moves_nothing() -> None:
    arm = Arm()
    arm.acts_by([(0.01, 1)] * 3)
    arm.runs(0.1)
    arm.acts_by([(0.01, 0)] * 3, age_s=0.61)
    arm.runs(1.0)
    assert (arm.speeds[5:] == 0).all() and arm.grippers == [1]
    cause = arm.output.motion.cause
    assert cause is not None and cause.reason is Reason.MOTION_ROWS_PAST
    assert arm.output.motion.counters.motions_refused == 1


FROM_POSE = {'chunk_timing': 'from_pose', 'max_action_age_s': 5.0}
BOX = '-1, 0.03, -1, 1, -1, 1'


def test_from_the_pose_what_was_done_since_the_image_is_taken_off() -> None:
    arm = Arm(**FROM_POSE)
    arm.poses(0.1)
    arm.acts_by([(0.02, 1)] * 4, valid_s=5.0)
    arm.poses(0.46)
    assert 0.03 < arm.position[0] < 0.04
    arm.acts_by([(0.02, 1)] * 5, valid_s=5.0, image_age_s=0.46)  # of the place where it began
    arm.poses(2.0)
    assert arm.position[0] == pytest.approx(0.1, abs=2e-3)
    assert arm.output.motion.counters.rows_skipped == 2
    assert arm.grippers == [1] * 5


def test_from_the_pose_a_late_chunk_is_right_for_an_arm_that_waited() -> None:
    arm = Arm(**FROM_POSE)
    arm.poses(2.0)
    arm.acts_by([(0.02, 1), (0.02, 1), (0.0, 0)], valid_s=5.0, image_age_s=1.9)
    arm.poses(2.0)
    assert arm.position[0] == pytest.approx(0.04, abs=1e-3)
    assert arm.grippers == [1, 1, 0]


def test_a_hold_ends_a_chunk_that_is_played_from_the_pose() -> None:
    arm = Arm(**FROM_POSE)
    arm.poses(0.1)
    arm.acts_by([(0.02, 1)] * 8, valid_s=5.0)
    arm.poses(0.3)
    sent = len(arm.twists)
    arm.output.hold()
    arm.poses(2.0)
    assert len(arm.twists) > sent and (arm.speeds[sent:] == 0).all()


def test_a_motion_from_the_pose_needs_poses() -> None:
    arm = Arm(**FROM_POSE)
    arm.acts()
    assert arm.reason is Reason.MOTION_NO_POSE
    arm.poses(0.1)
    arm.acts_by([(0.02, 1)], image_age_s=0.5)
    assert arm.reason is Reason.MOTION_POSE_UNCOVERED
    arm.runs(0.3)
    arm.acts_by([(0.02, 1)], image_age_s=0.3)
    assert arm.reason is Reason.MOTION_POSE_STALE
    assert not arm.twists and arm.output.motion.counters.motions_refused == 3
    arm.poses(0.1)
    arm.acts_by([(0.02, 1)], image_age_s=0.04)
    assert arm.reason is None


@pytest.mark.parametrize('options', [FROM_POSE, {'workspace_m': BOX}])
@pytest.mark.parametrize(
    ('fault', 'expected'),
    [
        ('stale', Reason.MOTION_POSE_STALE),
        ('invalid', Reason.MOTION_POSE_INVALID),
        ('jump', Reason.MOTION_POSE_JUMP),
        ('frame', Reason.MOTION_POSE_FRAME),
    ],
)
def test_a_motion_ends_when_its_pose_is_lost(
    options: dict[str, Any], fault: str, expected: Reason
) -> None:
    arm = Arm(**options)
    arm.poses(0.1)
    arm.acts_by([(0.01, 1)] * 8, valid_s=5.0)
    arm.poses(0.3)
    sent = len(arm.twists)
    assert arm.speeds[-1] > 0
    if fault == 'stale':
        arm.runs(0.21)
        sent = len(arm.twists)
        arm.runs(PERIOD_S)
    elif fault == 'invalid':
        arm.pose(w=0.5)
    elif fault == 'jump':
        arm.clock.advance(0.01)
        arm.position[0] += 0.2
        arm.pose()
    else:
        arm.clock.advance(0.01)
        arm.pose(frame='tool')
    assert arm.reason is expected
    arm.runs(1.0)
    assert len(arm.speeds) > sent and (arm.speeds[sent:] == 0).all()
    assert arm.output.motion.counters.motions_interrupted == 1
    arm.poses(0.1, obeys=False)
    arm.pose()
    arm.acts_by([(0.01, 1)] * 8, valid_s=5.0)
    assert arm.reason is None


def test_poses_in_another_frame_than_the_twists() -> None:
    arm = Arm(**FROM_POSE)
    arm.pose(frame='camera')
    arm.acts()
    assert arm.reason is Reason.MOTION_POSE_FRAME
    cause = arm.output.cause
    assert cause is not None and "'camera'" in cause.message and "'base'" in cause.message


@pytest.mark.parametrize('timing', ['published', 'timed', 'from_pose'])
def test_a_motion_that_would_leave_the_workspace_is_shortened(timing: str) -> None:
    arm = Arm(chunk_timing=timing, workspace_m=BOX)
    arm.poses(0.1)
    arm.acts_by([(0.02, 1)] * 3, valid_s=5.0)
    arm.poses(2.0)
    assert arm.position[0] == pytest.approx(0.03, abs=1e-3)
    assert arm.output.motion.counters.clipped_workspace == 1
    assert arm.output.limited == 'workspace_m'
    arm.acts_by([(-0.02, 1)], valid_s=5.0)
    arm.poses(1.0)
    assert arm.position[0] == pytest.approx(0.01, abs=1e-3)
    assert arm.output.limited == ''


def test_a_workspace_without_a_pose_moves_nothing() -> None:
    arm = Arm(workspace_m=BOX)
    arm.acts()
    arm.runs(0.5)
    assert not arm.twists and arm.reason is Reason.MOTION_NO_POSE


def test_a_tool_beyond_its_workspace_is_not_moved_further() -> None:
    """Something has pushed it; the motion that was right before would go on outward."""
    arm = Arm(workspace_m=BOX)
    arm.poses(0.1)
    arm.acts_by([(0.005, 1)] * 4, valid_s=5.0)
    arm.poses(0.3)
    assert arm.speeds[-1] > 0
    arm.position[0] = 0.031
    arm.poses(0.04, obeys=False)
    assert arm.speeds[-1] == 0


def test_no_pose_is_heard_where_none_is_needed() -> None:
    for timing in ('published', 'timed'):
        assert not Arm(chunk_timing=timing).node.hears
    arm = Arm(**FROM_POSE)
    assert list(arm.node.hears) == ['ee_pose']
    arm.output.close(0.0)
    assert not arm.node.hears


def test_joint_actions_move_nothing() -> None:
    arm = Arm()
    arm.acts_by([(0.01, 1)] * 4, space=ActionSpace.JOINT_DELTA)
    arm.runs(1.0)
    assert not arm.twists and not arm.grippers
    cause = arm.output.motion.cause
    assert cause is not None and cause.reason is Reason.MOTION_NOT_A_DISPLACEMENT
    assert arm.output.motion.counters.motions_refused == 1


def test_many_robots_are_stopped_in_the_time_of_one() -> None:
    clock = Clock()
    arms = [Arm(clock) for _ in range(8)]
    for arm in arms:
        arm.acts()
    for _ in range(5):
        clock.advance(PERIOD_S)
        for arm in arms:
            arm.node.timer()
    assert all(arm.speeds[-1] > 0 for arm in arms)
    close_outputs([arm.output for arm in arms], clock)
    assert 0.1 < clock.slept_s < 0.2 + PERIOD_S
    assert all((arm.speeds[-9:] == 0).all() for arm in arms)
    # A listener that is suspended acknowledges nothing: they wait for it together, too.
    assert max(arm.node.publishers['twist'].waited_s for arm in arms) <= 0.2


# -- parameters that are set while the robot moves: the next command obeys ---------------------


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
