# SPDX-License-Identifier: Apache-2.0
"""``make console-load``: what pages cost a node, and what hostile requests do to its twists.

A node with a scripted policy sends twists at 50 Hz, made of the images of a 30 Hz camera of
640x480. In turns nobody looks, or one page shows the model's image with its action. Then 1,000
hostile requests and 100 idle connections come while the twists are counted, and in the end the
page stops the robot several times.

The node has one core for itself if there are two. CPU times are those of /proc (Linux only).
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import itertools
import os
import statistics
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import numpy as np
from geometry_msgs.msg import TwistStamped

from support.graph import CameraThread, Running, image_message, running_node
from support.pages import Page, image_of
from vla_ros.client.processes import running as running_module
from vla_ros.reasons import State
from vla_ros.serving.ports import free_port

CONTROL_RATE_HZ = 50
PARAMETERS = (
    'model:=scripted',
    'unnorm_key:=bridge_orig',
    'motion:=twist',
    'frame_id:=base',
    f'control_rate_hz:={CONTROL_RATE_HZ:.1f}',
    'max_instruction_age_s:=2.0',
)
SAY_PERIOD_S = 0.5
HOSTILE, IDLE, AT_ONCE = 1000, 100, 20


class Camera(CameraThread):
    """Shows images of 640x480, each with a number of its own."""

    _message = image_message(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8))

    def show(self) -> bool:
        struct.pack_into('<Q', self._message.data, 0, self.shown)
        self._stack.see(self._message)
        return True


class Twists:
    """When each twist came [s], and whether it moves."""

    def __init__(self, running: Running) -> None:
        self.heard: list[tuple[float, bool]] = []
        running.robot.create_subscription(TwistStamped, 'twist', self._take, 100)

    def _take(self, message: TwistStamped) -> None:
        linear, angular = message.twist.linear, message.twist.angular
        parts = (linear.x, linear.y, linear.z, angular.x, angular.y, angular.z)
        self.heard.append((time.monotonic(), any(parts)))

    def rate(self, since_s: float) -> str:
        """The rate since then, and the longest time between two."""
        times = [at_s for at_s, _ in self.heard if at_s >= since_s]
        gaps = [later - at_s for at_s, later in itertools.pairwise(times)]
        if not gaps:
            return 'none'
        return f'{1 / statistics.mean(gaps):.1f} Hz, longest gap {1e3 * max(gaps):.0f} ms'

    def first_zero(self, since_s: float) -> float | None:
        """From then to the first zero twist [s]."""
        zeros = (at_s - since_s for at_s, moves in self.heard if at_s >= since_s and not moves)
        return next(zeros, None)


def cpu_s(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def pin(pid: int, cores: list[int]) -> None:
    """Let all threads of a process run on these cores only; new ones inherit that."""
    for thread in Path(f'/proc/{pid}/task').iterdir():
        os.sched_setaffinity(int(thread.name), cores)


async def share(pids: list[int], seconds: float) -> list[float]:
    """The share of a core that each process takes in this time."""
    began_s, before = time.monotonic(), [cpu_s(pid) for pid in pids]
    await asyncio.sleep(seconds)
    took_s = time.monotonic() - began_s
    return [(cpu_s(pid) - was) / took_s for pid, was in zip(pids, before, strict=True)]


@contextlib.asynccontextmanager
async def background(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Have something done meanwhile."""
    task = asyncio.ensure_future(work())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Load:
    """One run."""

    def __init__(self, running: Running, url: str, client: aiohttp.ClientSession) -> None:
        self.running, self.url, self.client = running, url, client
        self.name = running.robot.get_namespace().strip('/')
        self.twists = Twists(running)

    async def found(self) -> None:
        """Return when the console knows what it needs to let a page instruct the robot."""
        until_s = time.monotonic() + 60.0
        while time.monotonic() < until_s:
            with contextlib.suppress(aiohttp.ClientError):
                async with self.client.get(f'{self.url}api/robots') as answer:
                    robots = (await answer.json())['robots']
                if any(one['robot'] == self.name and one['lease']['limit_s'] for one in robots):
                    return
            await asyncio.sleep(0.2)
        raise TimeoutError('the console did not find the robot within 60 s')

    async def instruct(self) -> None:
        """Repeat the instruction as a program would."""
        while True:
            self.running.robot.say('go')
            await asyncio.sleep(SAY_PERIOD_S)

    @contextlib.asynccontextmanager
    async def page(self) -> AsyncIterator[Page]:
        """Have a page that holds the lease and shows the model's image."""
        page = await Page.open(self.client, self.url, self.name)

        async def look() -> None:
            async with self.client.ws_connect(f'{self.url}api/images') as images:
                await images.send_json({'type': 'watch', 'images': [[self.name, 'model']]})
                while True:
                    header = await image_of(images)
                    await images.send_json({'type': 'shown', 'number': header['number']})

        async with background(page.stay), background(look):
            yield page
        await page.socket.close()

    async def costs(self, pids: list[int], rounds: int, seconds: float) -> None:
        """Print the shares of node and console, without and with a page, in turns."""
        shares: dict[str, list[list[float]]] = collections.defaultdict(list)
        for _ in range(rounds):
            async with background(self.instruct):
                await asyncio.sleep(2.0)
                shares['no page'].append(await share(pids, seconds))
            async with self.page() as page:
                print_refusal(await page.ask('instruct', text='go'))
                await asyncio.sleep(2.0)
                shares['one page'].append(await share(pids, seconds))
        print('| | node, share of a core | console |\n|---|---|---|')
        for name, measured in shares.items():
            node, page = (statistics.median(column) for column in zip(*measured, strict=True))
            each = ', '.join(f'{100 * one[0]:.1f}' for one in measured)
            print(f'| {name} | {100 * node:.1f} % ({each}) | {100 * page:.1f} % |', flush=True)

    async def hostile(self, seconds: float) -> None:
        """Print the rate of the twists before and during hostile requests."""
        async with self.page() as page:
            print_refusal(await page.ask('instruct', text='go'))
            await asyncio.sleep(2.0)
            began_s = time.monotonic()
            await asyncio.sleep(seconds)
            print(f'twists before: {self.twists.rate(began_s)}')
            began_s = time.monotonic()
            answers = await attack(self.url, self.name)
            took_s = time.monotonic() - began_s
            print(f'{HOSTILE} hostile requests in {took_s:.1f} s, answered {answers}')
            print(f'twists during: {self.twists.rate(began_s)}')
            state = await page.until('state')
            print(f'the robot is {state["state"]}, the lease {state["lease"]["ended"] or "holds"}')

    async def stops(self, count: int) -> None:
        """Print the times of stops by a page that shows images."""
        for _ in range(count):
            async with self.page() as page:
                for command in ('reset', 'enable'):
                    print_refusal(await page.ask('command', command=command))
                print_refusal(await page.ask('instruct', text='go'))
                await page.until('state', state='RUNNING')
                await asyncio.sleep(1.0)
                began_s = time.monotonic()
                print_refusal(await page.ask('command', command='stop'))
                answered_s = time.monotonic() - began_s
                await asyncio.sleep(0.5)
                zero_s = self.twists.first_zero(began_s)
                zero = 'none' if zero_s is None else f'{1e3 * zero_s:.1f} ms'
                print(f'stop: first zero twist {zero}, confirmed {1e3 * answered_s:.1f} ms')


