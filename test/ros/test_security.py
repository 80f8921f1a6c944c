# SPDX-License-Identifier: Apache-2.0
"""The SROS 2 policy allows what node and console do on the ROS graph, and nothing more."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from xml.etree import ElementTree

import aiohttp
import pytest
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image, JointState

from support.doctor_setups import prepared, show
from support.graph import Robot, running_node
from support.graph import robot as robot_of_test
from support.pages import Page
from support.places import ROOT
from vla_ros.doctor.findings import Finding, Level
from vla_ros.doctor.graph import check_graph
from vla_ros.graph.qos import latched
from vla_ros.msg import VlaStatus
from vla_ros.operating.run import operating
from vla_ros.reasons import State
from vla_ros.web.access import Access
from vla_ros.web.server import Address

Rights = dict[str, set[str]]

JOINTS = {'joint_commands', 'joint_trajectory'}
# The ways to start the node in which it sends or hears different topics; of all that it may send
# and hear, what it does not.
STARTS: tuple[tuple[tuple[str, ...], set[str], set[str]], ...] = (
    (
        (
            'model:=scripted:state=2',
            'image_transport:=raw',
            'use_sim_time:=false',
            'motion:=pose',
            'frame_id:=arm_base',
        ),
        {'twist', *JOINTS},
        {'image/compressed', '/clock', 'joint_states', 'robot_description'},
    ),
    (
        (
            'model:=scripted:state=8',
            'unnorm_key:=libero_spatial',  # whose contract has a state
            'image_transport:=compressed',
            'use_sim_time:=true',
            'motion:=twist',
            'frame_id:=arm_base',
            'chunk_timing:=from_pose',
        ),
        {'target_pose', *JOINTS},
        {'image', 'state', 'robot_description'},
    ),
    *(
        (
            ('model:=scripted:action_dim=14', f'motion:={motion}', 'robot_description:=topic'),
            {'twist', 'target_pose', 'gripper', *(JOINTS - {topic})},
            {'image/compressed', '/clock', 'state', 'ee_pose'},
        )
        for motion, topic in (
            ('forward', 'joint_commands'),
            ('joint_trajectory', 'joint_trajectory'),
        )
    ),
)
# Topics of packages that the tests do not need.
WITH_NAV2 = {'bond'}
WITH_TF2 = {'/tf', '/tf_static'}
OK = Finding(Level.OK, '')
HUMBLE = os.environ.get('ROS_DISTRO') == 'humble'
SINCE_JAZZY = {'~/get_type_description'}  # services that Humble's nodes do not have


def allowed(node: str = 'vla', enclave: str = '/vla') -> Rights:
    """What the policy file allows a node, by kind."""
    policy = ElementTree.parse(ROOT / 'config' / 'sros2_policy.xml').getroot()
    assert policy.attrib == {'version': '0.2.0'}
    profiles = {
        (one.attrib['path'], profile.attrib['ns'], profile.attrib['node']): profile
        for one in policy.findall('enclaves/enclave')
        for profile in one.findall('profiles/profile')
    }
    of_console = {('/vla_console', '/', name) for name in ('vla_console', 'vla_doctor')}
    assert profiles.keys() == {('/vla', '/', 'vla')} | of_console
    rights: Rights = {}
    profile = profiles[(enclave, '/', node)]
    for rules in profile:
        [(kind, verdict)] = rules.attrib.items()
        assert verdict == 'ALLOW'
        names = [rule.text for rule in rules]
        assert len(names) == len(set(names)), names
        assert kind not in rights
        rights[kind] = set(names)
    return rights


def exercised(robot: Robot, node: str = 'vla', at: str | None = None) -> Rights:
    """What a node does now, with the names that it has beside a robot in the namespace /.

    :param at: its namespace; None: the robot's.
    """
    namespace = robot.get_namespace()
    of = (node, namespace if at is None else at)
    own, near = f'{of[1].rstrip("/")}/{node}/', f'{namespace}/'

    def names(found: list[tuple[str, list[str]]]) -> set[str]:
        return {name.replace(own, '~/').removeprefix(near) for name, _ in found}

    rights = {
        'publish': names(robot.get_publisher_names_and_types_by_node(*of)),
        'subscribe': names(robot.get_subscriber_names_and_types_by_node(*of)),
        'reply': names(robot.get_service_names_and_types_by_node(*of)),
        'request': names(robot.get_client_names_and_types_by_node(*of)),
    }
    # An action server is topics and services below its name.
    of_actions = {name for found in rights.values() for name in found if '/_action/' in name}
    rights = {kind: found - of_actions for kind, found in rights.items()}
    return rights | {'execute': {name.partition('/_action/')[0] for name in of_actions}}


def graph_tells(robot: Robot, expected: set[str], kind: str) -> bool:
    """Of all that is expected; it may tell of some later than of others."""
    return exercised(robot)[kind] >= expected


def seen_doing(robot: Robot, node: str, at: str, expected: Rights) -> Rights:
    """What a node beside the robot's does, once that is all that is expected of it."""
    done: Rights = {}

    def does_all() -> bool:
        if (node, at) not in robot.get_node_names_and_namespaces():
            return False
        done.update(exercised(robot, node, at))
        return all(done[kind] >= names for kind, names in expected.items())

    robot.wait_for(does_all, 60.0)
    return {kind: names for kind, names in done.items() if names}


