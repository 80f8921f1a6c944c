# SPDX-License-Identifier: Apache-2.0
"""Targets for pose tracking: what an arm that follows them does, and when they end."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray

from support.outputs import CONTRACT, DATA_SET, Clock, StandIn, a_setup, admitted, pose_message
from support.pose_tracking import PoseTracking
from vla_ros.motion import MotionLimits, Pose
from vla_ros.parameters.check import motion_limits
from vla_ros.reasons import Reason
from vla_ros.ros.output import close_outputs
from vla_ros.ros.pose_output import PoseOutput

PERIOD_S = 0.02
ENDING = 10  # targets in 0.2 s


class Arm:
    """An arm with its node, ticked by the test."""

    def __init__(
        self, lag_s: float = 0.03, contract: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """
        :param contract: other fields of it.
        :param options: parameters.
        """
        self.clock, self.node = Clock(), StandIn()
        self.options = {'motion': 'pose', 'max_action_age_s': 5.0, **options}
        setup = a_setup(self.node, self.clock, **self.options)
        changed: Any = replace(CONTRACT, **(contract or {}))
        self.output = PoseOutput(replace(setup, contracts={DATA_SET: changed}))
        self.servo = PoseTracking(motion_limits(setup.parameters), lag_s=lag_s)
        self.tells = True  # its pose
        self.delay_s = 0.0  # of its poses
        self.waiting: list[tuple[int, Pose]] = []
        self.taken = 0

    @property
    def sent(self) -> list[PoseStamped]:
        return self.node.publishers['target_pose'].sent

    @property
    def reason(self) -> Reason | None:
        cause = self.output.cause
        return cause.reason if cause else None

    def take(self) -> None:
        """Let the controller hear what was sent."""
        now = self.clock.now()
        for message in self.sent[self.taken :]:
            self.servo.hear(message, now.node_ns, now.monotonic_s)
        self.taken = len(self.sent)

    def tick(self, seconds: float = PERIOD_S) -> None:
        self.clock.advance(seconds)
        self.take()
        self.servo.moves(seconds, self.clock.now_ns())
        if self.tells:
            self.tell()
        self.node.timer()
        self.take()

    def tell(self, frame: str = 'base', offset_m: float = 0.0) -> None:
        offset = np.array([offset_m, 0.0, 0.0])
        pose = Pose(self.servo.pose.position + offset, self.servo.pose.quaternion)
        now_ns = self.clock.now_ns()
        self.waiting.append((now_ns, pose))
        while self.waiting and self.waiting[0][0] <= now_ns - self.delay_s * 1e9:
            stamp_ns, pose = self.waiting.pop(0)
            self.node.hears['ee_pose'](pose_message(pose, frame, stamp_ns))

    def runs(self, seconds: float) -> None:
        for _ in range(round(seconds / PERIOD_S)):
            self.tick()

    def acts(self, rows: Any, **options: Any) -> None:
        """
        :param rows: [K, 7], or metres along x of each.
        """
        actions = [[one, 0, 0, 0, 0, 0, 1] if np.isscalar(one) else one for one in rows]
        self.output.publish(admitted(self.clock.now(), actions, **{'valid_s': 5.0, **options}))
        self.take()

    @property
    def targets(self) -> NDArray[np.float64]:
        """[N, 3]"""
        return np.array([pose.position for _, pose in self.servo.heard])


def ready(**options: Any) -> Arm:
    arm = Arm(**options)
    arm.runs(0.1)
    return arm


def test_a_target_moves_by_the_rows_then_it_is_repeated_then_silence() -> None:
    arm = ready()
    begin = arm.servo.pose
    arm.acts([[0.02, 0.0, -0.01, 0, 0, 0.1, 1]] * 4)
    arm.runs(2.0)
    np.testing.assert_allclose(
        begin.step_to(arm.servo.heard[-1][1], 'base'), [0.08, 0, -0.04, 0, 0, 0.4], atol=1e-9
    )
    np.testing.assert_allclose(
        begin.step_to(arm.servo.pose, 'base'), [0.08, 0, -0.04, 0, 0, 0.4], atol=1e-3
    )
    rest = (arm.targets == arm.targets[-1]).all(axis=1)
    assert rest[-ENDING:].all() and rest.sum() == ENDING
    silent = len(arm.sent)
    arm.runs(1.0)
    assert len(arm.sent) == silent
    np.testing.assert_allclose(arm.targets[0], begin.position, atol=1e-3)
    assert not arm.servo.complaints


@pytest.mark.parametrize('seed', range(5))
def test_the_target_is_the_integral_of_the_rows_within_the_limits(seed: int) -> None:
    """Whatever the ticks: late ones and early ones."""
    random = np.random.default_rng(seed)
    arm = ready(max_linear_jerk_m_s3=20.0, max_angular_jerk_rad_s3=200.0, max_lead_m=1.0)
    begin, rows = arm.servo.pose, np.zeros((8, 7))
    rows[:, :3] = random.uniform(-0.02, 0.02, (8, 3))
    rows[:, 5] = random.uniform(-0.15, 0.15, 8)  # about one axis: turns about several do not add up
    arm.acts(rows.tolist())
    for _ in range(150):
        arm.tick(float(random.uniform(0.01, 0.05)))
    made = begin.step_to(arm.servo.heard[-1][1], 'base')
    np.testing.assert_allclose(made, rows[:, :6].sum(axis=0), atol=1e-9)
    assert not arm.servo.complaints


def test_speed_and_jerk_of_the_target_are_bounded() -> None:
    limits = MotionLimits(0.1, 0.5, 20.0, 100.0)
    arm = ready(
        max_linear_speed_m_s=0.1,
        max_angular_speed_rad_s=0.5,
        max_linear_jerk_m_s3=20.0,
        max_angular_jerk_rad_s3=100.0,
        control_rate_hz=50.0,
    )
    random = np.random.default_rng(3)
    for _ in range(6):
        arm.acts([[*random.normal(scale=0.05, size=6), 1] for _ in range(4)])
        arm.runs(0.5)
    poses = [pose for _, pose in arm.servo.heard]
    steps = np.array([one.step_to(other, 'base') for one, other in itertools.pairwise(poses)])
    for part, speed, jerk in (
        (steps[:, :3], limits.linear_m_s, limits.linear_m_s3),
        (steps[:, 3:], limits.angular_rad_s, limits.angular_rad_s3),
    ):
        velocities = part[1:] / PERIOD_S  # the first tick may come any time after the publication
        assert np.linalg.norm(velocities, axis=1).max() <= speed * (1 + 1e-9)
        jerks = np.diff(velocities, n=2, axis=0) / PERIOD_S**2
        assert np.linalg.norm(jerks, axis=1).max() <= jerk * 1.01
    assert not arm.servo.complaints


def test_a_new_chunk_goes_on_from_the_target_and_not_from_the_tool() -> None:
    arm = ready(lag_s=0.2)
    for _ in range(10):
        arm.acts([0.02] * 4)
        arm.runs(0.2)
    assert (np.diff(arm.targets[:, 0]) >= -1e-12).all()  # an arm that lags pulls nothing back
    arm.runs(2.0)
    assert arm.servo.pose.position[0] - 0.3 == pytest.approx(0.02 * 13, abs=0.005)
    assert not arm.servo.complaints


def test_a_hold_keeps_the_target_where_it_is_then_silence() -> None:
    arm = ready()
    arm.acts([0.02] * 8)
    arm.runs(0.5)
    before = arm.targets[-1]
    arm.output.hold()
    arm.take()
    heard = len(arm.sent)
    arm.runs(1.0)
    assert len(arm.sent) - heard == ENDING - 1
    assert (arm.targets[-ENDING:] == before).all()
    assert arm.servo.pose.position == pytest.approx(before, abs=1e-3)
    assert not arm.servo.complaints


def test_after_a_silence_the_target_begins_where_the_tool_is_by_then() -> None:
    arm = ready()
    arm.acts([0.02])
    arm.runs(1.5)
    arm.servo.pose = arm.servo.pose.moved(np.array([0.0, 0.04, 0, 0, 0, 0]), 'base')  # by hand
    arm.runs(0.1)
    arm.acts([0.02])
    arm.runs(1.5)
    np.testing.assert_allclose(arm.targets[-1], [0.34, 0.04, 0.2], atol=2e-3)
    assert not arm.servo.complaints


@pytest.mark.parametrize('lag_s', [0.0, 0.1])
def test_from_the_pose_a_late_chunk_is_right_for_an_arm_that_waited_and_one_that_did_not(
    lag_s: float,
) -> None:
    arm = ready(lag_s=lag_s, chunk_timing='from_pose')
    arm.runs(2.0)
    arm.acts([0.02] * 4, image_age_s=1.9)  # it waited
    arm.runs(0.46)
    arm.acts([0.02] * 5, image_age_s=0.46)  # and went on: of the place where it began
    arm.runs(3.0)
    assert arm.servo.pose.position[0] == pytest.approx(0.4, abs=2e-3)
    assert not arm.servo.complaints


def test_where_a_target_leads_does_not_depend_on_the_age_of_the_pose() -> None:
    """The controller brings the tool to the target, whatever is not in the pose yet."""
    arm = Arm(lag_s=0.1, chunk_timing='from_pose')
    arm.delay_s = 0.14
    arm.runs(0.4)
    arm.acts([0.02] * 6, image_age_s=0.3)
    arm.runs(0.5)
    arm.acts([0.02] * 6, image_age_s=0.8)  # the same place, so the same goals
    arm.runs(3.0)
    assert arm.targets[-1][0] == pytest.approx(0.42, abs=1e-9)
    assert not arm.servo.complaints


def test_a_chunk_does_not_go_on_from_a_target_that_the_arm_has_left() -> None:
    arm = ready()
    arm.acts([0.02])
    arm.runs(0.42)
    heard = len(arm.sent)
    arm.servo.follows = False
    for _ in range(4):
        arm.servo.pose = arm.servo.pose.moved(np.array([0, 0.04, 0, 0, 0, 0]), 'base')
        arm.tick()
    assert len(arm.sent) == heard + 4  # still repeated
    arm.acts([0.02])
    assert arm.reason is Reason.MOTION_NOT_FOLLOWED
    assert not arm.servo.complaints


def test_a_target_that_turns_as_it_goes_stays_in_the_workspace() -> None:
    """Along the axes of the tool, the average of ways in the box may lead out of it."""
    arm = Arm(contract={'frame': 'end_effector'}, workspace_m='0, 0.33, -1, 1, -1, 1')
    arm.runs(0.1)
    for turn in (0.2, -0.2, 0.2):
        arm.acts([[0.03, 0.01, 0, 0, 0, turn, 1], [0.02, -0.01, 0, 0, 0, -2 * turn, 1]] * 3)
        arm.runs(1.0)
    assert 0.325 < arm.targets[:, 0].max() <= 0.33
    assert not arm.servo.complaints


def test_without_a_fresh_pose_there_is_no_target() -> None:
    arm = Arm()
    arm.acts([0.02])
    assert arm.reason is Reason.MOTION_NO_POSE
    arm.tell()
    arm.tells = False
    arm.runs(0.3)
    arm.acts([0.02])
    assert arm.reason is Reason.MOTION_POSE_STALE
    arm.tell(frame='camera')
    arm.tell(frame='camera')
    arm.acts([0.02])
    assert arm.reason is Reason.MOTION_POSE_FRAME
    arm.runs(0.5)
    assert not arm.sent


def test_a_pose_that_is_lost_during_a_motion_keeps_the_target_where_it_is() -> None:
    arm = ready()
    arm.acts([0.02] * 8)
    arm.runs(0.3)
    arm.tells = False
    arm.runs(0.22)
    assert arm.reason is Reason.MOTION_POSE_STALE
    held = arm.targets[-1]
    arm.runs(1.0)
    assert (arm.targets[-ENDING:] == held).all()
    assert arm.output.motion.counters.motions_interrupted == 1
    assert not arm.servo.complaints


@pytest.mark.parametrize('max_lead_m', [0.02, 0.1])
def test_a_target_that_an_arm_does_not_follow_stops(max_lead_m: float) -> None:
    arm = ready(max_lead_m=max_lead_m)
    arm.servo.follows = False
    arm.acts([0.02] * 20)
    arm.runs(4.0)
    assert arm.reason is Reason.MOTION_NOT_FOLLOWED
    lead_m = arm.targets[-1][0] - 0.3
    assert max_lead_m < lead_m < max_lead_m + 2 * 0.1 * PERIOD_S + 1e-9  # 0.1 m/s
    heard = len(arm.sent)
    arm.runs(1.0)
    assert len(arm.sent) == heard
    arm.acts([0.02] * 2)  # after the silence it begins at the tool
    assert arm.reason is None
    arm.servo.follows = True
    arm.runs(2.0)
    assert arm.servo.pose.position[0] == pytest.approx(0.34, abs=2e-3)
    assert not arm.servo.complaints


def test_a_target_stays_in_the_workspace() -> None:
    arm = ready(workspace_m='0.2, 0.33, -1, 1, -1, 1')
    arm.acts([0.02] * 4)
    arm.runs(2.0)
    assert arm.targets[:, 0].max() <= 0.33
    assert arm.servo.pose.position[0] == pytest.approx(0.33, abs=1e-3)
    assert arm.output.limited == 'workspace_m'


def test_a_suspension_makes_the_target_jump_no_further_than_a_controller_waits() -> None:
    arm = ready()
    arm.acts([0.02] * 8)
    arm.runs(0.5)
    arm.clock.advance(0.5)
    arm.tell()
    arm.runs(2.0)
    assert arm.targets[-1][0] == pytest.approx(0.46 - 0.1 * 0.42, abs=2e-3)
    assert not arm.servo.complaints


def test_the_last_targets_are_said_when_the_node_ends() -> None:
    arm = ready()
    arm.acts([0.02] * 8)
    arm.runs(0.3)
    heard = len(arm.sent)
    close_outputs([arm.output], arm.clock)  # type: ignore[arg-type]
    arm.take()
    assert len(arm.sent) - heard == ENDING
    assert (arm.targets[-ENDING:] == arm.targets[-1]).all()


class Faults:
    """Ten minutes of what can happen to an arm, one thing after the other."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.arm = Arm(lag_s=0.05, chunk_timing=('published', 'from_pose')[seed % 2])
        self.kinds = [getattr(self, name) for name in dir(self) if name.startswith('fault_')]
        self.done = {kind.__name__: 0 for kind in self.kinds}

    def run(self, seconds: float) -> None:
        arm, ends_s = self.arm, self.arm.clock.monotonic_s() + seconds
        arm.runs(0.1)
        while arm.clock.monotonic_s() < ends_s:
            if self.random.random() < 0.7:
                self.act()
            if self.random.random() < 0.2:
                kind = self.kinds[self.random.integers(len(self.kinds))]
                self.done[kind.__name__] += 1
                kind()
            for _ in range(self.random.integers(1, 30)):
                arm.tick(float(self.random.choice([0.02, 0.02, 0.02, 0.015, 0.05])))

    def act(self, scale: float = 0.015, **options: Any) -> None:
        rows = int(self.random.integers(1, 9))
        # Homeward on the whole, so that the arm stays where it is.
        home = np.clip((np.array([0.3, 0.0, 0.2]) - self.arm.servo.pose.position) / 8, -0.01, 0.01)
        moves = home + self.random.normal(scale=scale, size=(rows, 3))
        turns = self.random.normal(scale=3 * scale, size=(rows, 3))
        actions = np.hstack([moves, turns, self.random.integers(0, 2, (rows, 1))])
        options.setdefault('image_age_s', float(self.random.uniform(0.0, 1.0)))
        self.arm.acts(actions.tolist(), **options)

    def fault_hold(self) -> None:
        self.arm.output.hold()
        self.arm.take()

    def fault_switched(self) -> None:
        self.arm.output.forget()
        self.arm.take()

    def fault_not_finite(self) -> None:
        self.arm.acts([[np.nan, 0, 0, 0, 0, 0, 1]])

    def fault_far_too_fast(self) -> None:
        self.act(scale=1.0)

    def fault_hardly_valid(self) -> None:
        self.act(valid_s=float(self.random.uniform(0.0, 0.4)))

    def fault_suspension(self) -> None:
        self.arm.clock.advance(float(self.random.choice([0.09, 0.3, 3.0])))
        self.arm.take()
        self.arm.servo.moves(0.1, self.arm.clock.now_ns())

    def fault_computing_is_slow(self) -> None:
        self.arm.clock.delay_s = 0.15
        self.arm.node.timer()
        self.arm.clock.delay_s = 0.0
        self.arm.take()

    def fault_clock_jumps(self) -> None:
        self.arm.clock.jump(float(self.random.choice([-5.0, -0.05, 0.3, 100.0])))
        self.arm.output.forget_stamps()
        self.arm.output.hold()
        self.arm.take()

    def fault_no_poses(self) -> None:
        self.arm.tells = False
        self.arm.runs(0.4)
        self.arm.tells = True

    def fault_poses_jump(self) -> None:
        self.arm.tell(offset_m=0.3)
        self.arm.take()

    def fault_poses_in_another_frame(self) -> None:
        self.arm.tell(frame='camera')
        self.arm.take()

    def fault_pushed(self) -> None:
        step = np.array([*self.random.normal(scale=0.03, size=3), 0, 0, 0])
        self.arm.servo.pose = self.arm.servo.pose.moved(step, 'base')

    def fault_halted(self) -> None:
        self.arm.servo.follows = False
        self.act()
        self.arm.runs(0.6)
        self.arm.servo.follows = True

    def fault_other_limits(self) -> None:
        options = self.arm.options | {
            'max_linear_speed_m_s': float(self.random.choice([0.05, 0.1, 0.25])),
            'max_linear_jerk_m_s3': float(self.random.choice([50.0, 100.0])),
        }
        setup = a_setup(self.arm.node, self.arm.clock, **options)
        self.arm.output.adjust(setup)
        # A limit that was in force for a part of the next tick may be the one before.
        self.arm.tick()
        self.arm.servo.limits = motion_limits(setup.parameters)


