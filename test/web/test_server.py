# SPDX-License-Identifier: Apache-2.0
"""The server with robots that do not exist: commands, leases, images, and who is kept out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.fake_robots import FakeRobot
from support.pages import WAIT_S, Page, be_patient, image_of
from support.servers import CERTIFICATE, KEY
from vla_ros.hosts import HostError
from vla_ros.web import pages
from vla_ros.web.access import Access, ConsoleError
from vla_ros.web.connections import Connections
from vla_ros.web.console import Console
from vla_ros.web.limits import BODY_BYTES
from vla_ros.web.server import Address, serving

TOKEN = 'a-token-of-this-test'


@dataclass
class Served:
    """A server with one robot, and a client."""

    url: str
    console: Console
    robot: FakeRobot
    client: aiohttp.ClientSession

    async def page(self) -> Page:
        return await Page.open(self.client, self.url)

    async def post(self, path: str, **options: Any) -> tuple[int, Any]:
        async with self.client.post(f'{self.url}{path}', **{'json': {}, **options}) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        async with self.client.get(f'{self.url}{path}', **options) as answer:
            return answer.status, await answer.json()


@contextlib.asynccontextmanager
async def served(access: Access | None = None, limit_s: float = 10.0) -> AsyncIterator[Served]:
    console = Console(access)
    robot = FakeRobot(console, '-', limit_s)
    life = asyncio.create_task(robot.live())
    try:
        async with (
            serving(console, Address(port=0)) as url,
            aiohttp.ClientSession() as client,
        ):
            yield Served(url, console, robot, client)
    finally:
        life.cancel()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60.0))


def test_a_page_instructs_and_its_lease_holds_while_it_is_there() -> None:
    async def test() -> None:
        async with served() as one:
            page, other = await one.page(), await one.page()
            assert (await page.until('hello'))['robots'][0]['robot'] == '-'
            assert (await page.ask('instruct', text='go'))['ok']
            state = await page.until('state', state='RUNNING')
            assert state['lease']['is_yours'] and state['words'] == 'acting'
            seen = await other.until('state', state='RUNNING')
            assert seen['lease']['holder'] == state['lease']['holder']
            assert not seen['lease']['is_yours']
            said = len(one.robot.said)
            await other.here()  # not its lease
            await page.here(5.0)
            await page.until('state', here_ms=5.0)
            assert one.robot.said[said:] == ['go']
            assert (await page.until('action'))['names'][-1] == 'gripper'
            assert (await other.ask('instruct', text='come'))['ok']
            taken = await page.until('state', instruction='come')
            assert not taken['lease']['is_yours'] and taken['lease']['holder']
            await page.here()
            assert one.robot.said[-1] == 'come'
            await other.socket.close()  # a closed tab
            held = await page.until('state', state='HOLDING')
            assert held['lease']['ended'].endswith('was closed')
            assert one.robot.said[-1] == ''

    run(test)


def test_a_page_that_falls_silent_lets_the_robot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch, lapse_s=1.0)

    async def test() -> None:
        async with served() as one:
            page = await one.page()
            assert (await page.ask('instruct', text='go'))['ok']
            held = await page.until('state', state='HOLDING')
            assert 'no sign of life' in held['lease']['ended']
            await page.here()
            await page.ask('command', command='reset')
            assert one.robot.said == ['go', '']

    run(test)


def test_a_node_whose_instructions_do_not_expire_takes_none_from_a_page() -> None:
    async def test() -> None:
        async with served(limit_s=0.0) as one:
            page = await one.page()
            assert not (await page.ask('instruct', text='go'))['ok']
            assert one.robot.said == []
            state = await page.until('state', link='live')
            assert state['lease']['can_set_limit'] and 'is 0 s' in state['lease']['refusal']
            assert (await page.ask('command', command='set_limit'))['ok']
            assert (await page.ask('instruct', text='go'))['ok']

    run(test)


def test_a_page_switches_the_recording_and_marks_a_success() -> None:
    async def test() -> None:
        async with served() as one:
            page = await one.page()
            off = await page.recording(on=False)
            assert off['folder'] == '~/.ros/vla_ros/recordings'
            assert not (await page.ask('command', command='success'))['ok']
            assert (await page.ask('command', command='record'))['ok']
            assert (await page.ask('instruct', text='go'))['ok']
            told = await page.recording(on=True, success=False)
            assert told['episode'].endswith('_go')
            assert (await page.ask('command', command='success'))['ok']
            await page.recording(success=True)
            assert (await page.ask('command', command='record_off'))['ok']
            await page.recording(on=False)

    run(test)


def test_an_instruction_that_is_not_usable_means_hold_and_is_not_sent() -> None:
    async def test() -> None:
        async with served() as one:
            page = await one.page()
            assert (await page.ask('instruct', text='go'))['ok']
            # ROS ends a text at its NUL, so the node would carry out the first word.
            for text in ('stop\0 moving', 'go\ud800', 'go</s>'):
                answer = await page.ask('instruct', text=text)
                assert not answer['ok'] and answer['message'].startswith('not instructed: ')
            assert set(one.robot.said) == {'go', ''} and one.robot.said[-1] == ''
            await page.until('state', state='HOLDING')

    run(test)


def test_stop_reset_and_enable_by_post_and_by_page() -> None:
    async def test() -> None:
        async with served() as one:
            page = await one.page()
            await page.ask('instruct', text='go')
            status, answer = await one.post('api/robots/-/stop')
            assert status == 200 and answer['confirmed']
            assert one.robot.said[-1] == ''  # no old instruction when it is enabled
            state = await page.until('state', reason='STOPPED')
            assert state['lease']['ended'] == 'the robot was told to stop'
            assert state['lease']['was_told']
            assert 'stopped' in (await page.ask('instruct', text='go'))['message']
            assert (await one.post('api/robots/-/enable'))[0] == 409
            assert (await page.ask('command', command='reset'))['ok']
            assert (await page.ask('command', command='enable'))['ok']
            assert (await page.ask('instruct', text='go'))['ok']
            assert (await page.ask('command', command='stop'))['ok']
            assert (await page.until('events'))['events']

    run(test)


def test_a_stop_that_nobody_confirms_says_so_and_a_dead_node_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr('vla_ros.web.desk._OTHER_ANSWER_S', 1.0)
    be_patient(monkeypatch, lost_s=1.6)

    async def test() -> None:
        async with served() as one:
            page = await one.page()
            await page.until('state', link='live')
            one.robot.is_mute = True
            slow = asyncio.create_task(page.ask('command', command='enable'))
            status, answer = await one.post('api/robots/-/stop')
            assert status == 504 and not answer['confirmed']
            assert 'NOT confirmed' in answer['message']
            assert not (await slow)['confirmed']
            one.robot.is_dead = True
            state = await page.until('state', link='lost')
            assert state['status_age_s'] > 1.6 and 'unknown' in state['words']
            assert (await one.post('api/robots/-/stop'))[0] == 504
            assert (await one.post('api/robots/other/stop'))[0] == 404
            assert (await one.post('api/robots/-/explode'))[0] == 404

    run(test)


def test_a_slow_page_gets_fewer_images_and_the_newest() -> None:
    async def test() -> None:
        async with served() as one:
            images = await one.client.ws_connect(f'{one.url}api/images')
            await images.send_json({'type': 'watch', 'images': [['-', 'model']]})
            first, second = await image_of(images), await image_of(images)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(images.receive(), 0.5)  # two are not acknowledged
        assert (first['number'], second['number']) == (1, 2)

    async def acknowledged() -> None:
        async with served() as one:
            images = await one.client.ws_connect(f'{one.url}api/images')
            await images.send_json({'type': 'watch', 'images': [['-', 'model']]})
            for number in (1, 2, 3, 4):
                header = await image_of(images)
                assert header['number'] == number
                if number == 2:
                    await asyncio.sleep(0.5)  # images go by
                    stamp = one.console.desks['-'].images['model'][2].stamp
                if number == 4:  # the third was sent when the first had arrived
                    assert int(header['stamp']) >= int(stamp)
                await images.send_json({'type': 'shown', 'number': number})
            await images.close()
            while one.robot.watched:
                await asyncio.sleep(0.01)

    run(test)
    run(acknowledged)


class SilentSocket:
    """Of a page that sends nothing, and takes nothing after so many messages."""

    def __init__(self, takes: int) -> None:
        self.takes = takes

    def __aiter__(self) -> SilentSocket:
        return self

    async def __anext__(self) -> None:
        await asyncio.Event().wait()

    async def send_str(self, text: str) -> None:
        self.takes -= 1
        if self.takes < 0:
            await asyncio.Event().wait()


def test_a_page_that_takes_nothing_is_counted_and_a_mistake_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr('vla_ros.web.pages.SEND_S', 0.01)

    async def test() -> None:
        console = Console()
        robot = FakeRobot(console, '-')
        await pages.Page(console, SilentSocket(1), asyncio.Event()).run()
        assert console.access.refused.too_slow == 1
        monkeypatch.setattr(robot.desk, 'state', lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await pages.Page(console, SilentSocket(1), asyncio.Event()).run()

    run(test)


FOREIGN = [
    {'Host': 'evil.example'},  # a foreign name that was made to lead here
    {'Host': ''},
    {'Origin': 'http://evil.example'},
    {'Origin': 'null'},
    {'Origin': 'http://['},
    {'Origin': 'http://localhost:1'},
    {'Sec-Fetch-Site': 'cross-site'},
    {'Sec-Fetch-Site': 'same-site'},
]


@pytest.mark.parametrize('headers', FOREIGN)
def test_another_sites_page_is_refused(headers: dict[str, str]) -> None:
    async def test() -> None:
        async with served() as one:
            assert (await one.post('api/robots/-/reset', headers=headers))[0] in (400, 403, 421)
            for path in ('api/messages', 'api/images'):
                with pytest.raises(aiohttp.WSServerHandshakeError):
                    await one.client.ws_connect(f'{one.url}{path}', headers=headers)
            assert (await one.get('api/robots', headers=headers))[0] in (400, 403, 421)
            assert one.robot.said == []

    run(test)


def test_what_is_not_json_is_refused_and_its_own_page_is_not() -> None:
    async def test() -> None:
        async with served() as one:
            for kind in ('text/plain', 'application/x-www-form-urlencoded', ''):
                status, _ = await one.post(
                    'api/robots/-/reset', json=None, data=b'{}', headers={'Content-Type': kind}
                )
                assert status == 415
            own = {'Origin': one.url.rstrip('/'), 'Sec-Fetch-Site': 'same-origin'}
            assert (await one.post('api/robots/-/reset', headers=own))[0] == 200
            opened = {'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'navigate'}
            async with one.client.get(one.url, headers=opened) as answer:
                policy = answer.headers['Content-Security-Policy']
                assert answer.status == 200 and 'unsafe' not in policy
                assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
            for path in ('static/%2e%2e/server.py', 'static/server.py', 'static/..%2fserver.py'):
                assert (await one.get(path))[0] == 404

    run(test)


STRANGE = [
    ('POST /api/sign_in', 'Content-Type: application/json', b'{"token": "\\ud800"}', 401),
    ('POST /api/sign_in', 'Content-Type: application/json; charset=hex', b'{}', 400),
    ('POST /api/sign_in', 'Content-Type: application/json\r\nContent-Encoding: gzip', b'{}', 400),
    ('GET /api/robots', 'Cookie: vla_console=\xff', b'', 401),
    ('GET /api/robots', 'Authorization: Bearer \xff', b'', 401),
    ('GET /\xff', 'Accept: */*', b'', 400),
]


def test_a_stranger_who_sends_bytes_that_are_no_text_is_refused_and_counted(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test() -> None:
        async with served(Access.with_token(TOKEN)) as one:
            place = one.url.removeprefix('http://').rstrip('/')
            for line, header, body, status in STRANGE:
                reader, writer = await asyncio.open_connection(*place.split(':'))
                head = f'{line} HTTP/1.1\r\nHost: {place}\r\n{header}\r\n'
                size = f'Content-Length: {len(body)}\r\n\r\n'
                writer.write((head + size).encode('latin-1') + body)
                answered = await reader.readline()
                assert answered.split()[1] == str(status).encode(), line
                writer.close()
            refused = one.console.access.refused
            assert (refused.unauthorized, refused.malformed) == (3, 3)

    run(test)
    assert not caplog.records and not capfd.readouterr().err  # strangers fill no log


def test_beyond_loopback_only_a_token_opens(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        asyncio.run(serving(Console(), Address('0.0.0.0', 0)).__aenter__())

    async def test() -> None:
        async with served(Access.with_token(TOKEN)) as one:
            assert await one.get('api/session') == (200, {'needs_token': True, 'signed_in': False})
            for path in ('api/robots', 'api/refused'):
                assert (await one.get(path))[0] == 401
            assert (await one.post('api/robots/-/stop'))[0] == 401
            for path in ('api/messages', 'api/images'):
                with pytest.raises(aiohttp.WSServerHandshakeError):
                    await one.client.ws_connect(f'{one.url}{path}')
            assert (await one.post('api/sign_in', json={'token': 'x' * 20}))[0] == 401
            assert (await one.post('api/sign_in', json={'token': 5}))[0] == 400
            bearer = {'Authorization': f'Bearer {TOKEN}'}
            assert (await one.get('api/robots', headers=bearer))[0] == 200
            assert (await one.get('api/robots', headers={'Cookie': 'vla_console=x'}))[0] == 401
            # The client's jar refuses cookies of bare addresses, as it should.
            sign_in = f'{one.url}api/sign_in'
            async with one.client.post(sign_in, json={'token': TOKEN}) as answer:
                set_cookie = answer.headers['Set-Cookie']
            assert 'HttpOnly' in set_cookie and 'SameSite=Strict' in set_cookie
            cookie = {'Cookie': set_cookie.partition(';')[0]}
            assert (await one.get('api/robots', headers=cookie))[0] == 200
            assert (await one.post('api/sign_out', headers=cookie))[0] == 200
            assert (await one.get('api/robots', headers=cookie))[0] == 401
            assert TOKEN not in json.dumps(vars(one.console.access.refused))

    run(test)


def test_a_certificate_makes_it_https_and_an_unusable_one_is_an_error(tmp_path: Path) -> None:
    async def test() -> None:
        trusted = ssl.create_default_context(cafile=CERTIFICATE)
        address = Address(port=0, tls_cert=CERTIFICATE, tls_key=KEY)
        console = Console(Access.with_token(TOKEN))
        async with serving(console, address) as url, aiohttp.ClientSession() as client:
            assert url.startswith('https://')
            async with client.post(
                f'{url}api/sign_in', json={'token': TOKEN}, ssl=trusted
            ) as answer:
                assert answer.status == 200 and 'Secure' in answer.headers['Set-Cookie']
            with pytest.raises(aiohttp.ClientError):
                await client.get(f'http{url[5:]}')

    run(test)
    (tmp_path / 'not.pem').write_text('no certificate')
    encrypted = KEY.with_name('server_encrypted.key')  # by the password word
    for unusable in (
        Address(tls_cert=tmp_path / 'not.pem'),
        Address(tls_cert=CERTIFICATE, tls_key=encrypted),  # nobody is asked for a password
        Address(tls_key=KEY),
    ):
        with pytest.raises((ConsoleError, HostError)):
            unusable.tls()


def test_large_bodies_floods_and_too_many_pages_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr('vla_ros.web.console.PAGES', 2)

    async def test() -> None:
        async with served() as one:
            large = 'x' * (BODY_BYTES + 1)
            assert (await one.post('api/sign_in', json={'token': large}))[0] == 413
            page = await one.page()
            await page.socket.send_str('x' * 20_000)
            assert await closed(page.socket)
            page = await one.page()
            with contextlib.suppress(ConnectionError):
                for _ in range(200):
                    await page.here()
            assert await closed(page.socket)
            page = await one.page()
            await page.socket.send_json({'type': 'shown', 'number': 1})
            assert await closed(page.socket)
            pages = [await one.page() for _ in range(4)]
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await one.page()
            # A stop needs none of them.
            assert (await one.post('api/robots/-/stop'))[0] == 200
            assert (await pages[-1].ask('command', command='stop'))['ok']
            refused = (await one.get('api/refused'))[1]
            assert refused['too_large'] == 2 and refused['too_many'] == 2
            assert refused['malformed'] == 1

    run(test)


async def closed(page: aiohttp.ClientWebSocketResponse) -> bool:
    """Whether the server closes the websocket."""
    ends = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    while (await asyncio.wait_for(page.receive(), WAIT_S)).type not in ends:
        pass
    return True


def test_idle_connections_keep_no_stop_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Connections.__init__
    monkeypatch.setattr(Connections, '__init__', lambda self, refused: made(self, refused, most=20))

    async def test() -> None:
        async with served() as one:
            page = await one.page()
            host, port = one.url[7:-1].split(':')
            idle = [socket.create_connection((host, int(port))) for _ in range(100)]
            for number, each in enumerate(idle):
                each.send(b'' if number % 2 else b'POST /api/robots/-/stop HTTP/1.1\r\nHo')
            await asyncio.sleep(0.3)
            assert (await one.post('api/robots/-/stop'))[0] == 200
            assert (await page.ask('command', command='reset'))['ok']  # a page is not idle
            assert (await one.get('api/refused'))[1]['too_slow'] >= 80
            for each in idle:
                each.close()

    run(test)
