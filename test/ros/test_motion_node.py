# SPDX-License-Identifier: Apache-2.0
"""Motion through the real node: what a servo hears, and when it hears nothing any more."""

from __future__ import annotations

import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from numpy.typing import NDArray
from PIL import Image as PilImage
from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool, Trigger

from support.commands import running_python
from support.graph import MACHINE_SLACK_S, CameraThread, Robot, Running, robot, running_node
from support.servo import (
    COMMAND_TIMEOUT_S,
    HORIZON_S,
    PATIENT,
    PERIOD_S,
    RAMPS_S,
    RATE_HZ,
    Servo,
    moving_node,
    seconds,
    written,
)
from vla_ros.console import END_SIGNALS
from vla_ros.motion import Motion, load_contracts
from vla_ros.msg import VlaAction
from vla_ros.parameters.check import motion_limits
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Reason, State

# The system's clock, which stamps, is slewed against the monotonic one, which ends the motion.
CLOCKS_S = 2e-3
ENDING_S = 0.2  # so many commands at the rate are zero before the silence


@pytest.fixture(scope='module')
def contracts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp('contracts'))


@pytest.fixture(scope='module')
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Motions that do not end by themselves while a test looks."""
    return written(tmp_path_factory.mktemp('lasting'), period_s=10.0)


def silent(servo: Servo, for_s: float = 0.3) -> bool:
    """Whether nothing is heard any more, sooner or later."""
    for _ in range(100):
        heard = len(servo.heard)
        time.sleep(for_s)
        if len(servo.heard) == heard:
            return True
    return False


def expected_twists(contracts: Path, action: VlaAction, stamps_s: NDArray) -> NDArray:
    """The twists [N, 6] of an action at these moments, whenever the node's timer ticks."""
    limits = motion_limits(Parameters(motion='twist', control_rate_hz=RATE_HZ))
    motion = Motion(load_contracts(contracts), limits, 'scripted')
    start_s = seconds(action.header.stamp)
    rows = np.reshape(action.actions, (action.horizon, -1))
    period_s = seconds(action.period)
    motion.execute(rows, 'scripted', start_s, seconds(action.valid_until), period_s=period_s)
    return np.array([motion.twist(stamp_s) for stamp_s in stamps_s])


def is_over(servo: Servo, action: VlaAction) -> bool:
    """Whether zero was the last that a servo heard, within the action's horizon."""
    ends_s = seconds(action.header.stamp) + HORIZON_S
    moving_s = [stamp_s for stamp_s, twist in servo.heard if twist.any()]
    return not servo.moves and max(moving_s) <= ends_s + CLOCKS_S


def test_a_slow_policy_is_a_smooth_motion_in_each_horizon_and_zero_after_it(
    contracts: Path,
) -> None:
    with moving_node(contracts, 'model:=scripted:slow=1.0', *PATIENT) as (running, servo):
        stack = running.robot
        with CameraThread(stack):
            stack.say('go')
            stack.wait_for(lambda: len(stack.actions) >= 4)
        actions = stack.actions[:4]
        stack.say('')
        stack.wait_for(lambda: not servo.moves)
    assert servo.frames == {'arm_base'}
    print(f'{servo.late} of {len(servo.heard)} twists were sent late')
    assert set(servo.grippers) <= {0.0, 1.0}
    assert len(servo.grippers) >= 3  # the last action is stopped, perhaps before its ramp
    for action, following in itertools.pairwise(actions):
        start_s, next_s = seconds(action.header.stamp), seconds(following.header.stamp)
        assert next_s - start_s > HORIZON_S
        stamps_s, twists = servo.within(start_s, start_s + HORIZON_S)
        longest_s = np.diff([start_s, *stamps_s]).max()
        print(f'longest pause {longest_s:.3f} s; a servo stops after {COMMAND_TIMEOUT_S} s')
        top = np.linalg.norm(np.array(action.action[:3])) / PERIOD_S
        slope = top / (RAMPS_S / 2)
        expected = expected_twists(contracts, action, stamps_s)
        assert np.abs(twists - expected).max() <= slope * CLOCKS_S
        assert np.linalg.norm(expected[:, :3], axis=1).max() <= top * (1 + 1e-9)
        _, rest = servo.within(start_s + HORIZON_S + CLOCKS_S, next_s - 1e-6)
        assert not rest.any()
        assert 0 < len(rest) <= ENDING_S * RATE_HZ  # and then silence
    assert running.process.returncode == 0


