# SPDX-License-Identifier: Apache-2.0
"""The console with a running node: what a page says reaches it, and ends with the page."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
import rclpy
from sensor_msgs.msg import Image

from support.graph import CameraThread, Running, running_node
from support.nodes import PATIENT
from support.pages import Page, be_patient, image_of
from support.rrd import Rrd
from vla_ros.cli import replay
from vla_ros.clock import ManualClock
from vla_ros.images.raw import image_to_rgb
from vla_ros.operating.discovery import find_places
from vla_ros.operating.images import ViewSubscriptions
from vla_ros.operating.robot import Place
from vla_ros.operating.run import Graph, operating
from vla_ros.reasons import Reason, State
from vla_ros.web.access import Access
from vla_ros.web.console import Console
from vla_ros.web.server import Address

Test = Callable[[Page, aiohttp.ClientSession, str], Awaitable[None]]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch)
    monkeypatch.setattr('vla_ros.web.desk.LIMIT_S', 10.0)


def with_page(running: Running, test: Test) -> None:
    """Run a test with a page of a console that has found the robot."""
    robot = running.robot.get_namespace().strip('/')

    async def main() -> None:
        async with (
            operating(Access(), Address(port=0), []) as (url, graph),
            aiohttp.ClientSession() as client,
        ):
            page = await Page.open(client, url, robot)
            await page.until('state', link='live')
            await test(page, client, url)
            graph.check()

    asyncio.run(asyncio.wait_for(main(), 120.0))


def test_a_page_operates_a_running_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recordings = f'recording_folder:={tmp_path}'
    parameters = ('model:=scripted', recordings, 'recording_min_free_gb:=0.0', *PATIENT)
    with running_node(*parameters) as running, CameraThread(running.robot):
        running.robot.wait_for_state(State.HOLDING)

        async def test(page: Page, client: aiohttp.ClientSession, url: str) -> None:
            staying = asyncio.create_task(page.stay())
            while not (await page.until('state'))['lease']['can_set_limit']:
                pass
            assert not (await page.ask('instruct', text='go'))['ok']
            assert (await page.ask('command', command='set_limit'))['ok']
            assert running.robot.status.instruction == ''
            assert not (await page.ask('command', command='success'))['ok']
            assert (await page.ask('command', command='record'))['ok']
            assert (await page.ask('instruct', text='go'))['ok']
            await page.until('state', state='RUNNING')
            action = await page.until('action')
            assert len(action['rows'][0]) == len(action['names']) == 7
            images = await client.ws_connect(f'{url}api/images')
            camera = f'camera:{running.robot.images.topic_name}'
            views = [[page.robot, view] for view in ('model', camera)]
            await images.send_json({'type': 'watch', 'images': views})
            seen: set[str] = set()
            while len(seen) < 2:
                header = await image_of(images)
                assert (header['width'], header['height']) == (64, 48)
                seen.add(header['view'])
                await images.send_json({'type': 'shown', 'number': header['number']})
            await images.close()

            while not (told := await page.recording(on=True))['episode']:
                pass
            assert told['folder'] == str(tmp_path)
            assert (await page.ask('command', command='success'))['ok']
            assert (await page.ask('command', command='record_off'))['ok']
            stop = f'{url}api/robots/{page.robot}/stop'
            async with client.post(stop, json={}) as answer:
                assert (await answer.json())['confirmed']
            await page.until('state', reason='STOPPED')
            assert not (await page.ask('command', command='enable'))['ok']
            assert (await page.ask('command', command='reset'))['ok']
            assert (await page.ask('command', command='enable'))['ok']
            # No old instruction comes back with it.
            assert (await page.until('state', reason='NO_INSTRUCTION'))['instruction'] == ''

            assert (await page.ask('instruct', text='go on'))['ok']
            await page.until('state', state='RUNNING')
            be_patient(monkeypatch, lapse_s=1.0)
            staying.cancel()  # the lid is closed: the connection stays, the page says nothing
            held = await page.until('state', state='HOLDING')
            assert 'no sign of life' in held['lease']['ended']
            assert (await page.until('details'))['counters']['published'] > 0

        with_page(running, test)
        acted = len(running.robot.actions)
        running.robot.wait_for_state(State.HOLDING, Reason.NO_INSTRUCTION)
        assert len(running.robot.actions) == acted
    check_episode(tmp_path)


def check_episode(recordings: Path) -> None:
    """Open the only episode as the page says."""
    [episode] = recordings.iterdir()
    arguments = [str(episode), '--rerun', '--output', str(recordings / 'shown')]
    assert replay.main(arguments) == 0
    rrd = Rrd(recordings / 'shown' / 'replay.rrd')
    [end] = rrd.rows['log/episode']
    assert end.value == 'end of the episode: RECORDING_OFF; a success'
    assert rrd.of('log', 'instruction')[0].value == 'go'
    assert len(rrd.of('action', 'value_0/recorded')) > 0


def test_a_console_that_ends_lets_the_robot_hold_and_a_killed_node_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameters = ('model:=scripted', 'max_instruction_age_s:=10.0', *PATIENT)
    with running_node(*parameters) as running, CameraThread(running.robot):
        running.robot.wait_for_state(State.HOLDING)

        async def instruct(page: Page, client: aiohttp.ClientSession, url: str) -> None:
            while (await page.until('state'))['lease']['refusal']:
                pass
            assert (await page.ask('instruct', text='go'))['ok']
            await page.until('state', state='RUNNING')

        with_page(running, instruct)  # SIGINT ends a console like this
        running.robot.wait_for_state(State.HOLDING, Reason.NO_INSTRUCTION, timeout_s=8.0)

        async def kill(page: Page, client: aiohttp.ClientSession, url: str) -> None:
            be_patient(monkeypatch, lost_s=1.6)
            running.process.send_signal(signal.SIGKILL)
            lost = await page.until('state', link='lost')
            assert lost['status_age_s'] > 1.6
            answer = await page.ask('command', command='stop')
            assert not answer['confirmed'] and 'NOT confirmed' in answer['message']

        with_page(running, kill)
        running.ends()


def test_a_stop_goes_to_the_node_that_has_the_robot_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node may be started again under another name; while there are two, the first one stays."""
    one, two = Place('/cell', 'one', ''), Place('/cell', 'two', '')
    places = [one]
    monkeypatch.setattr('vla_ros.operating.run.find_places', lambda _: iter(places))

    async def main() -> None:
        console = Console()
        graph = Graph(console, [], asyncio.get_running_loop())
        graph._look()
        await asyncio.sleep(0)
        for places[:], expected in (([two, one], one), ([], one), ([two], two)):
            graph._look()
            [robot] = graph._robots.values()
            assert robot.place == expected
            reply = await robot.switch('stop')
            assert f'/cell/{expected.node}/stop' in reply.message
        assert [*console.desks] == ['cell']
        graph._node.destroy_node()
        rclpy.shutdown(context=graph._context)

    asyncio.run(main())


