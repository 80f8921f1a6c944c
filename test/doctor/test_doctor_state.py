# SPDX-License-Identifier: Apache-2.0
"""What vla_doctor says of several cameras, of the robot's state, and of the action server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionServer
from sensor_msgs.msg import Image, JointState

from support.doctor_setups import assert_sound, prepared, show
from support.graph import noise, robot, running_node
from vla_ros.action import ExecuteInstruction
from vla_ros.doctor import graph as doctor_graph
from vla_ros.doctor import robot_state
from vla_ros.doctor.camera import Offer
from vla_ros.doctor.contract import check_contract
from vla_ros.doctor.facts import Facts, Setup
from vla_ros.doctor.findings import Finding, Level
from vla_ros.doctor.graph import check_graph
from vla_ros.doctor.robot_state import HeardState, Need, Sample, fault_of, judge_state, needs_of
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import State

POSE = Need('ee_pose', 'workspace_m', 'max_pose_age_s', 0.2, 'max_pose_age_s', 0.2, 'base')
WHOLE = Need('state', 'the state', 'sync_tolerance_s', 0.1, 'state_timeout_s', 2.0, length=8)
TYPE = 'geometry_msgs/msg/PoseStamped'
NS = 10**9


def samples(rate_hz: float = 50.0, count: int = 100, **changes: Any) -> list[Sample]:
    first = Sample(5 * NS, 0.01, 'base')
    return [
        replace(first, stamp_ns=first.stamp_ns + round(number * NS / rate_hz), **changes)
        for number in range(count)
    ]


def heard(messages: list[Sample], *types: str) -> HeardState:
    offers = [Offer(f'/driver_{kind}', kind, 'reliable', 'volatile', 1) for kind in types or [TYPE]]
    return HeardState('/ee_pose', offers, ['/tool'], messages, 3.0)


FOUND: dict[str, tuple[HeardState, Level, str, str]] = {
    'nobody publishes it': (
        HeardState('/ee_pose', [], ['/tool'], [], 3.0),
        Level.FAIL,
        '/ee_pose: no publisher, and workspace_m needs it',
        'publish geometry_msgs/msg/PoseStamped there, or remap it (-r ee_pose:=TOPIC); topics of '
        'that type: /tool',
    ),
    'another type': (
        heard([], 'geometry_msgs/msg/Pose'),
        Level.FAIL,
        f'it carries geometry_msgs/msg/Pose, the node expects {TYPE}',
        'publish that type',
    ),
    'silent': (heard([]), Level.FAIL, 'no message arrived in 3 s', 'check that its publisher'),
    'no stamp': (
        heard([Sample(0, 1.0, 'base')] * 9),
        Level.FAIL,
        'its messages have no stamp',
        'let the driver set header.stamp',
    ),
    'equal stamps': (
        heard([Sample(NS, 0.1, 'base')] * 9),
        Level.FAIL,
        'its messages come with equal stamps',
        'let the driver set header.stamp for each',
    ),
    'not usable': (
        heard([*samples(count=9), *samples(count=1, fault='it is not finite')]),
        Level.FAIL,
        '1 of 10 messages are not usable: it is not finite',
        'correct the driver',
    ),
    'another frame': (
        heard(samples(frame='world')),
        Level.FAIL,
        "it is in the frame 'world', and frame_id is 'base'",
        'publish the pose in that frame, correct frame_id, or install tf2_ros',
    ),
    'old': (
        heard(samples(age_s=0.5, cause='of a recording')),
        Level.FAIL,
        'it is 0.5 s old on arrival; max_pose_age_s allows 0.2 s',
        'of a recording',
    ),
    'ahead': (heard(samples(age_s=-3.0)), Level.FAIL, 'it is 3 s in the future', 'synchronise'),
    'seldom': (
        heard(samples(2.0)),
        Level.FAIL,
        '2 a second: too seldom for workspace_m; max_pose_age_s allows 0.2 s between two',
        'publish it more often, or raise max_pose_age_s',
    ),
    'a gap': (
        heard([*samples(count=9), Sample(6 * NS, 0.01, 'base')]),
        Level.WARN,
        '50 a second, once 0.84 s apart; max_pose_age_s allows 0.2 s',
        'publish it more often, or raise max_pose_age_s',
    ),
    'one': (heard(samples(count=1)), Level.WARN, '1 message arrived in 3 s', 'publish it more'),
    'two publishers': (
        heard(samples(), TYPE, TYPE),
        Level.WARN,
        f'messages of 2 publishers mix: /driver_{TYPE}, /driver_{TYPE}',
        'stop all but one',
    ),
    'sound': (heard(samples()), Level.OK, "50 a second, 0.01 s old on arrival, in 'base'", ''),
}


@pytest.mark.parametrize('case', FOUND)
def test_a_topic_of_the_state(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_state, 'has_tf2', lambda: False)
    facts, level, text, advice = FOUND[case]
    found = next(judge_state(facts, POSE))
    assert found.level is level, found
    assert text in found.text and advice in found.advice, found


def test_a_pose_in_another_frame_where_tf2_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_state, 'has_tf2', lambda: True)
    [found] = judge_state(heard(samples(frame='world')), POSE)
    assert found.level is Level.WARN and 'tf2 must know how they lie' in found.text
    mixed = heard([*samples(frame='world'), *samples(frame='base')])
    assert next(judge_state(mixed, POSE)).level is Level.FAIL


def message_of(kind: type, **values: Any) -> Any:
    message = kind()
    for name, value in values.items():
        setattr(message, name, value)
    return message


def test_what_the_node_would_reject() -> None:
    joints = replace(WHOLE, name='joint_states', length=None)
    pose = PoseStamped()
    pose.pose.orientation.w = 0.5
    assert fault_of(POSE, pose) == 'the quaternion has the norm 0.5, which must be 1'
    pose.pose.orientation.w = 1.0
    assert fault_of(POSE, pose) == ''
    pose.pose.position.x = float('nan')
    assert fault_of(POSE, pose) == 'the position is not finite'
    seven = message_of(JointState, position=[0.0] * 7)
    assert fault_of(WHOLE, seven) == 'it has 7 values, and the policy reads 8'
    assert fault_of(joints, seven) == 'it has 0 names and 7 positions'
    nan = message_of(JointState, position=[float('nan')] * 8)
    assert fault_of(WHOLE, nan) == 'a value is not finite'


@pytest.mark.parametrize(
    ('options', 'reasons'),
    [
        ({}, []),
        ({'motion': 'twist', 'chunk_timing': 'timed'}, []),
        ({'motion': 'twist', 'chunk_timing': 'from_pose'}, ['chunk_timing:=from_pose']),
        ({'motion': 'twist', 'workspace_m': '0, 1, 0, 1, 0, 1'}, ['workspace_m']),
        ({'motion': 'pose'}, ['motion:=pose']),
        ({'motion': 'pose', 'tool_frame': 'tool0'}, []),
    ],
)
def test_which_motion_needs_the_pose(options: dict[str, str], reasons: list[str]) -> None:
    parameters = Parameters(frame_id='base', **options)
    needs = needs_of(Facts(Setup()), parameters, 0)
    assert [need.why for need in needs] == reasons
    assert all(need.name == 'ee_pose' and need.frame_id == 'base' for need in needs)


@pytest.fixture(autouse=True)
def known_immediately(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All that is there is in this process."""
    monkeypatch.setattr(doctor_graph, '_DISCOVERY_S', 1.0)
    yield


