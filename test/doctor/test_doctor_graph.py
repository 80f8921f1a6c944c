# SPDX-License-Identifier: Apache-2.0
"""What vla_doctor says of cameras, instructions and a node that runs, heard on a real ROS graph."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Int32, String

from support.doctor_setups import assert_sound, checked, show
from support.graph import Robot, image_message, noise, robot, running_node
from vla_ros.doctor import graph as doctor_graph
from vla_ros.doctor.camera import Heard, HeardImage, Offer, judge_camera
from vla_ros.doctor.checkpoint import check_unnorm_key
from vla_ros.doctor.contract import check_contract
from vla_ros.doctor.facts import Setup
from vla_ros.doctor.findings import Finding, Level, fail, ok, warn
from vla_ros.doctor.graph import check_graph
from vla_ros.doctor.rate import check_rate
from vla_ros.msg import VlaAction
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import State


@pytest.fixture(scope='module', autouse=True)
def known_at_once() -> Iterator[None]:
    """Whoever is in this process is found at once: there is nobody else to wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor_graph, '_DISCOVERY_S', 1.0)
        yield


@pytest.fixture(scope='module')
def listened() -> dict[str, list[Finding]]:
    """What the doctor says of each camera, all of which it hears at once."""
    cameras: dict[str, dict[str, Any]] = {
        'slow': {'rate_hz': 2.0},
        'future': {'rate_hz': 20.0, 'ahead_s': 5.0},
        'late': {'rate_hz': 20.0, 'ahead_s': -5.0},
        'frozen': {'rate_hz': 20.0, 'make': image_message},
        'depth': {'rate_hz': 20.0, 'make': lambda: noise(encoding='16UC1')},
        'compressed': {'rate_hz': 20.0, 'make': CompressedImage},
        'best_effort': {'rate_hz': 20.0, 'reliable': False},
        'two': {'rate_hz': 20.0},
    }
    with robot('/doctor') as stack:
        for topic, camera in cameras.items():
            show(stack, topic, **camera)
        show(stack, 'two', 20.0)
        stack.create_publisher(Int32, 'two/instruction', 1)
        setup = Setup(
            'scripted',
            {'robots': f'[{", ".join(cameras)}]'},
            cameras=tuple(cameras),
            ros_arguments=('-r', '__ns:=/doctor'),
            seconds=1.6,
        )
        told = list(check_graph(checked(setup)))
    return {
        topic: [one for one in told if one.text.startswith(f'/doctor/{topic}')] for topic in cameras
    }


CAMERAS: dict[str, tuple[Level, str, str]] = {
    'slow': (
        Level.WARN,
        r'/doctor/slow: [12]\.\d images a second: they are 0\.\d+ s apart, max_image_age_s is '
        r'0\.5, so some will be stale when the policy is free',
        r"raise the camera's rate, or max_image_age_s",
    ),
    'future': (
        Level.FAIL,
        r"/doctor/future: \d+ of \d+ images are not usable: future: the image's stamp is "
        r"[45]\.\d\d s ahead of this machine's clock, 0\.1 s are allowed",
        r"synchronise the camera's clock",
    ),
    'late': (
        Level.FAIL,
        r'/doctor/late: 64x48 rgb8, 5\S* s old on arrival; max_image_age_s is 0\.5',
        r'synchronise the clocks, find the cause of the delay, or raise max_image_age_s',
    ),
    'frozen': (
        Level.WARN,
        r'/doctor/frozen: 64x48 rgb8, \S+ s old on arrival; not one pixel changed in 1\.6 s',
        r'check that the camera is not frozen; .* set frozen_image_timeout_s to 0\.0',
    ),
    'depth': (
        Level.FAIL,
        r"/doctor/depth: (\d+) of \1 images are not usable: image encoding '16UC1' looks like a "
        r'depth image .*',
        r"remap the image topic to the camera's colour image",
    ),
    'compressed': (
        Level.FAIL,
        r'/doctor/compressed: it carries sensor_msgs/msg/CompressedImage, the node expects '
        r'sensor_msgs/msg/Image',
        r'set image_transport to compressed, or name its topic: --image TOPIC; topics of .*',
    ),
    'two': (
        Level.WARN,
        r'/doctor/two: images of 2 publishers mix: /doctor/robot .*',
        r'stop all but one, or remap them',
    ),
    'two/instruction': (
        Level.FAIL,
        r'/doctor/two/instruction: it carries std_msgs/msg/Int32, the node expects '
        r'std_msgs/msg/String',
        r'publish that type, or remap one of the two',
    ),
}