def test_the_policy_is_what_the_node_does() -> None:
    expected = allowed()
    expected['publish'] -= WITH_NAV2
    expected['subscribe'] -= WITH_TF2
    if HUMBLE:
        expected['reply'] -= SINCE_JAZZY
    done: Rights = {
        'execute': set(),
        'publish': set(),
        'subscribe': set(),
        'reply': set(),
        'request': set(),
    }
    for parameters, unsent, unheard in STARTS:
        with running_node(*parameters) as running:
            robot = running.robot
            robot.wait_for_state(State.HOLDING)
            robot.wait_until_heard()
            robot.wait_for(partial(graph_tells, robot, expected['publish'] - unsent, 'publish'))
            robot.wait_for(
                partial(graph_tells, robot, expected['subscribe'] - unheard, 'subscribe')
            )
            robot.wait_for(partial(graph_tells, robot, expected['reply'], 'reply'))
            for kind, names in exercised(robot).items():
                done[kind] |= names
        assert running.process.returncode == 0
    assert done.pop('request') == set()
    assert done == expected


def for_robots(rights: Rights, robots: tuple[str, ...], cameras: tuple[str, ...]) -> Rights:
    """The rights after the edits that the comment of the policy file asks for."""
    text = (ROOT / 'config' / 'sros2_policy.xml').read_text()
    listed = re.search(r'replace each of (.*?) by a/image', text, re.DOTALL)
    assert listed is not None
    own = set(re.findall(r'\w+(?:/\w+)?', listed[1])) - {'and'}
    services = {'~/enable', '~/stop', '~/reset', '~/success'}
    images = {f'{camera}/image' for camera in cameras}

    def topics(names: set[str]) -> set[str]:
        several = (names - {'image'}) | (images if 'image' in names else set())
        each = {name for name in several if name in own | images}
        return (several - each) | {f'{robot}/{name}' for robot in robots for name in each}

    return {
        'publish': topics(rights['publish']),
        'subscribe': topics(rights['subscribe']),
        'reply': rights['reply']
        | {name.replace('~', f'~/{robot}') for name in services for robot in robots},
        'execute': {f'~/{robot}/execute' for robot in robots},
    }


def test_the_policy_allows_several_robots_and_cameras_after_the_edits_it_asks_for() -> None:
    rights = for_robots(allowed(), ('a', 'b'), ('camera_1', 'camera_2'))
    sent = {'action', 'status', 'debug_image', 'model_image', 'twist', 'gripper'}
    heard = {'camera_1/image', 'camera_2/image', 'instruction', 'state', 'ee_pose'}
    expected = {
        'publish': {f'{robot}/{name}' for robot in 'ab' for name in sent},
        'subscribe': {f'{robot}/{name}' for robot in 'ab' for name in heard},
        'execute': rights['execute'],
        'reply': rights['reply'] - (SINCE_JAZZY if HUMBLE else set()),
    }
    parameters = ('model:=scripted:cameras=2,state=2', 'robots:=[a, b]', 'image_transport:=raw')
    moving = ('motion:=twist', 'frame_id:=arm_base', 'chunk_timing:=from_pose')
    with running_node(*parameters, *moving) as running:
        robot = running.robot
        node = ('vla', robot.get_namespace())  # not that of an earlier test
        robot.wait_for(lambda: node in robot.get_node_names_and_namespaces(), 60.0)
        for kind, names in expected.items():
            robot.wait_for(partial(graph_tells, robot, names, kind))
        done = exercised(robot)
    assert done.pop('request') == set()
    for kind, names in done.items():
        assert names <= rights[kind], kind


async def console_rights(robot: Robot, expected: Rights) -> Rights:
    """What a console does for a page that shows all views of the robot."""
    key = robot.get_namespace().strip('/')
    camera = f'camera:{robot.images.topic_name}'
    async with (
        operating(Access(), Address(port=0), []) as (url, _),
        aiohttp.ClientSession() as client,
    ):
        page = await Page.open(client, url, key)
        while not any(camera in one['views'] for one in (await page.until('hello'))['robots']):
            pass
        images = await client.ws_connect(f'{url}api/images')
        views = [[key, view] for view in ('model', 'operator', camera)]
        await images.send_json({'type': 'watch', 'images': views})
        return await asyncio.to_thread(seen_doing, robot, 'vla_console', '/', expected)


def test_the_policy_is_what_the_console_does() -> None:
    expected = allowed('vla_console', '/vla_console')
    expected['subscribe'] -= {'image/compressed'}  # the camera's images are raw
    if HUMBLE:
        expected['reply'] -= SINCE_JAZZY
    with running_node('model:=scripted') as running:
        running.robot.wait_for_state(State.HOLDING)
        done = asyncio.run(asyncio.wait_for(console_rights(running.robot, expected), 120.0))
    assert done == expected


def test_the_policy_is_what_the_doctor_of_a_page_does(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = allowed('vla_doctor', '/vla_console')
    expected['subscribe'] -= {'image/compressed', 'joint_states'}  # as the contract has it
    if HUMBLE:
        expected['reply'] -= SINCE_JAZZY
    seen = Event()

    def stay(*_: object) -> Iterator[Finding]:
        """After all that it listens to: until it was seen."""
        assert seen.wait(90.0)
        yield OK

    monkeypatch.setattr('vla_ros.doctor.graph._DISCOVERY_S', 60.0)
    monkeypatch.setattr('vla_ros.doctor.graph._around', stay)
    moving = {'motion': 'pose', 'frame_id': 'base', 'unnorm_key': 'bridge_orig'}
    facts = prepared('scripted:state=8', '/examined', 0.1, **moving)
    with robot_of_test('/examined') as robot, ThreadPoolExecutor() as threads:
        for topic, kind in (('image', Image), ('state', JointState), ('ee_pose', PoseStamped)):
            show(robot, topic, 10.0, kind)
        robot.create_publisher(VlaStatus, 'status', latched(1)).publish(VlaStatus())
        examined = threads.submit(lambda: list(check_graph(facts)))
        done = seen_doing(robot, 'vla_doctor', '/examined', expected)
        seen.set()
        assert OK in examined.result()
    assert done == expected