def pose() -> PoseStamped:
    message = PoseStamped()
    message.header.frame_id, message.pose.orientation.w = 'base', 1.0
    return message


def test_two_cameras_a_state_and_a_pose_on_the_graph() -> None:
    model = 'scripted:cameras=2,state=8'
    motion = {'motion': 'twist', 'frame_id': 'base', 'workspace_m': '0, 1, 0, 1, 0, 1'}
    with robot('/sound') as stack:
        makes: dict[str, Callable[[], Any]] = {
            'camera_1/image': noise,
            'camera_2/image': noise,
            'state': lambda: message_of(JointState, position=[0.0] * 8),
            'ee_pose': pose,
        }
        for topic, make in makes.items():
            show(stack, topic, 50.0, make)
        told = list(check_graph(prepared(model, '/sound', unnorm_key='bridge_orig', **motion)))
    for topic in makes:
        # A busy machine may be late by itself: that is a WARN, about rates and gaps.
        of_it = [one for one in told if one.text.startswith(f'/sound/{topic}: ')]
        assert of_it and not [one for one in of_it if one.level is Level.FAIL], of_it
    assert not [one for one in told if one.text.startswith('/sound/image')]


def test_what_is_missing_of_two_cameras_a_state_and_a_pose() -> None:
    model = 'scripted:cameras=2,state=8'
    with robot('/missing') as stack:
        show(stack, 'camera_1/image', 20.0)
        stack.create_publisher(Image, 'state', 1)
        told = list(check_graph(prepared(model, '/missing', motion='pose', frame_id='base')))
    failed = [one.text for one in told if one.level is Level.FAIL]
    assert failed == [
        '/missing/camera_2/image: no publisher',
        '/missing/state: it carries sensor_msgs/msg/Image, the node expects '
        'sensor_msgs/msg/JointState',
        '/missing/ee_pose: no publisher, and motion:=pose needs it',
    ]