@pytest.mark.parametrize('topic', CAMERAS)
def test_a_topic_that_is_not_as_it_should_be(
    listened: dict[str, list[Finding]], topic: str
) -> None:
    level, text, advice = CAMERAS[topic]
    told = listened[topic.partition('/')[0]]
    found = [one for one in told if one.level is level and re.fullmatch(text, one.text)]
    assert len(found) == 1, told
    assert re.fullmatch(advice, found[0].advice), found
    # One fault is one finding, but two cameras on one topic may also cross, or seem fast.
    assert topic.startswith('two') or sum(one.level is not Level.OK for one in told) == 1, told


def test_a_best_effort_camera_is_heard_by_auto(listened: dict[str, list[Finding]]) -> None:
    assert_sound(listened['best_effort'])
    assert listened['best_effort'][0].text == (
        '/doctor/best_effort: published by /doctor/robot (best effort, volatile); the node listens '
        'best effort'
    )


def test_a_sound_camera() -> None:
    setup = Setup('scripted', ros_arguments=('-r', '__ns:=/sound'), seconds=0.5)
    facts = checked(setup)
    with robot('/sound') as stack:
        stack.create_timer(1 / 30, lambda: stack.see(noise()))
        told = list(check_graph(facts))
    assert_sound(told)
    expected = [
        r'/sound/image: published by /sound/robot \(reliable, .*\); the node listens reliable',
        r'/sound/image: \d+\.\d images a second',
        r'/sound/image: 64x48 rgb8, \S+ s old on arrival',
        r'/sound/instruction: one publisher of instructions',
    ]
    for text, one in zip(expected, told, strict=True):
        assert re.fullmatch(text, one.text), one
    assert facts.image_bytes == 48 * 64 * 3
    assert facts.image_age_s is not None and 0 <= facts.image_age_s < 0.5


def test_nobody_publishes() -> None:
    setup = Setup(
        'scripted',
        cameras=('camara', 'second'),
        ros_arguments=('-r', '__ns:=/quiet'),
        seconds=0.1,
    )
    with robot('/quiet') as stack:
        show(stack, 'camera/color', 20.0)
        told = list(check_graph(checked(setup)))
    counted, found = told[:2]
    assert counted == fail(
        '2 camera topics, and 1 in robots', 'name one for each, in their order: --image TOPIC,TOPIC'
    )
    assert found.level is Level.FAIL
    assert found.text == '/quiet/camara: no publisher'
    start, _, there = found.advice.rpartition(': ')
    assert start == ('start the camera, or name its topic: --image TOPIC; topics of that type')
    # Whatever else is on this network; but no topic to which one only listens.
    assert {'/quiet/camera/color', '/quiet/image'} <= set(there.split(', '))
    assert '/quiet/second' not in there


def test_the_advice_for_a_compressed_topic_works() -> None:
    """The doctor names the topic as it is, and takes it as it is named."""
    told = {}
    with robot('/zipped') as stack:
        show(stack, 'cam/compressed', 20.0, make=CompressedImage)
        for transport, topic in (
            ('raw', 'cam'),
            ('raw', 'cam/compressed'),
            ('compressed', 'cam'),
            ('compressed', 'cam/compressed'),
        ):
            setup = Setup(
                'scripted',
                {'image_transport': transport},
                cameras=(topic,),
                ros_arguments=('-r', '__ns:=/zipped'),
                seconds=0.3,
            )
            told[transport, topic] = next(check_graph(checked(setup)))
    advice = {key: one.advice.partition(', or ')[::2] for key, one in told.items()}
    assert told['raw', 'cam'].text == '/zipped/cam: no publisher'
    assert advice['raw', 'cam'][1].startswith('set image_transport to compressed')
    assert 'it carries sensor_msgs/msg/CompressedImage' in told['raw', 'cam/compressed'].text
    assert advice['raw', 'cam/compressed'][0] == 'set image_transport to compressed'
    for topic in ('cam', 'cam/compressed'):
        assert told['compressed', topic].text.startswith('/zipped/cam/compressed: published by')