def test_images_that_cannot_be_shown_are_counted_and_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock, shown = ManualClock(), []
    views = ViewSubscriptions(None, {}, lambda *one: shown.append(one), clock)
    hear = views._callback('camera:/image', image_to_rgb)
    for _ in range(4):
        clock.advance(4.0)
        hear(Image(height=2, width=2, encoding='rgb7', step=6, data=bytes(12)))
    told = capsys.readouterr().err.splitlines()
    assert [line.split('(')[1].split()[0] for line in told] == ['1', '4']
    assert 'camera:/image' in told[0] and 'rgb7' in told[0] and not shown


def test_places_are_of_names_that_ros_allows() -> None:
    """A program without rcl may call its topics and its node anything."""
    status = ['vla_ros/msg/VlaStatus']
    topics = ['/status', '/cell/left/status', '/cellar/status', '/a b/status', '/x/status']
    topics.append('/cell/a/b/status')
    owners = [('/', 'vla'), ('/cell', 'vla'), ('/cell', 'vla'), ('/a b', 'vla'), ('/x', 'v\nla')]
    owners.append(('/cell', 'vla'))
    of_topic = dict(zip(topics, owners, strict=True))

    class FakeNode:
        def get_topic_names_and_types(self) -> list[tuple[str, list[str]]]:
            return [(topic, status) for topic in topics]

        def get_publishers_info_by_topic(self, topic: str) -> list[SimpleNamespace]:
            assert ' ' not in topic  # rclpy raises an error
            namespace, name = of_topic[topic]
            return [SimpleNamespace(node_namespace=namespace, node_name=name)]

    found = [*find_places(FakeNode())]
    assert found == [Place('/', 'vla', ''), Place('/cell', 'vla', 'left')]


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--host', '0.0.0.0'], 'no token'),
        (['--port', '65536'], '0 to 65535'),
        (['--ros-args', '-r', 'x'], 'ROS rejects the arguments'),
        (['--ros-args', '-p', 'use_sim_time:=x'], 'ROS rejects the arguments'),
    ],
)
def test_unusable_arguments_are_told(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from vla_ros.cli.console import main

    try:
        assert main(arguments) == 1
    except SystemExit as end:
        assert end.code == 2
    assert words in capsys.readouterr().err