def test_a_chunk_leads_an_arm_to_its_end_and_stays_there(contracts: Path) -> None:
    model = 'model:=scripted:chunk=4,period=0.3,slow=0.1,stuck@2'
    options = ('motion:=pose', 'frame_id:=arm_base', f'contracts:={contracts}', model, *PATIENT)
    # However slow this machine is: the poses are old, and the arm is at once where it is led.
    with running_node(*options, 'max_pose_age_s:=5.0', 'max_lead_m:=5.0') as running:
        stack, targets = running.robot, [PoseStamped()]
        targets[0].pose.orientation.w = 1.0
        stack.create_subscription(PoseStamped, 'target_pose', targets.append, 1000)
        poses = stack.create_publisher(PoseStamped, 'ee_pose', 10)

        def tell() -> None:
            message = PoseStamped(pose=targets[-1].pose)
            message.header.stamp = stack.get_clock().now().to_msg()
            message.header.frame_id = 'arm_base'
            poses.publish(message)

        stack.create_timer(0.02, tell)
        stack.wait_for_state(State.HOLDING)
        stack.wait_until_heard()
        stack.wait_for(lambda: stack.status.counters.poses_received > 10)
        with CameraThread(stack):
            stack.say('go')
            stack.wait_for(lambda: stack.actions and len(targets) > 30)
            stack.wait_for(lambda: stack.status.state == State.HOLDING)
            stack.wait_for(lambda: len(targets) > 2 and targets[-1].pose == targets[-9].pose)
            status = stack.status
    (action,) = stack.actions
    assert {one.header.frame_id for one in targets[1:]} == {'arm_base'}
    point = targets[-1].pose.position
    moved = np.reshape(action.actions, (4, 7))[:, :3].sum(axis=0)
    clipped = status.counters.clipped_linear or status.counters.clipped_angular
    assert clipped or np.array([point.x, point.y, point.z]) == pytest.approx(moved, abs=1e-6)
    assert running.process.returncode == 0


def test_a_chunk_is_one_smooth_motion_of_all_its_rows(contracts: Path) -> None:
    model = 'model:=scripted:chunk=4,period=0.3,slow=0.1,stuck@2'
    with moving_node(contracts, model, *PATIENT) as (running, servo):
        stack = running.robot
        with CameraThread(stack):
            stack.say('go')
            stack.wait_for(lambda: stack.actions and servo.moves)
            stack.wait_for(lambda: not servo.moves)
            status = stack.status
    (action,) = stack.actions
    assert (action.horizon, action.period.nanosec) == (4, 300_000_000)
    start_s, rows = seconds(action.header.stamp), np.reshape(action.actions, (4, 7))
    ends_s = start_s + 4 * 0.3 + RAMPS_S
    stamps_s, twists = servo.within(start_s, math.inf)
    steepest = 2 * np.abs(rows[:, :6]).max() / 0.3 / (RAMPS_S / 2)
    expected = expected_twists(contracts, action, stamps_s)
    assert np.abs(twists - expected).max() <= steepest * CLOCKS_S
    moving_s = stamps_s[twists.any(axis=1)]
    print(f'longest pause {np.diff(moving_s).max():.3f} s')
    assert ends_s - RAMPS_S < moving_s.max() <= ends_s + CLOCKS_S
    assert servo.grippers == (rows[:, 6] > 0.5).tolist()
    assert (status.counters.motions, status.counters.clipped_linear) == (1, 0)


def test_an_inference_that_stalls_ends_the_motion_in_time(contracts: Path) -> None:
    model = 'model:=scripted:slow=0.1,stuck@4'
    with moving_node(contracts, model, *PATIENT) as (running, servo):
        stack = running.robot
        with CameraThread(stack):
            stack.say('go')
            stack.wait_for(lambda: len(stack.actions) == 3 and servo.moves)
            time.sleep(HORIZON_S + MACHINE_SLACK_S)  # the inference is under way all the time
            assert stack.status.state == State.RUNNING
            assert is_over(servo, stack.actions[-1])
            assert silent(servo)
    assert len(stack.actions) == 3