def test_no_simulated_time() -> None:
    setup = Setup(
        'scripted',
        {'use_sim_time': 'true'},
        cameras=('nowhere',),
        ros_arguments=('-r', '__ns:=/timeless'),
        seconds=0.1,
    )
    found = next(iter(check_graph(checked(setup))))
    assert found.level is Level.FAIL
    assert found.text == 'no simulated time: use_sim_time is true, and nothing publishes /clock'
    assert found.advice.startswith('start the simulation, play the recording with --clock')


def test_the_likely_cause_of_an_image_s_age() -> None:
    pictures = [HeardImage(0.1 * n, 1e6, 100, '', None, True, 'of a recording') for n in range(9)]
    found = list(judge_camera(replace(heard(10.0, 9), images=pictures), Parameters()))[-1]
    assert found.level is Level.FAIL and found.advice == 'of a recording'


def test_a_best_effort_camera_that_a_reliable_node_does_not_hear() -> None:
    setup = Setup(
        'scripted',
        {'image_reliability': 'reliable'},
        ros_arguments=('-r', '__ns:=/deaf'),
        seconds=0.5,
    )
    with robot('/deaf', reliable=False) as stack:
        stack.create_timer(0.05, lambda: stack.see(noise()))
        told = list(check_graph(checked(setup)))
    assert [one for one in told if one.level is not Level.OK] == [
        fail(
            '/deaf/image: /deaf/robot (best effort, volatile) is not heard by a node that listens '
            'reliable',
            'set image_reliability to auto',
        )
    ]


def heard(rate_hz: float, count: int, byte_count: int = 100, age_s: float = 0.01) -> Heard:
    offer = Offer('/camera', 'sensor_msgs/msg/Image', 'reliable', 'volatile', 1)
    pictures = [
        HeardImage(number / rate_hz, age_s, byte_count, '640x480 rgb8', '', True)
        for number in range(count)
    ]
    return Heard('/image', 'sensor_msgs/msg/Image', [offer], 'reliable', [], pictures, 3.0)


def test_a_camera_slower_than_the_data_set() -> None:
    assert list(judge_camera(heard(5.0, 15, 921_600), Parameters(), rate_hz=15.0))[1] == warn(
        '/image: 5.0 images a second, for a policy trained at 15 Hz',
        "raise the camera's rate; if it sends more, start it with config/fastdds.xml "
        '(docs/install.md)',
    )
    assert_sound(judge_camera(heard(5.0, 15), Parameters(), rate_hz=5.0))


def test_a_camera_whose_clock_is_ahead() -> None:
    assert list(judge_camera(heard(5.0, 15, age_s=-0.094), Parameters()))[-1] == warn(
        '/image: 640x480 rgb8, stamped 0.094 s ahead of this clock; more than 0.1 s are rejected',
        "synchronise the camera's clock with this machine's",
    )


def test_a_camera_that_says_next_to_nothing() -> None:
    assert list(judge_camera(heard(5.0, 1), Parameters()))[1] == warn(
        '/image: 1 image arrived in 3 s',
        'let the camera send more, or listen for longer: --seconds',
    )
    found = list(judge_camera(heard(5.0, 0), Parameters()))[-1]
    assert found.level is Level.FAIL
    assert found.text == '/image: no image arrived in 3 s'
    assert found.advice.startswith('check that the camera streams')


def test_the_node_that_runs_is_asked_what_an_action_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor_graph, '_DISCOVERY_S', 10.0)  # it is heard before
    with running_node('model:=scripted:slow=0.3') as running:
        stack = running.robot
        stack.wait_for_state(State.HOLDING)
        stack.say('go')
        stack.create_timer(0.05, lambda: stack.see(noise()))
        stack.wait_for(lambda: stack.status.latencies.inference.p50_s > 0)
        facts = checked(
            Setup(
                'scripted:slow=0.3',
                {'unnorm_key': 'bridge_orig'},
                ros_arguments=('-r', f'__ns:={stack.get_namespace()}'),
                seconds=0.1,
            )
        )
        list(check_unnorm_key(facts))
        list(check_contract(facts))
        told = list(check_graph(facts))
    assert ok('the node runs: RUNNING') in told
    (found,) = check_rate(facts)
    assert found.level is Level.WARN
    assert re.fullmatch(
        r'3\.\d Hz: an action takes 0\.3\d* s here \(latencies\.inference\.p50_s of the node '
        r'that runs\) on a policy trained at 5 Hz',
        found.text,
    ), found


