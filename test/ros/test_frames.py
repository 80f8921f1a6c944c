# SPDX-License-Identifier: Apache-2.0
"""Displacements and poses in other frames than the contract's: by a fixed rotation, and by tf2."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from support import tf2
from support.outputs import CONTRACT, DATA_SET, Clock, StandIn, a_setup, admitted, pose_message
from vla_ros.motion import Pose
from vla_ros.motion.orientation import quaternion_of, quaternion_of_rpy, rotated
from vla_ros.parameters.check import ParameterError, check_all
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Reason
from vla_ros.ros.motion_output import MotionOutput
from vla_ros.ros.pose_output import PoseOutput
from vla_ros.ros.twist_output import TwistOutput

PERIOD_S = 0.02
QUARTER = Pose(np.array([0.1, 0.2, 0.3]), quaternion_of(np.array([0.0, 0.0, math.pi / 2])))
UPRIGHT = np.array([0.0, 0.0, 0.0, 1.0])
TOOL = Pose(np.array([0.3, 0.0, 0.2]), UPRIGHT)
OUTPUTS: dict[str, Callable[[Any], MotionOutput]] = {'twist': TwistOutput, 'pose': PoseOutput}


class Arm:
    def __init__(self, motion: str = 'twist', frame: str = 'base', **options: Any) -> None:
        """
        :param frame: of the contract.
        :param options: parameters.
        """
        self.clock, self.node = Clock(), StandIn()
        self.clock.advance(1000.0)
        self.options = {'motion': motion, 'max_action_age_s': 5.0, **options}
        contract = replace(CONTRACT, frame=frame)  # type: ignore[type-var]
        self.contracts = {DATA_SET: contract}
        self.setup = self.set_up(**self.options)
        self.output = OUTPUTS[motion](self.setup)

    def set_up(self, **options: Any) -> Any:
        return replace(a_setup(self.node, self.clock, **options), contracts=self.contracts)

    def sees(self, pose: Pose = TOOL, frame: str = 'base', seconds: float = 0.1) -> None:
        """Tell poses for a while, which are the same."""
        for _ in range(round(seconds / PERIOD_S)):
            self.clock.advance(PERIOD_S)
            self.node.hears['ee_pose'](pose_message(pose, frame, self.clock.now_ns()))

    def acts(self, *values: float, image_age_s: float = 0.0) -> Reason | None:
        action = [*values, *[0.0] * (6 - len(values)), 1.0]
        chunk = admitted(self.clock.now(), [action], valid_s=5.0, image_age_s=image_age_s)
        self.output.publish(chunk)
        cause = self.output.cause
        return cause.reason if cause else None

    def runs(self, seconds: float = 1.0) -> None:
        for _ in range(round(seconds / PERIOD_S)):
            self.clock.advance(PERIOD_S)
            self.node.timer()

    @property
    def twists(self) -> NDArray[np.float64]:
        """[N, 6]"""
        sent = [one.twist for one in self.node.publishers['twist'].sent]
        return np.array(
            [
                [getattr(part, axis) for part in (one.linear, one.angular) for axis in 'xyz']
                for one in sent
            ]
        ).reshape(-1, 6)

    @property
    def made(self) -> NDArray[np.float64]:
        return self.twists.sum(axis=0) * PERIOD_S


@pytest.mark.parametrize('seed', range(4))
def test_a_fixed_rotation_turns_displacements(seed: int) -> None:
    """It is the orientation of the contract's frame in frame_id, as in a URDF."""
    random = np.random.default_rng(seed)
    rpy, action = random.uniform(-3, 3, 3), random.uniform(-0.02, 0.02, 6)
    action[3:5] = 0.0  # yaw alone is a rotation vector
    arm = Arm(frame_rotation_rpy=', '.join(map(str, rpy)))
    assert arm.acts(*action) is None
    arm.runs()
    turn = quaternion_of_rpy(rpy)
    expected = np.hstack([rotated(turn, action[:3]), rotated(turn, action[3:])])
    np.testing.assert_allclose(arm.made, expected, atol=1e-6)