def test_a_camera_that_is_killed_ends_the_motion_in_time(contracts: Path, tmp_path: Path) -> None:
    picture = tmp_path / 'picture.png'
    PilImage.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(
        picture
    )
    limits = ('frozen_image_timeout_s:=0.0', 'image_timeout_s:=60.0')
    with moving_node(contracts, 'model:=scripted:slow=0.1', *limits) as (running, servo):
        stack = running.robot
        stack.say('go')
        command = ['-m', 'vla_ros.cli.camera', str(picture), '--ros-args']
        command += ['-r', f'image:={stack.images.topic_name}']
        with running_python(*command) as camera:
            stack.wait_for(lambda: len(stack.actions) > 3 and servo.moves)
            camera.send_signal(signal.SIGKILL)
        time.sleep(HORIZON_S + MACHINE_SLACK_S)
        assert is_over(servo, stack.actions[-1])
        assert silent(servo)


@pytest.mark.parametrize('sent', END_SIGNALS)
def test_the_last_word_of_a_node_that_is_ended_is_zero(lasting: Path, sent: signal.Signals) -> None:
    with moving_node(lasting, 'model:=scripted:slow=0.1', *PATIENT) as (running, servo):
        stack = running.robot
        with CameraThread(stack):
            stack.say('go')
            stack.wait_for(lambda: len(stack.actions) > 2 and servo.moves)
            running.process.send_signal(sent)
            assert running.ends() == 0
        time.sleep(0.1)
        zeros = len(servo.heard) - 1 - max(i for i, (_, t) in enumerate(servo.heard) if t.any())
        assert zeros >= 0.1 * RATE_HZ


@pytest.fixture(scope='module')
def node(lasting: Path) -> Iterator[tuple[Running, Servo]]:
    """One for the tests that leave it able to go on; it acts ten times a second."""
    with moving_node(lasting, 'model:=scripted:slow=0.1', *PATIENT) as (running, servo):
        yield running, servo
    assert running.process.returncode == 0


@pytest.fixture
def moving(node: tuple[Running, Servo]) -> Iterator[tuple[Robot, Servo]]:
    """The camera shows pictures all the time, and at first the robot moves."""
    running, servo = node
    stack = running.robot
    with CameraThread(stack):
        stack.say('go')
        stack.wait_for(lambda: stack.status.state == State.RUNNING and servo.moves)
        yield stack, servo
        assert switch(stack, 'reset')
        assert switch(stack, 'enable', True)
        stack.say('go')
        acted = len(stack.actions)
        stack.wait_for(lambda: len(stack.actions) > acted)
        stack.say('')
        stack.wait_for_state(State.HOLDING, 'no instruction')


def switch(stack: Robot, name: str, on: bool | None = None) -> bool:
    """Whether the service says that it succeeded."""
    if on is None:
        return stack.ask(Trigger, f'vla/{name}', Trigger.Request()).success
    return stack.ask(SetBool, f'vla/{name}', SetBool.Request(data=on)).success


def deactivate(stack: Robot) -> None:
    assert stack.transition(Transition.TRANSITION_DEACTIVATE)


def activate(stack: Robot) -> None:
    assert stack.transition(Transition.TRANSITION_ACTIVATE)


HOLDS: dict[str, tuple[Callable[[Robot], object], Reason]] = {
    'an empty instruction': (lambda stack: stack.say(''), Reason.NO_INSTRUCTION),
    'a bad instruction': (lambda stack: stack.say('</s>'), Reason.INSTRUCTION_REJECTED),
    'stop': (lambda stack: switch(stack, 'stop'), Reason.STOPPED),
    'disable': (lambda stack: switch(stack, 'enable', False), Reason.DISABLED),
}