_numbers = itertools.count()
TWIST = {'motion': 'twist', 'frame_id': 'base'}


def rivals(
    make: Callable[[Robot], object], *arguments: str, name: str = 'vla', **parameters: str
) -> tuple[list[Finding], str]:
    """What the doctor says beside OK where somebody is in the graph already; and the namespace.

    :param make: returns the nodes that it made, if any.
    :param name: of the node that will run.
    """
    namespace = f'/rivals_{next(_numbers)}'
    ros_arguments = ('-r', f'__ns:={namespace}', *arguments)
    setup = Setup('scripted', parameters, node=f'{namespace}/{name}', ros_arguments=ros_arguments)
    with robot(namespace) as stack:
        stack.create_timer(1 / 30, lambda: stack.see(noise()))
        made = make(stack)
        told = list(check_graph(checked(setup)))
        for node in made if isinstance(made, list) else []:
            node.destroy_node()
    return [one for one in told if one.level is not Level.OK], namespace


def nodes(*names: str) -> Callable[[Robot], list[Node]]:
    """Makes nodes of these names beside the robot, each of which publishes actions."""

    def make(stack: Robot) -> list[Node]:
        made = [
            Node(name, context=stack.context, namespace=stack.get_namespace()) for name in names
        ]
        for node in made:
            node.create_publisher(VlaAction, 'action', 1)
        return made

    return make


def test_the_node_itself_is_no_rival() -> None:
    assert rivals(nodes('vla'))[0] == []
    assert rivals(nodes('policy'), '-r', '__node:=policy', name='policy')[0] == []


@pytest.mark.parametrize('name', ['vla', 'policy'])
def test_two_nodes_of_the_node_s_name(name: str) -> None:
    told, namespace = rivals(nodes(name, name), '-r', f'__node:={name}', name=name)
    assert told == [
        fail(
            f'2 nodes have the name {namespace}/{name}: a stop may reach the wrong one, so none of '
            'them acts',
            'end all but one, or start each in a namespace of its own; one that was killed is gone '
            'within 20 s',
        )
    ]


@pytest.mark.parametrize(
    ('topic', 'kind', 'arguments', 'parameters', 'found'),
    [
        ('action', VlaAction, (), {}, True),
        ('twist', TwistStamped, (), TWIST, True),
        ('target_pose', PoseStamped, (), {**TWIST, 'motion': 'pose'}, True),
        ('moves', TwistStamped, ('-r', 'twist:=moves'), TWIST, True),
        ('a/action', VlaAction, (), {'robots': '[a]'}, True),
        ('twist', TwistStamped, (), {}, False),  # the node sends no twist
        ('twist', TwistStamped, ('-r', 'twist:=moves'), TWIST, False),
    ],
)
def test_another_publisher_of_what_moves_the_robot(
    topic: str, kind: type, arguments: tuple[str, ...], parameters: dict[str, str], found: bool
) -> None:
    told, namespace = rivals(
        lambda stack: stack.create_publisher(kind, topic, 1), *arguments, **parameters
    )
    expected = fail(
        f'{namespace}/{topic}: {namespace}/robot publishes there, and the node will hold',
        'end that, or have both publish topics of their own to a multiplexer (docs/motion.md)',
    )
    assert [one for one in told if 'will hold' in one.text] == ([expected] if found else [])


def test_instructions_that_are_latched() -> None:
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

    def make(stack: Robot) -> None:
        stack.destroy_publisher(stack.instructions)
        stack.create_publisher(String, 'instruction', latched)

    told, namespace = rivals(make)
    assert told == [
        warn(
            f'{namespace}/instruction: {namespace}/robot is transient local (latched), and a node '
            'that starts does not obey earlier instructions',
            'publish the instruction again once the node is up',
        )
    ]


def test_two_who_instruct() -> None:
    told, namespace = rivals(lambda stack: stack.create_publisher(String, 'instruction', 1))
    assert told == [
        warn(
            f'{namespace}/instruction: 2 publishers instruct the robot: {namespace}/robot, '
            f'{namespace}/robot; the last word counts, and each change starts the policy over',
            'let only one of them instruct, and end the others',
        )
    ]
