# SPDX-License-Identifier: Apache-2.0
"""Displacements and poses in other frames than the contract's: by a fixed rotation, and by tf2."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from support import tf2
from support.outputs import CONTRACT, DATA_SET, Clock, StandIn, a_setup, admitted, pose_message
from vla_ros.motion import Pose, load_contracts
from vla_ros.motion.orientation import normalized, quaternion_of, quaternion_of_rpy, rotated
from vla_ros.motion.state_parts import StateParts
from vla_ros.parameters.check import ParameterError, check_all
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, Reason
from vla_ros.ros.axes import ContractAxes
from vla_ros.ros.motion_output import MotionOutput
from vla_ros.ros.pose_output import PoseOutput
from vla_ros.ros.state_input import StateInput
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


def test_a_transform_of_the_future_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not be old for as long as its publisher's clock is ahead, whatever becomes of it."""
    tree = tf2.installed(monkeypatch)
    arm = Arm(contract_frame='base_link')
    tree.put('base', 'base_link', QUARTER, arm.clock.now_ns() + 10**8)  # within the clocks' skew
    assert arm.acts(0.01) is None
    tree.put('base', 'base_link', QUARTER, arm.clock.now_ns() + 3600 * 10**9)
    assert arm.acts(0.01) is Reason.MOTION_NO_TRANSFORM
    assert arm.output.cause is not None and '3600.00 s in the future' in arm.output.cause.message


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


# -- the pose in the policy's state ---------------------------------------------------------------


DOWN = np.array([1.0, 0.0, 0.0, 0.0])  # a hand that points down, as LIBERO's


class State:
    """LIBERO's position and axis angle, of poses on ``ee_pose``."""

    def __init__(self, frame: str = 'base', **options: Any) -> None:
        """
        :param frame: of the contract.
        :param options: parameters.
        """
        self.clock, self.node = Clock(), StandIn()
        self.clock.advance(1000.0)
        setup = a_setup(self.node, self.clock, **options)
        self.frames, self.frame = setup.shared.frames, frame
        self.states: list[NDArray[np.float64]] = []
        self.faults: list[Cause] = []
        self.counters = SimpleNamespace(states_received=0, states_rejected=0, states_unrelated=0)
        assembler: Any = SimpleNamespace(
            counters=self.counters, keep_state=lambda values, *_: self.states.append(values)
        )
        parts = load_contracts()['libero_spatial_no_noops'].state[:2]
        node: Any = self.node
        self.input = StateInput(
            node,
            '',
            StateParts(parts, 0.05, setup.frame_id if frame == 'base' else ''),
            self.axes(**options),
            frame,
            setup.tool,
            assembler,
            lambda: 'go',
            lambda _: None,
            self.faults.append,
        )
        self.input.listen()

    def axes(self, **options: Any) -> ContractAxes:
        return ContractAxes(self.frames, Parameters(**{'frame_id': 'base', **options}), 0)

    def sees(self, pose: Pose, frame: str = 'base') -> NDArray[np.float64] | None:
        """Return the state of a pose; None if it was rejected."""
        self.clock.advance(PERIOD_S)
        count = len(self.states)
        self.node.hears['ee_pose'](pose_message(pose, frame, self.clock.now_ns()))
        return self.states[-1] if len(self.states) > count else None


def test_a_libero_policy_on_a_turned_base_gets_the_state_of_its_data() -> None:
    """The contract's x is the robot's y: 0.4 m before the arm is y = 0.4 m here."""
    turned = Pose(np.array([0.0, 0.4, 0.2]), Pose(np.zeros(3), DOWN).within(QUARTER).quaternion)
    arm = State(frame_rotation_rpy=f'0, 0, {math.pi / 2}')
    np.testing.assert_allclose(arm.sees(turned), [0.4, 0.0, 0.2, math.pi, 0.0, 0.0], atol=1e-9)
    plain = State()
    np.testing.assert_allclose(
        plain.sees(Pose(np.array([0.4, 0.0, 0.2]), DOWN)), arm.states[0], atol=1e-9
    )
    assert np.abs(plain.sees(turned) - arm.states[0]).max() > 0.3