@pytest.mark.parametrize('kind', HOLDS)
def test_a_hold_is_zero_at_once(moving: tuple[Robot, Servo], kind: str) -> None:
    stack, servo = moving
    act, why = HOLDS[kind]
    stack.wait_for(lambda: np.linalg.norm(servo.heard[-1][1]) > 3e-4)
    with stack.expects_hold(why, within_s=0.0):
        act(stack)
    held_s = next(
        seconds(status.header.stamp) for status in reversed(stack.statuses) if status.reason == why
    )
    assert not servo.within(held_s, math.inf)[1].any()
    last, first = [twist for _, twist in servo.heard if twist.any()][-1], servo.heard[-1][1]
    assert np.linalg.norm(last) > 1e-4 and not first.any()  # no ramp between them
    assert silent(servo)


def test_deactivation_is_zero_at_once(moving: tuple[Robot, Servo]) -> None:
    stack, servo = moving
    deactivate(stack)
    inactive_s = stack.get_clock().now().nanoseconds / 1e9
    stack.wait_for_state(State.READY)
    time.sleep(0.3)
    assert not servo.within(inactive_s, math.inf)[1].any()
    assert silent(servo)
    activate(stack)
    stack.wait_for(lambda: servo.moves)


def test_a_stop_stays_until_it_is_reset_and_then_enabled(moving: tuple[Robot, Servo]) -> None:
    stack, _ = moving
    assert switch(stack, 'stop')
    stack.wait_for_state(State.HOLDING, 'stopped by ~/stop')
    assert not switch(stack, 'enable', True)
    stack.say('another instruction')
    deactivate(stack)
    stack.wait_for_state(State.READY)
    activate(stack)
    idle = stack.status.counters.idle
    stack.wait_for(lambda: stack.status.counters.idle > idle + 3)
    status = stack.wait_for_state(State.HOLDING, 'stopped by ~/stop')
    acted = len(stack.actions)
    assert switch(stack, 'reset')
    stack.wait_for_state(State.HOLDING, 'disabled; ~/enable ends that')
    time.sleep(0.3)
    assert len(stack.actions) == acted
    assert stack.status.counters.published == status.counters.published
    assert switch(stack, 'enable', True)
    stack.wait_for(lambda: len(stack.actions) > acted)


def test_to_enable_what_is_enabled_disturbs_nothing(moving: tuple[Robot, Servo]) -> None:
    stack, servo = moving
    cancelled, heard = stack.status.counters.cancelled, len(servo.heard)
    for _ in range(5):
        assert switch(stack, 'enable', True)
    stack.wait_for(lambda: len(servo.heard) > heard + 10)
    assert stack.status.counters.cancelled == cancelled
    assert all(twist.any() for _, twist in servo.heard[heard:])


def test_a_node_that_starts_disabled_waits_for_a_person(contracts: Path) -> None:
    started = ('model:=scripted', 'enabled:=false', 'instruction:=go')
    with moving_node(contracts, *started) as (running, servo):
        stack = running.robot
        with CameraThread(stack):
            stack.wait_for_state(State.HOLDING, 'disabled')
            stack.wait_for(lambda: stack.status.counters.idle > 5)
            assert not stack.actions
            assert switch(stack, 'enable', True)
            stack.wait_for(lambda: servo.moves)


def test_a_clock_that_stands_still_stands_the_robot_still(lasting: Path) -> None:
    limits = ('use_sim_time:=true', 'image_timeout_s:=60.0', 'frozen_image_timeout_s:=0.0')
    model = 'model:=scripted:slow=0.05'
    with running_node(
        'motion:=twist', 'frame_id:=arm_base', f'contracts:={lasting}', model, *limits
    ) as running:
        stack, servo = running.robot, Servo(running.robot)
        clock = stack.create_publisher(Clock, '/clock', 10)
        now_s = 1000.0

        def advance() -> None:
            nonlocal now_s
            now_s += 0.02
            message = Clock()
            message.clock.sec, message.clock.nanosec = int(now_s), round(now_s % 1 * 1e9)
            clock.publish(message)
            time.sleep(0.02)

        def moves() -> bool:
            advance()
            stack.see(stamp_ns=round(now_s * 1e9) - 10_000_000)
            return servo.moves

        stack.wait_for(lambda: advance() or stack.status.state == State.HOLDING)
        stack.wait_until_heard()
        stack.say('go')
        stack.wait_for(moves)
        stack.wait_for(lambda: not servo.moves)
        time.sleep(0.3)
        assert silent(servo)
        assert stack.status.state == State.RUNNING
        stack.wait_for(moves)