def print_refusal(answer: dict[str, object]) -> None:
    """Print why a page's command was not carried out, if it was not."""
    if not answer['ok']:
        print(f'{answer["command"]}: {answer["message"]}')


async def attack(url: str, robot: str) -> dict[str, int]:
    """Send hostile requests, with idle connections beside them; return the answers' numbers."""
    answers: collections.Counter[str] = collections.Counter()
    _, _, port = url.rstrip('/').rpartition(':')
    idle = [await asyncio.open_connection('127.0.0.1', int(port)) for _ in range(IDLE)]
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector) as client:

        async def images_at_length() -> str:
            async with client.ws_connect(f'{url}api/images') as socket:
                await socket.send_json({'type': 'watch', 'images': [[robot, 'model']]})
                await asyncio.sleep(0.5)
                await socket.send_str('{' * 9000)
                while not (await socket.receive()).type.name.startswith('CLOS'):
                    pass
                return f'closed {socket.close_code}'

        async def post(path: str, **options: object) -> str:
            async with client.post(f'{url}api/{path}', **options) as answer:
                return str(answer.status)

        kinds: list[Callable[[], Awaitable[str]]] = [
            lambda: post(f'robots/{robot}/reset', json={}, headers={'Origin': 'http://evil.test'}),
            lambda: post(f'robots/{robot}/enable', json={}, headers={'Host': 'evil.test'}),
            lambda: post(
                f'robots/{robot}/stop', data=b'a=b', headers={'Sec-Fetch-Site': 'cross-site'}
            ),
            lambda: post('sign_in', json={'token': 'x' * 100_000}),
            images_at_length,
        ]

        async def one(kind: Callable[[], Awaitable[str]]) -> None:
            try:
                answers[await kind()] += 1
            except aiohttp.ClientError as error:
                answers[type(error).__name__] += 1

        await asyncio.gather(
            *(one(kind) for _, kind in zip(range(HOSTILE), itertools.cycle(kinds)))
        )
    for _, writer in idle:
        writer.close()
    return dict(answers)


async def run(running: Running, options: argparse.Namespace) -> None:
    port = free_port()
    url = f'http://127.0.0.1:{port}/'
    with running_module('vla_ros.cli.console', '--port', str(port)) as process:
        async with aiohttp.ClientSession() as client:
            load = Load(running, url, client)
            await load.found()
            await load.costs([running.process.pid, process.pid], options.rounds, options.seconds)
            await load.hostile(options.seconds)
            await load.stops(options.stops)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='make console-load ARGS=...',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--rounds', type=int, default=5, help='of no page and one page')
    parser.add_argument('--seconds', type=float, default=10.0, help='of each measurement')
    parser.add_argument('--stops', type=int, default=6)
    options = parser.parse_args()
    program = ('-m', 'vla_ros.cli.node')
    cores = sorted(os.sched_getaffinity(0))
    with running_node(*PARAMETERS, program=program) as running:
        running.robot.wait_for_state(State.HOLDING)
        if len(cores) > 1:
            pin(running.process.pid, cores[:1])
            pin(os.getpid(), cores[1:])
        print(f'load {os.getloadavg()[0]:.1f}, {len(cores)} cores')
        with Camera(running.robot):
            asyncio.run(run(running, options))


if __name__ == '__main__':
    main()