def test_tf2_tells_the_state_in_the_frame_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its origin: LIBERO's world is not where the arm is mounted."""
    tree = tf2.installed(monkeypatch)
    arm = State(contract_frame='world')
    pose = Pose(np.array([0.0, 0.4, 0.2]), DOWN)
    assert arm.sees(pose) is None
    [fault] = arm.faults
    assert fault.reason is Reason.STATE_REJECTED and "from 'base' to 'world'" in fault.message
    mount = Pose(np.array([-0.66, 0.0, 0.912]), quaternion_of(np.array([0, 0, -math.pi / 2])))
    tree.put('world', 'base', mount)
    state = arm.sees(pose)
    assert state is not None
    np.testing.assert_allclose(state[:3], [-0.26, 0.0, 1.112], atol=1e-9)
    np.testing.assert_allclose(state[3:], math.pi * np.array([1, -1, 0]) / math.sqrt(2), atol=1e-9)
    tree.put('world', 'base', mount, arm.clock.now_ns() - 10**9)  # it moves, and is old
    assert arm.sees(pose) is None and 'is 1.02 s old' in arm.faults[-1].message
    assert (arm.counters.states_received, arm.counters.states_rejected) == (3, 2)


@pytest.mark.parametrize('by', ['frame_rotation_rpy', 'contract_frame'])
@pytest.mark.parametrize('frame', ['base', 'end_effector'])
@pytest.mark.parametrize('seed', range(3))
def test_state_and_displacements_are_turned_alike(
    by: str, frame: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the policy sees of a displacement that it asked for is that displacement."""
    random, tree = np.random.default_rng(seed), tf2.installed(monkeypatch)
    turn = quaternion_of_rpy(rpy := random.uniform(-3, 3, 3))
    tree.put('base', 'other', Pose(random.normal(size=3), turn))
    option = ', '.join(map(str, rpy)) if by == 'frame_rotation_rpy' else 'other'
    axes = State().axes(**{by: option})
    tool = Pose(random.normal(size=3), normalized(random.normal(size=4)))
    step, turned = random.normal(size=6) * 0.1, axes.rotation(frame)
    assert not isinstance(turned, Cause)
    made = np.hstack([rotated(turned, step[:3]), rotated(turned, step[3:])])
    before = axes.told(tool, 'base', frame)
    after = axes.told(tool.moved(made, frame), 'base', frame)
    assert isinstance(before, Pose) and isinstance(after, Pose)
    np.testing.assert_allclose(before.step_to(after, frame), step, atol=1e-9)
    if frame == 'end_effector':
        np.testing.assert_array_equal(before.position, tool.position)


def test_other_axes_forget_the_poses_of_before() -> None:
    """A position along the old axes must not meet an orientation along the new ones."""
    arm = State()
    assert arm.sees(TOOL) is not None
    parts = arm.input._parts
    arm.input.adjust(0.05, 'base', arm.axes(), 'base')
    assert not parts.why_none()
    arm.input.adjust(0.05, 'base', arm.axes(frame_rotation_rpy='0, 0, 1'), 'base')
    assert 'nothing came of position of ee_pose' in parts.why_none()
    state = arm.sees(TOOL)
    assert state is not None
    np.testing.assert_allclose(state[:2], [0.3 * math.cos(1), -0.3 * math.sin(1)], atol=1e-9)


@pytest.mark.parametrize('w', [0.5, 0.0, math.nan])
def test_a_pose_that_is_no_rotation_is_rejected_also_where_it_would_be_turned(
    w: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tf2.installed(monkeypatch).put('base', 'table', QUARTER)
    none = Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, w]))
    for options in ({}, {'frame_rotation_rpy': '0, 0, 1'}):
        state = State(**options)
        for frame in ('base', 'table'):
            assert state.sees(none, frame) is None
            assert 'has the norm' in state.faults[-1].message
    arm = Arm(chunk_timing='from_pose')
    arm.sees(none, 'table')
    assert arm.acts(0.01) is Reason.MOTION_POSE_INVALID