def test_a_reset_drops_what_is_under_way_and_goes_on(moving: tuple[Robot, Servo]) -> None:
    stack, _ = moving
    cancelled = stack.status.counters.cancelled
    ends_s = time.monotonic() + 60.0
    while stack.status.counters.cancelled == cancelled:  # one between two inferences cancels none
        assert time.monotonic() < ends_s
        assert switch(stack, 'reset')
        time.sleep(0.1)
    acted = len(stack.actions)
    stack.wait_for(lambda: len(stack.actions) > acted)
    stack.wait_for_state(State.RUNNING)


def test_what_moved_is_counted(moving: tuple[Robot, Servo]) -> None:
    stack, _ = moving
    stack.say('')
    status = stack.wait_for_state(State.HOLDING, 'no instruction')
    assert status.motion.mode == 'twist'
    assert status.motion.message == ''
    assert status.counters.motions == status.counters.published > 0
    assert (
        status.counters.motions_refused
        == status.counters.clipped_linear
        == status.counters.clipped_angular
        == 0
    )


def test_without_a_contract_there_are_actions_and_no_motion() -> None:
    parameters = ('motion:=twist', 'frame_id:=arm_base', 'model:=scripted:slow=0.1')
    with running_node(*parameters, 'unnorm_key:=nowhere') as running:
        stack, servo = running.robot, Servo(running.robot)
        status = stack.wait_for_state(State.HOLDING)
        assert "no action contract for unnorm_key 'nowhere'" in status.motion.message
        stack.wait_until_heard()
        with CameraThread(stack):
            stack.say('go')
            stack.wait_for(lambda: len(stack.actions) > 3)
            stack.say('')
            stack.wait_for_state(State.HOLDING, 'no instruction')
        time.sleep(0.3)
        assert servo.heard == [] and servo.grippers == []
        status = stack.status
        assert status.counters.motions == 0
        assert status.counters.motions_refused == status.counters.published > 0


@pytest.mark.parametrize(
    ('parameters', 'why'),
    [
        (['motion:=twist'], "parameter motion is twist, and frame_id is ''"),
        (['frame_id:=a, b'], "parameter frame_id is 'a, b', 2 frames; allowed: one, or 1,"),
        (['contracts:=/nowhere.yaml'], '/nowhere.yaml'),
    ],
)
def test_a_motion_that_can_not_be_is_an_error(parameters: list[str], why: str) -> None:
    with running_node('model:=scripted', *parameters) as running:
        running.robot.wait_for_state(State.ERROR, why)


def test_robots_are_stopped_one_by_one_or_all_at_once(lasting: Path) -> None:
    parameters = ('robots:=[a, b]', 'model:=scripted:slow=0.1', 'motion:=twist')
    frames = ('frame_id:=a_base, b_base', f'contracts:={lasting}')
    with running_node(*parameters, *frames) as running:
        namespace = running.robot.get_namespace()
        with robot(f'{namespace}/a') as a, robot(f'{namespace}/b') as b:
            servos = [Servo(a), Servo(b)]
            for each in (a, b):
                each.wait_for_state(State.HOLDING)
                each.wait_until_heard()
            with CameraThread(a), CameraThread(b):
                a.say('go')
                b.say('go')
                running.robot.wait_for(lambda: all(servo.moves for servo in servos))
                assert [servo.frames for servo in servos] == [{'a_base'}, {'b_base'}]
                assert switch(running.robot, 'a/stop')
                a.wait_for_state(State.HOLDING, 'stopped by ~/a/stop')
                running.robot.wait_for(lambda: not servos[0].moves and servos[1].moves)
                assert not switch(running.robot, 'enable', True)
                assert switch(running.robot, 'stop')
                b.wait_for_state(State.HOLDING, 'stopped by ~/b/stop')
                running.robot.wait_for(lambda: not servos[1].moves)
                assert switch(running.robot, 'reset')
                assert switch(running.robot, 'enable', True)
                running.robot.wait_for(lambda: all(servo.moves for servo in servos))