def test_a_contract_without_the_state_that_it_must_tell() -> None:
    facts = prepared('scripted:state=8', '/untold', unnorm_key='bridge_orig', state_from='contract')
    with robot('/untold'):
        told = list(check_graph(facts))
    [found] = [one for one in told if 'state_from is contract' in one.text]
    assert found.level is Level.FAIL and 'set state_from to topic' in found.advice


def about_goals(told: list[Finding]) -> list[Finding]:
    return [one for one in told if '/execute: ' in one.text]


def test_goals() -> None:
    with running_node('model:=scripted') as running:
        stack = running.robot
        stack.wait_for_state(State.HOLDING)
        space = stack.get_namespace()
        assert_sound(about_goals(list(check_graph(prepared('scripted', space)))))
        name = f'{space}/vla/execute'
        second = ActionServer(stack, ExecuteInstruction, name, execute_callback=lambda _: None)
        [found] = about_goals(list(check_graph(prepared('scripted', space))))
        assert found.level is Level.FAIL and 'a goal may reach the wrong one' in found.text
        second.destroy()


def test_goals_without_a_node() -> None:
    with robot('/goals') as stack:
        assert not about_goals(list(check_graph(prepared('scripted', '/goals'))))
        server = ActionServer(
            stack, ExecuteInstruction, '/goals/vla/execute', execute_callback=lambda _: None
        )
        [found] = about_goals(list(check_graph(prepared('scripted', '/goals'))))
        assert found.level is Level.WARN and 'no status of the node is heard' in found.text
        server.destroy()


# -- joints ----------------------------------------------------------------------------------------

JOINT_TYPE = 'sensor_msgs/msg/JointState'
ALOHA = 'aloha1_fold_shorts_20_demos'


def of_aloha(**parameters: Any) -> Facts:
    facts = Facts(Setup(), unnorm_key=ALOHA, parameters=Parameters(**parameters))
    assert list(check_contract(facts))
    return facts


def test_the_names_of_the_joints_are_those_of_the_contract() -> None:
    facts = of_aloha(motion='forward', max_joint_speed_rad_s=1.0)
    [need] = needs_of(facts, facts.parameters or Parameters(), 0)
    assert (need.name, need.limit, len(need.joints)) == ('joint_states', 'max_joint_age_s', 12)
    offers = [Offer(f'/{arm}', JOINT_TYPE, 'reliable', 'volatile', 1) for arm in ('left', 'right')]
    arms = (need.joints[:6], need.joints[6:])
    both = [replace(one, joints=arms[number % 2]) for number, one in enumerate(samples())]
    state = HeardState('/joint_states', offers, [], both, 3.0)
    [sound] = judge_state(state, need)
    assert sound.level is Level.OK
    alike = replace(state, samples=samples(joints=('waist', 'elbow')))
    [found] = judge_state(alike, need)
    assert found.level is Level.FAIL
    assert 'no message names left_waist, left_shoulder' in found.text
    assert found.text.endswith("which motion:=forward needs; there are: 'waist', 'elbow'")


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        (
            {'motion': 'twist'},
            f'motion is twist, and the actions of {ALOHA} are',
        ),
        ({'motion': 'forward'}, 'nothing limits the speed of left_waist, left_shoulder'),
        (
            {
                'motion': 'joint_trajectory',
                'joint_groups': ('left_',),
                'robot_description': 'topic',
            },
            'joint_groups is left_, and the joints are left_waist',
        ),
        ({'motion': 'forward', 'robot_description': 'topic'}, ''),
        ({'motion': 'none'}, ''),
    ],
)
def test_what_keeps_joints_from_moving(parameters: dict[str, Any], words: str) -> None:
    facts = Facts(Setup(), unnorm_key=ALOHA, parameters=Parameters(**parameters))
    failed = [one.text for one in check_contract(facts) if one.level is Level.FAIL]
    assert len(failed) == bool(words)
    assert all(words in text for text in failed)


def test_displacements_need_another_motion() -> None:
    facts = Facts(Setup(), unnorm_key='bridge_orig', parameters=Parameters(motion='forward'))
    [failed] = [one for one in check_contract(facts) if one.level is Level.FAIL]
    assert failed.advice == 'set motion to twist or pose, or to none, and use the topic action'
