# SPDX-License-Identifier: Apache-2.0
"""What the joints of one robot are sent, against controllers that enforce their own rules.

Around a stand-in for the node: time is the test's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from support.controllers import ForwardController, Hardware, TrajectoryController
from support.joints import (
    ACCELERATION,
    CONTRACT,
    KEY,
    NAMES,
    NS,
    RAMP_S,
    RATE_HZ,
    admitted_joints,
    joint_message,
    joint_setup,
)
from support.outputs import Clock, StandIn
from vla_ros.parameters.check import ParameterError, check_all
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Reason
from vla_ros.ros.joint_output import ForwardOutput, JointOutput, TrajectoryOutput
from vla_ros.ros.output import close_outputs

PERIOD_S = 1 / RATE_HZ
BRAKES_RAD = 0.8**2 / (2 * ACCELERATION) + 2 * 0.8 * PERIOD_S  # from full speed, two ticks later
TOPICS = {'forward': 'joint_commands', 'joint_trajectory': 'joint_trajectory'}
OUTPUTS: dict[str, Callable[..., JointOutput]] = {
    'forward': ForwardOutput,
    'joint_trajectory': TrajectoryOutput,
}


class Rig:
    """An output, its controller and the hardware, in one time."""

    def __init__(self, motion: str, from_desired: bool = True, **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1.0)
        self.node = StandIn()
        self.setup = joint_setup(self.node, self.clock, motion=motion, **options)
        self.output = OUTPUTS[motion](self.setup)
        self.hardware = Hardware(
            NAMES,
            np.zeros(2),
            low=np.array([-1.0, -0.5]),
            high=np.array([1.0, 0.5]),
            speed=np.array([0.8, 1.0]),
            acceleration=np.full(2, ACCELERATION),
        )
        self.trajectories = TrajectoryController(self.hardware, 0.15, 0.05, from_desired)
        self.forward = ForwardController(self.hardware, PERIOD_S)
        self.is_forward = motion == 'forward'
        if not self.is_forward:  # its spline makes up for what a message was late
            self.hardware.speed_slack, self.hardware.acceleration_slack = 0.1, np.inf
            self.hardware.position_slack = 5e-3
        self.step_s = PERIOD_S if self.is_forward else 0.01
        self.latency_s = 0.0
        self.tells = True
        self.is_blocked = False  # the joints stay where they are
        self.ticks_at_s = 0.0
        self._taken = 0

    @property
    def sent(self) -> list[Any]:
        topic = TOPICS[self.setup.parameters.motion]
        return self.node.publishers[topic].sent if topic in self.node.publishers else []

    @property
    def now_s(self) -> float:
        return self.clock.now_ns() / NS

    def acts(self, rows: Any, **options: Any) -> None:
        self.tell()
        self.output.publish(admitted_joints(self.clock.now(), rows, **options))
        self.deliver()

    def tell(self) -> None:
        if self.tells:
            self.hears(joint_message(self.hardware.position, self.clock.now_ns()))

    def hears(self, message: Any) -> None:
        self.node.hears['joint_states'](message)
        self.deliver()

    def deliver(self) -> None:
        for message in self.sent[self._taken :]:
            if self.is_forward:
                self.forward.hear(message, self.now_s)
            else:
                self.trajectories.hear(message, self.now_s + self.latency_s)
        self._taken = len(self.sent)

    def stalls(self, seconds: float) -> None:
        """The process is suspended; controllers and hardware are not."""
        self.passes(seconds, alive=False)
        if self.is_forward:
            self.hardware.rest()

    def passes(self, seconds: float, alive: bool = True) -> None:
        for _ in range(round(seconds / self.step_s)):
            self.clock.advance(self.step_s)
            at = self.hardware.position
            if self.is_forward:
                self.hardware.live(self.step_s)
            else:
                self.trajectories.update(self.now_s, self.step_s)
            if self.is_blocked:
                self.hardware.position = at
            if alive:
                self.tell()
                if self.now_s >= self.ticks_at_s - 1e-9:
                    self.ticks_at_s = self.now_s + PERIOD_S
                    self.node.timer()
                    self.deliver()

    @property
    def reason(self) -> Reason | None:
        return self.output.cause.reason if self.output.cause else None


LINE = np.linspace([0.0, 0.0], [0.5, 0.3], 26)[1:]


@pytest.mark.parametrize('motion', OUTPUTS)
def test_a_chunk_moves_the_joints_and_then_there_is_silence(motion: str) -> None:
    rig = Rig(motion)
    assert rig.output.cause is None and rig.output.limited == ''
    rig.acts(LINE)
    rig.passes(3.0)
    np.testing.assert_allclose(rig.hardware.position, LINE[-1], atol=1e-6)
    assert rig.hardware.complaints == []
    sent = len(rig.sent)
    # A motion of 1 s and two ramps at 50 Hz, and 0.2 s of its end; or one trajectory.
    assert sent == 1 if motion == 'joint_trajectory' else abs(sent - 85) <= 2
    rig.passes(1.0)
    assert len(rig.sent) == sent
    assert rig.node.publishers['gripper'].sent[0].data == 0.0


@pytest.mark.parametrize('motion', OUTPUTS)
def test_a_hold_stops_the_joints_in_half_a_ramp(motion: str) -> None:
    rig = Rig(motion)
    rig.acts(LINE)
    rig.passes(0.6)
    before, sent = rig.hardware.command.copy(), len(rig.sent)
    rig.output.hold()
    rig.deliver()
    assert len(rig.sent) == sent + 1  # immediately
    rig.passes(RAMP_S / 2 + 0.02)
    stopped = rig.hardware.command.copy()
    rig.passes(2.0)
    np.testing.assert_allclose(rig.hardware.command, stopped, atol=1e-9)
    assert (stopped - before < 0.06).all() and (stopped > before).all()
    assert rig.hardware.complaints == []
    if motion == 'joint_trajectory':
        assert len(rig.sent) == sent + 2  # and once again, since a message may get lost
        assert len(rig.sent[-1].points) == 1
    sent = len(rig.sent)
    for _ in range(5):
        rig.output.hold()
    rig.passes(0.5)
    assert len(rig.sent) == sent


@pytest.mark.parametrize('motion', OUTPUTS)
@pytest.mark.parametrize('fault', ['silence', 'malformed'])
def test_joints_that_are_lost_stop_the_motion(motion: str, fault: str) -> None:
    rig = Rig(motion)
    rig.acts(LINE)
    rig.passes(0.5)
    rig.tells = False
    if fault == 'malformed':
        rig.hears(joint_message([0.0, 0.0], 0))
        assert rig.reason is Reason.MOTION_JOINTS_INVALID
    rig.passes(0.22 + RAMP_S / 2 + 0.02)
    stopped = rig.hardware.command.copy()
    assert rig.output.motion.is_over(rig.now_s)
    assert rig.reason in (Reason.MOTION_JOINTS_STALE, Reason.MOTION_JOINTS_INVALID)
    assert rig.output.motion.counters.motions_interrupted == 1
    rig.passes(1.0)
    np.testing.assert_array_equal(rig.hardware.command, stopped)
    rig.acts(LINE)
    assert rig.reason in (Reason.MOTION_JOINTS_STALE, Reason.MOTION_JOINTS_INVALID)
    rig.tells = True
    rig.acts(LINE)
    assert rig.reason is None
    rig.passes(2.0)
    assert rig.hardware.complaints == []


def test_a_process_that_was_suspended_makes_no_step() -> None:
    rig = Rig('forward')
    rig.acts(LINE)
    rig.passes(0.5)
    before = rig.hardware.command.copy()
    rig.stalls(0.4)
    rig.passes(1.0)
    np.testing.assert_array_equal(rig.hardware.command, before)
    assert rig.reason is Reason.MOTION_DELAYED
    rig.acts(LINE)
    rig.passes(3.0)
    assert rig.hardware.complaints == []
    np.testing.assert_allclose(rig.hardware.position, LINE[-1], atol=1e-6)


@pytest.mark.parametrize('motion', OUTPUTS)
def test_joints_that_do_not_follow_stop_the_motion(motion: str) -> None:
    rig = Rig(motion, max_joint_lead_rad=0.1)
    rig.trajectories = TrajectoryController(rig.hardware, np.inf, np.inf)
    rig.acts(LINE)
    rig.passes(0.4)
    assert rig.reason is None
    rig.is_blocked, at = True, rig.hardware.position.copy()
    rig.passes(1.0)
    led = np.abs(rig.hardware.command - at).max()
    assert 0.1 < led < 0.1 + BRAKES_RAD
    assert rig.reason is Reason.MOTION_NOT_FOLLOWED
    assert rig.output.cause is not None and 'joint turn is 0.1' in rig.output.cause.message
    assert rig.output.motion.counters.motions_interrupted == 1
    rig.acts(LINE)  # they are still expected to come
    assert rig.reason is Reason.MOTION_NOT_FOLLOWED
    assert rig.output.motion.counters.motions_refused == 1
    wide = replace(rig.setup.parameters, max_joint_lead_rad=1.0)
    rig.output.adjust(replace(rig.setup, parameters=wide))
    rig.is_blocked = False
    rig.acts(LINE)
    assert rig.reason is None
    rig.passes(3.0)
    np.testing.assert_allclose(rig.hardware.position, LINE[-1], atol=1e-3)
    assert rig.hardware.complaints == []


@pytest.mark.parametrize('motion', OUTPUTS)
def test_joints_that_were_blocked_are_led_from_where_they_are(motion: str) -> None:
    """However many chunks come, a blocked joint is never led further than the limit and a brake."""
    rig = Rig(motion, max_joint_lead_rad=0.1)
    rig.trajectories = TrajectoryController(rig.hardware, np.inf, np.inf)
    rig.is_blocked = True
    for _ in range(30):
        rig.acts(np.tile(LINE[-1:], (25, 1)))
        rig.passes(0.2)
        assert np.abs(rig.hardware.command - rig.hardware.position).max() < 0.1 + BRAKES_RAD
    assert rig.output.motion.counters.motions_interrupted > 2
    assert rig.output.motion.counters.motions_refused > 10


def test_a_chunk_after_a_gap_makes_no_step() -> None:
    """Also if no other callback has sent what was due, and the motion would be over by now."""
    rig = Rig('forward')
    rig.acts(LINE)
    rig.passes(0.5)
    before = rig.hardware.command.copy()
    rig.stalls(3.0)
    rig.acts(LINE)
    assert rig.output.motion.counters.motions_interrupted == 1
    rig.passes(PERIOD_S)
    assert np.abs(rig.hardware.command - before).max() < 0.01
    rig.passes(3.0)
    np.testing.assert_allclose(rig.hardware.position, LINE[-1], atol=1e-6)
    assert rig.hardware.complaints == []


@pytest.mark.parametrize('motion', OUTPUTS)
def test_closing_while_simulated_time_stands_takes_no_longer(motion: str) -> None:
    """The robot stands still, too, and its last command is the last one that it had."""
    rig = Rig(motion)
    rig.clock.is_simulated = True
    rig.acts(LINE)
    rig.passes(0.5)
    before = rig.hardware.command.copy()
    sleep = rig.clock.sleep

    def stand(seconds: float) -> None:
        sleep(seconds)
        rig.clock.jump(-seconds)

    rig.clock.sleep = stand  # type: ignore[method-assign]
    close_outputs([rig.output], rig.clock)
    assert rig.clock.slept_s <= 0.5
    if motion == 'forward':
        np.testing.assert_allclose(rig.sent[-1].data, before, atol=0.02)
        assert rig.sent[-1].data == rig.sent[-2].data
    else:  # which its controller plays when time goes on
        assert not any(rig.sent[-1].points[-1].velocities)
        np.testing.assert_allclose(rig.sent[-1].points[-1].positions, before, atol=0.05)


@pytest.mark.parametrize('motion', OUTPUTS)
def test_another_clock_ends_the_motion_where_the_joints_are(motion: str) -> None:
    rig = Rig(motion)
    rig.acts(LINE)
    rig.passes(0.5)
    before = rig.hardware.command.copy()
    rig.clock.is_simulated = True
    rig.passes(0.5)
    assert np.abs(rig.hardware.command - before).max() < 0.02
    assert len(rig.sent[-1].data if rig.is_forward else rig.sent[-1].points) in (1, 2)


@pytest.mark.parametrize('motion', OUTPUTS)
def test_each_group_of_joints_has_its_topic(motion: str) -> None:
    topic = TOPICS[motion]
    rig = Rig(motion, joint_groups=('li', 'tu'))
    assert rig.output.topics == (f'/li/{topic}', f'/tu/{topic}')
    rig.node.publishers[topic] = rig.node.publishers[f'tu/{topic}']
    rig.tell()
    rig.output.publish(admitted_joints(rig.clock.now(), LINE))
    rig.clock.advance(PERIOD_S)
    rig.node.timer()
    [lift], [turn] = (rig.node.publishers[f'{one}/{topic}'].sent for one in ('li', 'tu'))
    if motion == 'forward':
        assert len(lift.data) == len(turn.data) == 1
    else:
        assert (lift.joint_names, turn.joint_names) == (['lift'], ['turn'])
        assert turn.points[-1].positions[0] == pytest.approx(0.5)
        assert lift.points[-1].positions[0] == pytest.approx(0.3)


@pytest.mark.parametrize('groups', [('left_',), ('tu', 'lift', 'x'), ('t', 'tu', 'l')])
def test_groups_that_do_not_fit_move_nothing(groups: tuple[str, ...]) -> None:
    rig = Rig('forward', joint_groups=groups)
    assert rig.reason is Reason.MOTION_JOINT_GROUPS
    rig.tell()
    rig.output.publish(admitted_joints(rig.clock.now(), LINE))
    rig.node.timer()
    assert not any(one.sent for one in rig.node.publishers.values())
    assert rig.output.motion.counters.motions_refused == 1


def test_limits_of_joints_are_named() -> None:
    rig = Rig('forward')
    rig.acts([[0.0, 3.0]])
    assert rig.output.limited == 'limits of lift'


@pytest.mark.parametrize('motion', OUTPUTS)
def test_displacements_do_not_move_joints(motion: str) -> None:
    rig = Rig(motion, unnorm_key='bridge_orig')
    assert rig.reason is Reason.MOTION_NOT_JOINT_POSITIONS
    rig.acts(LINE, key='bridge_orig')
    assert rig.reason is Reason.MOTION_NOT_JOINT_POSITIONS
    assert rig.sent == []


@pytest.mark.parametrize('motion', OUTPUTS)
def test_other_limits_stop_the_motion(motion: str) -> None:
    rig = Rig(motion)
    rig.acts(LINE)
    rig.passes(0.5)
    slow = replace(rig.setup.parameters, max_joint_speed_rad_s=0.1)
    rig.output.adjust(replace(rig.setup, parameters=slow))
    rig.deliver()
    rig.passes(RAMP_S)
    stopped = rig.hardware.command.copy()
    rig.passes(0.5)
    np.testing.assert_allclose(rig.hardware.command, stopped, atol=1e-9)
    rig.acts(LINE)
    rig.passes(0.5)
    assert (np.abs(rig.hardware.command - stopped) <= 0.05).all()
    assert rig.hardware.complaints == []


URDF = '<robot name="a"><joint name="{}" type="continuous"><limit velocity="{}"/></joint></robot>'


def test_the_limits_of_a_description_on_a_topic() -> None:
    rig = Rig('forward', robot_description='topic', max_joint_speed_rad_s=0.0)
    rig.acts(LINE)
    assert rig.reason is Reason.MOTION_JOINT_LIMITS
    assert 'no robot description came on robot_description' in rig.output.cause.message
    describe = rig.node.hears['robot_description']
    for text, words in (
        ('<robot>', 'is not XML'),
        (URDF.format('turn', 0.5), 'speed of joint lift; set max_joint_speed_rad_s'),
    ):
        describe(_text(text))
        rig.acts(LINE)
        assert rig.reason is Reason.MOTION_JOINT_LIMITS
        assert words in rig.output.cause.message
    both = URDF.format('turn', 0.5)[: -len('</robot>')] + URDF.format('lift', 0.2)[16:]
    describe(_text(both))
    rig.acts([[0.5, 0.3]] * 25)
    assert rig.reason is None
    rig.passes(0.5)
    assert rig.output.motion.clipped.clipped_joint_speed == 1
    rig.output.close(0.1)
    assert rig.node.hears == {}


def _text(data: str) -> Any:
    from std_msgs.msg import String

    return String(data=data)


@pytest.mark.parametrize('motion', OUTPUTS)
def test_the_end_of_the_node_stops_the_joints(motion: str) -> None:
    rig = Rig(motion)
    rig.acts(LINE)
    rig.passes(0.5)
    close_outputs([rig.output], rig.clock)
    rig.deliver()
    if motion == 'forward':
        assert list(rig.sent[-1].data) == list(rig.sent[-3].data)
    else:
        assert not any(rig.sent[-1].points[-1].velocities)
    assert rig.clock.slept_s <= 0.5


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'chunk_timing': 'from_pose'}, 'set chunk_timing to published or timed'),
        ({'workspace_m': '0, 1, 0, 1, 0, 1'}, 'not joints; empty it'),
        ({'joint_groups': ('left_', 'left')}, "has 'left_'; allowed: letters"),
        ({'joint_groups': ('a b',)}, "has 'a b'; allowed: letters"),
        ({'joint_groups': ('_',)}, "has '_'; allowed: letters"),
    ],
)
def test_parameters_that_do_not_fit_joints(changes: dict[str, Any], words: str) -> None:
    check_all(Parameters(motion='forward'))  # needs no frame
    check_all(Parameters(motion='forward', joint_groups=('',)))  # none: rclpy has no empty list
    with pytest.raises(ParameterError) as refused:
        check_all(Parameters(motion='forward', **changes))
    assert words in str(refused.value)


# -- minutes of faults ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('motion', 'seconds', 'from_desired'),
    [('forward', 600, True), ('joint_trajectory', 600, True), ('joint_trajectory', 100, False)],
)
def test_minutes_of_faults_without_a_complaint(
    motion: str, seconds: float, from_desired: bool
) -> None:
    random = np.random.default_rng(7)
    rig = Rig(motion, from_desired)
    if not from_desired:  # it steps back to where the joints are, which lag behind
        rig.hardware.speed_slack, rig.hardware.position_slack = 4.0, 0.02
    goal = np.zeros(2)
    faults = {
        'hold': rig.output.hold,
        'not finite': lambda: rig.acts([[np.nan, 0.0]]),
        'another contract': lambda: rig.acts(LINE, key='bridge_orig'),
        'no time': lambda: rig.acts(LINE, valid_s=0.3),
        'past': lambda: rig.acts(LINE[:3], age_s=1.0),
        'stall': lambda: rig.stalls(random.uniform(0.13, 0.6)),
        'silent joints': lambda: _silent(rig, random.uniform(0.1, 0.6)),
        'malformed joints': lambda: rig.hears(joint_message([0.0], rig.clock.now_ns())),
        'no joints': lambda: rig.hears(joint_message([], rig.clock.now_ns(), [])),
        'clock': rig.output.forget_stamps,
        'limits': lambda: _limits(rig, random.uniform(0.3, 1.0)),
        'by hand': lambda: _by_hand(rig, random.uniform([-1.2, -0.6], [1.2, 0.6])),
    }
    ends_s = rig.now_s + seconds
    while rig.now_s < ends_s:
        if random.random() < 0.25:
            faults[str(random.choice(list(faults)))]()
            rig.deliver()
        else:
            goal = np.clip(goal + random.normal(size=2) * 0.3, [-1.5, -0.8], [1.5, 0.8])
            rows = np.linspace(rig.hardware.position, goal, random.integers(2, 26))
            rig.latency_s = random.uniform(0.0, 0.005)
            rig.acts(rows + random.normal(size=rows.shape) * 0.01, age_s=random.uniform(0.0, 0.3))
        rig.passes(random.choice([0.1, 0.3, 1.0, 3.0]) * random.random())
        assert rig.hardware.complaints == [], rig.now_s
    counters, clipped = rig.output.motion.counters, rig.output.motion.clipped
    assert counters.motions > seconds / 2 and counters.motions_interrupted > seconds / 60
    assert clipped.clipped_joint_position > seconds / 60
    assert counters.rows_skipped > seconds / 6


def _silent(rig: Rig, seconds: float) -> None:
    rig.tells = False
    rig.passes(seconds)
    rig.tells = True


def _limits(rig: Rig, speed: float) -> None:
    parameters = replace(rig.setup.parameters, max_joint_speed_rad_s=speed)
    rig.output.adjust(replace(rig.setup, parameters=parameters))


def _by_hand(rig: Rig, position: np.ndarray) -> None:
    """The operator disables the robot, moves it, and enables it again."""
    rig.output.forget()
    rig.deliver()
    rig.passes(1.0)
    rig.hardware.moved_by_hand(position)
    rig.trajectories.moved_by_hand(position)
    rig.passes(0.05)


@pytest.mark.parametrize('motion', OUTPUTS)
def test_a_contract_with_other_joints_stops_those_that_move(motion: str) -> None:
    """Their controllers hear the stop, and a chunk of the others waits for it."""
    rig = Rig(motion)
    rig.acts(LINE)
    rig.passes(0.5)
    begin = rig.hardware.position.copy()
    other = replace(CONTRACT, joints=('lift', 'hand', 'turn'), grippers=('hand',))
    rig.output.adjust(replace(rig.setup, contracts={KEY: other}))
    rig.deliver()
    rig.acts(LINE)
    assert rig.reason is Reason.MOTION_JOINT_LIMITS
    rig.passes(1.0)
    rest = rig.hardware.position.copy()
    assert (rest - begin > 0.0).all() and (rest - begin < 0.06).all()
    assert rig.hardware.complaints == []
    rig.tell()
    rig.output.publish(admitted_joints(rig.clock.now(), LINE))
    rig.clock.advance(PERIOD_S)
    rig.node.timer()
    first = rig.sent[-1]
    if motion == 'joint_trajectory':
        assert first.joint_names == ['lift', 'turn']
    else:
        np.testing.assert_allclose(first.data, rest[::-1], atol=1e-3)


@pytest.mark.parametrize('motion', OUTPUTS)
def test_a_simulation_that_is_reset_makes_no_step(motion: str) -> None:
    """A motion of before it must not be asked where the joints were at an earlier time."""
    rig = Rig(motion)
    rig.clock.advance(100.0)
    rig.ticks_at_s = rig.now_s
    rig.clock.is_simulated = True
    rig.acts(LINE)
    rig.passes(3.0)
    rig.clock.jump(-50.0)
    rig.output.forget_stamps()
    rig.output.hold()
    silent = len(rig.sent)
    rig.clock.advance(0.1)
    rig.tell()
    rig.output.publish(admitted_joints(rig.clock.now(), LINE[-1:]))
    rig.node.timer()
    message = rig.sent[silent]
    told = message.data if motion == 'forward' else message.points[0].positions
    np.testing.assert_allclose(told, LINE[-1], atol=1e-6)


@pytest.mark.parametrize('motion', OUTPUTS)
def test_a_contract_with_other_grippers_has_other_topics(motion: str) -> None:
    """A hand that is no longer the only one leaves the topic gripper, and the other way round."""
    rig = Rig(motion)
    two = replace(CONTRACT, joints=('turn', 'hand', 'thumb'), grippers=('hand', 'thumb'), limits=())
    heard = []
    for contract in (CONTRACT, two, CONTRACT):
        rig.output.adjust(replace(rig.setup, contracts={KEY: contract}))
        for one in rig.node.publishers.values():
            one.sent.clear()
        rig.acts([[0.0, 1.0, 1.0]])
        rig.passes(1.0)
        heard.append(
            sorted(
                topic
                for topic, one in rig.node.publishers.items()
                if one.sent and topic in ('gripper', 'hand', 'thumb')
            )
        )
    assert heard == [['gripper'], ['hand', 'thumb'], ['gripper']]