@pytest.mark.parametrize('seed', [0, 1])
def test_pose_tracking_never_complains_in_minutes_of_faults(seed: int) -> None:
    faults = Faults(seed)
    faults.run(300.0)
    arm = faults.arm
    assert not arm.servo.complaints[:5]
    assert min(faults.done.values()) >= 3
    counters = arm.output.motion.counters
    assert counters.motions > 300 and counters.motions_interrupted > 4
    assert len(arm.sent) > 5000
    arm.runs(0.5)
    heard = len(arm.sent)
    arm.runs(3.0)  # no chunk comes
    assert len(arm.sent) <= heard + 100


def test_a_simulation_that_is_reset_has_neither_target_nor_gripper_of_before() -> None:
    """After it the tool is 5 cm away, within max_lead_m; the gripper has moved before it."""
    arm = Arm(chunk_timing='from_pose')
    arm.clock.is_simulated = True
    arm.clock.advance(100.0)
    arm.runs(0.1)
    arm.acts([[0.01, 0, 0, 0, 0, 0, one] for one in (1, 0, 1)])
    arm.runs(2.0)
    silent = len(arm.sent)
    arm.clock.jump(-60.0)
    arm.output.forget_stamps()
    arm.output.hold()
    for _ in range(20):
        arm.clock.advance(PERIOD_S)
        arm.tell(offset_m=-0.05)
        arm.node.timer()
    assert len(arm.sent) == silent
    arm.output.publish(admitted(arm.clock.now(), [[0.01, 0, 0, 0, 0, 0, 1]], valid_s=5.0))
    arm.node.timer()
    assert arm.reason is None
    begin = arm.servo.pose.position[0] - 0.05
    assert arm.sent[silent].pose.position.x == pytest.approx(begin, abs=1e-3)