def test_a_rotation_for_each_robot() -> None:
    parameters = Parameters(
        robots=('a', 'b'),
        motion='twist',
        frame_id='a_base, b_base',
        frame_rotation_rpy='; 0, 0, 1.57',
    )
    check_all(parameters)
    assert parameters.frame_rotations == ['', '0, 0, 1.57']


@pytest.mark.parametrize(
    'rotation', ['1, 2', 'x, y, z', '0, 0, 7', '0, 0, nan', '0, 0, 1; 0, 0, 1']
)
def test_what_is_no_rotation_is_refused(rotation: str) -> None:
    with pytest.raises(ParameterError, match='frame_rotation_rpy'):
        check_all(Parameters(frame_rotation_rpy=rotation))


@pytest.mark.parametrize('name', ['contract_frame', 'tool_frame'])
def test_frames_of_tf2_need_tf2(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = Parameters(**{name: 'arm/base_link'})
    with pytest.raises(ParameterError, match='tf2_ros is not installed'):
        check_all(parameters)
    tf2.installed(monkeypatch)
    check_all(parameters)
    both = replace(parameters, contract_frame='arm/base_link', frame_rotation_rpy='0, 0, 1')
    with pytest.raises(ParameterError, match='both say how the axes lie'):
        check_all(both)


@pytest.mark.parametrize('motion', ['twist', 'pose'])
def test_tf2_turns_displacements_from_the_frame_of_the_contract(
    motion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tf2.installed(monkeypatch)
    tree.put('base', 'arm/base_link', QUARTER)
    arm = Arm(motion, contract_frame='/arm/base_link')
    assert tree.listeners == 1
    if motion == 'twist':
        assert arm.acts(0.01, 0.02) is None
        arm.runs()
        np.testing.assert_allclose(arm.made, [-0.02, 0.01, 0, 0, 0, 0], atol=1e-9)
        return
    arm.sees()
    assert arm.acts(0.01, 0.02) is None
    for _ in range(30):
        arm.sees(seconds=PERIOD_S)
        arm.node.timer()
    last = arm.node.publishers['target_pose'].sent[-1]
    assert last.header.frame_id == 'base'
    assert last.pose.position.x == pytest.approx(0.28)
    assert last.pose.position.y == pytest.approx(0.01)


def test_without_a_transform_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tf2.installed(monkeypatch)
    arm = Arm(contract_frame='arm/base_link')
    assert arm.acts(0.01) is Reason.MOTION_NO_TRANSFORM
    tree.put('base', 'arm/base_link', QUARTER, arm.clock.now_ns())
    arm.runs(0.3)
    assert arm.acts(0.01) is Reason.MOTION_NO_TRANSFORM  # 0.3 s old
    cause = arm.output.cause
    assert cause is not None and "'arm/base_link' to 'base' is 0.30 s old" in cause.message
    assert not arm.node.publishers['twist'].sent
    tree.put('base', 'arm/base_link', QUARTER, arm.clock.now_ns())
    assert arm.acts(0.01) is None
    assert arm.output.motion.counters.motions_refused == 2


def test_the_frames_of_a_tool_must_be_fixed_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Displacements along the tool's axes: what turns with the tool has them, and nothing else."""
    tree = tf2.installed(monkeypatch)
    tree.put('tool', 'gripper', QUARTER)
    arm = Arm(frame='end_effector', frame_id='tool', contract_frame='gripper')
    assert arm.acts(0.01) is None
    arm.runs()
    np.testing.assert_allclose(arm.made[:2], [0, 0.01], atol=1e-9)
    tree.put('base', 'gripper', QUARTER, arm.clock.now_ns())
    tree.put('base', 'tool', TOOL, arm.clock.now_ns())
    assert arm.acts(0.01) is Reason.MOTION_NO_TRANSFORM
    arm = Arm('pose', frame='end_effector', contract_frame='gripper')
    arm.sees()
    assert arm.acts(0.01) is Reason.MOTION_NO_TRANSFORM  # of which tool?


def test_a_pose_in_another_frame_is_turned_by_tf2(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {'chunk_timing': 'from_pose', 'workspace_m': '0, 0.1, 0, 0.505, 0, 1'}
    arm = Arm(**options)
    arm.sees(frame='table')
    assert arm.acts(0.0, 0.02) is Reason.MOTION_POSE_FRAME  # as ever
    tree = tf2.installed(monkeypatch)
    arm = Arm(**options)
    assert not tree.listeners
    arm.sees(frame='table')
    assert arm.acts(0.0, 0.02) is Reason.MOTION_NO_TRANSFORM
    tree.put('base', 'table', QUARTER)
    arm.sees(frame='table')
    assert tree.listeners == 1
    # The tool is at 0.1, 0.5, 0.5 of the base: of 0.02 m, the workspace allows 0.005.
    assert arm.acts(0.0, 0.02) is None
    assert arm.output.limited == 'workspace_m'
    arm.runs(0.1)
    tree.frames.clear()
    sent = len(arm.twists)
    arm.sees(frame='table', seconds=PERIOD_S)
    arm.runs(0.5)
    assert arm.twists[:sent].any() and not arm.twists[sent:].any()
    assert arm.output.motion.counters.motions_interrupted == 1


def test_the_pose_of_the_tool_through_tf2(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tf2.installed(monkeypatch)
    arm = Arm(chunk_timing='from_pose', tool_frame='tool')
    assert 'ee_pose' not in arm.node.hears
    look = arm.node.timer  # the last one created
    arm.node.timer = arm.output._on_timer
    look()
    assert arm.acts(0.02) is Reason.MOTION_NO_TRANSFORM
    arm.output.forget_stamps()
    assert arm.acts(0.02) is Reason.MOTION_NO_POSE
    arm.setup.tool.forget()
    look()
    assert arm.acts(0.02) is Reason.MOTION_NO_TRANSFORM
    tree.put('base', 'tool', TOOL)
    look()
    assert arm.acts(0.02) is Reason.MOTION_NO_TRANSFORM  # a frame that does not move is no tool
    counters = arm.output.counters[1]
    for _ in range(10):
        arm.clock.advance(PERIOD_S)
        tree.put('base', 'tool', TOOL, arm.clock.now_ns())
        look()
        look()  # nothing new
    assert counters.poses_received == 10
    assert arm.acts(0.02, image_age_s=0.1) is None
    place = TOOL
    for _ in range(60):
        arm.runs(PERIOD_S)
        place = place.moved(arm.twists[-1] * PERIOD_S, 'base')
        tree.put('base', 'tool', place, arm.clock.now_ns())
        look()
    assert place.position[0] == pytest.approx(0.32, abs=1e-3)
    arm.acts(0.02)
    arm.runs(0.3)  # and nothing comes from tf2
    assert arm.output.cause is not None
    assert arm.output.cause.reason is Reason.MOTION_POSE_STALE
    arm.output.close(0.0)


def test_another_frame_ends_a_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tf2.installed(monkeypatch)
    tree.put('base', 'arm/base_link', QUARTER)
    arm = Arm()
    for change in ({'contract_frame': 'arm/base_link'}, {'frame_rotation_rpy': '0, 0, 1'}):
        arm.acts(0.02)
        arm.runs(0.1)
        assert arm.twists[-1].any()
        arm.output.adjust(arm.set_up(**{**arm.options, **change}))
        assert not arm.twists[-1].any()
    arm.acts(0.02)
    arm.runs()
    turned = rotated(quaternion_of_rpy(np.array([0.0, 0.0, 1.0])), np.array([0.02, 0.0, 0.0]))
    end = arm.twists[-int(0.6 / PERIOD_S) :].sum(axis=0) * PERIOD_S
    np.testing.assert_allclose(end[:3], turned, atol=1e-9)


def test_one_subscription_serves_all_listeners() -> None:
    arm = Arm(chunk_timing='from_pose')
    heard: list[str] = []

    class State:
        pose_frame = ''

        def on_pose(self, pose: Pose, frame: str, stamp_ns: int) -> None:
            heard.append(frame)

        def on_no_pose(self, cause: object) -> None:
            raise AssertionError

    state = State()
    arm.setup.tool.add(state)
    arm.sees(frame='camera', seconds=PERIOD_S)
    assert heard == ['camera'] and arm.output.counters[1].poses_received == 1
    arm.output.close(0.0)
    arm.sees(frame='camera', seconds=PERIOD_S)
    assert heard == ['camera'] * 2
    arm.setup.tool.remove(state)
    assert not arm.node.hears
