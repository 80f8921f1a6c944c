# SPDX-License-Identifier: Apache-2.0
"""Robots that do not exist, for work on the page and for its tests: no ROS, no policy.

``PYTHONPATH=test python -m support.fake_robots --port 8080 --robots left,right`` serves them. They
take commands as the node does: an instruction that is not renewed expires, and a stopped robot must
be reset and enabled. An instruction with the word ``fail`` makes one hold by a fault, ``reject`` is
rejected, and ``die`` ends its reports, as if the node had been killed.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vla_ros.clock import Clock, SystemClock
from vla_ros.errors import VlaError
from vla_ros.reasons import State
from vla_ros.text import is_blank
from vla_ros.web.access import Access
from vla_ros.web.console import Console
from vla_ros.web.desk import Desk
from vla_ros.web.messages import Action, Finding, RobotName
from vla_ros.web.robot import JpegImage, Reply, Report
from vla_ros.web.server import Address, serving
from vla_ros.wire.token import read_token

VIEWS = ('model', 'operator', 'camera:/image', 'camera:/wrist/image')
_STATUS_S = 1.0
_ACTION_HZ = 8.0
_IMAGE_HZ = 30.0
_NAMES = ('x', 'y', 'z', 'rx', 'ry', 'rz', 'gripper')


@dataclass
class _Node:
    """The state of a node for one robot."""

    state: State = State.HOLDING
    reason: str = 'NO_INSTRUCTION'
    message: str = 'HOLDING: no instruction on /instruction'
    instruction: str = ''
    stopped: bool = False
    enabled: bool = True
    published: int = 0
    rejected: int = 0
    recording: dict[str, Any] = field(
        default_factory=lambda: {'on': False, 'episode': '', 'success': False, 'message': ''}
    )


class FakeRobot:
    """A robot that pretends. Used by the thread of the server's loop."""

    def __init__(
        self, console: Console, name: str, limit_s: float = 0.0, clock: Clock = SystemClock()
    ) -> None:
        """Add the robot to a console.

        :param name: its key; ``-`` for the only one.
        :param limit_s: its ``max_instruction_age_s``.
        """
        title = '/' if name == '-' else f'/{name.replace(".", "/")}'
        self.desk: Desk = console.add(RobotName(name, title, VIEWS), self)
        self.is_dead = False
        self.is_mute = False  # answers no command
        self.jpeg: JpegImage | None = None  # shown as every view, in place of a moving square
        self.watched: frozenset[str] = frozenset()
        self.said: list[str] = []  # what was published on its instruction topic
        self._node, self._clock = _Node(), clock
        self._limit_s = limit_s
        self._said_s = self._since_s = clock.monotonic_s()
        self.desk.limit(limit_s)
        self.desk.place('~/.ros/vla_ros/recordings')

    # -- Commands ----------------------------------------------------------------------------------

    def say(self, instruction: str) -> None:
        self.said.append(instruction)
        if self.is_dead:
            return
        node = self._node
        self._said_s = self._clock.monotonic_s()
        if 'die' in instruction:
            self.is_dead = True
        elif 'reject' in instruction:
            node.rejected += 1
            node.instruction = ''
            self._become('INSTRUCTION_REJECTED', f'instruction {instruction!r} is not usable')
        elif is_blank(instruction):
            node.instruction = ''
            self._judge()
        elif instruction != node.instruction:
            node.instruction = instruction
            if node.recording['on']:
                name = f'20261128T134012.345Z_{instruction.replace(" ", "-")}'
                node.recording |= {'episode': name, 'success': False}
            self._judge()

    def switch(self, command: str) -> asyncio.Future[Reply]:
        node = self._node
        if self.is_dead:
            return _done(Reply(False, False, f'{command}: no node is there to answer'))
        if self.is_mute:
            return asyncio.get_running_loop().create_future()
        if command == 'success':
            if not node.recording['episode']:
                return _done(Reply(False, True, 'there is no goal, and no recorded episode'))
            node.recording['success'] = True
            return _done(Reply(True, True, 'marked'))
        if command == 'enable' and node.stopped:
            return _done(Reply(False, True, 'nothing is enabled: stopped by ~/stop'))
        if command == 'stop':
            node.stopped, node.enabled = True, False
        elif command == 'reset':
            node.stopped = False
        else:
            node.enabled = command == 'enable'
        self._judge()
        return _done(Reply(True, True, {'stop': 'stopped until reset'}.get(command, command)))

    def set(self, name: str, value: float | bool) -> asyncio.Future[Reply]:
        if self.is_dead or self.is_mute:
            return _done(Reply(False, False, 'no node is there to answer'))
        if name == 'record':
            self._node.recording['on'] = value
        else:
            self._limit_s = value
        return _done(Reply(True, True, f'{name} is {value}'))

    def watch(self, views: frozenset[str]) -> None:
        self.watched = views

    async def examine(self) -> tuple[Finding, ...]:
        await asyncio.sleep(1.0)
        return (
            Finding('OK', 'versions', 'Python 3.11, torch 2.14'),
            Finding('WARN', 'rate', 'images come at 9.7 Hz', 'set the camera to 15 Hz or more'),
            Finding('FAIL', 'contract', 'no contract for fractal', 'give the file in contracts'),
        )

    # -- life --------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Report, act and show images until cancelled."""
        await asyncio.gather(self._report_often(), self._act_often(), self._show_often())

    async def _report_often(self) -> None:
        told, at_s = None, -_STATUS_S
        while True:
            node, now_s = self._node, self._clock.monotonic_s()
            if node.instruction and self._limit_s and now_s - self._said_s > self._limit_s:
                node.instruction = ''
                self._become('INSTRUCTION_EXPIRED', 'the instruction was not repeated')
            key = (node.state, node.reason, node.message)
            if not self.is_dead and (key != told or now_s - at_s >= _STATUS_S):
                told, at_s = key, now_s
                self.desk.hear(self._report())
                self.desk.limit(self._limit_s)
            await asyncio.sleep(0.02)

    async def _act_often(self) -> None:
        while True:
            await asyncio.sleep(1 / _ACTION_HZ)
            if self._node.state is State.RUNNING and not self.is_dead:
                self._node.published += 1
                self.desk.act(self._action())

    async def _show_often(self) -> None:
        while True:
            await asyncio.sleep(1 / _IMAGE_HZ)
            if not self.is_dead:
                for view in self.watched:
                    self.desk.show(view, self._image(view))

    def _judge(self) -> None:
        node = self._node
        if node.stopped:
            self._become('STOPPED', 'stopped by ~/stop; ~/reset ends that')
        elif not node.enabled:
            self._become('DISABLED', 'disabled; ~/enable ends that')
        elif not node.instruction:
            self._become('NO_INSTRUCTION', 'no instruction on /instruction')
        elif 'fail' in node.instruction:
            self._become('IMAGE_TIMEOUT', 'no image on /image for image_timeout_s, 0.5 s')
        else:
            self._become('', '')

    def _become(self, reason: str, message: str) -> None:
        node = self._node
        state = State.HOLDING if reason else State.RUNNING
        if state is not node.state:
            self._since_s = self._clock.monotonic_s()
        node.state, node.reason = state, reason or 'NONE'
        node.message = f'{state.name}: {message}' if message else state.name

    def _report(self) -> Report:
        node = self._node
        lines = {'p50_s': 0.118, 'p95_s': 0.131, 'p99_s': 0.149}
        return Report(
            node.state,
            node.reason,
            node.message,
            self._clock.monotonic_s() - self._since_s,
            node.instruction,
            node.rejected,
            policy={'model': 'fake', 'device': 'cpu', 'cameras': ['image'], 'horizon': 8},
            counters={'received': 30 * node.published, 'published': node.published, 'overrun': 0},
            latencies={'image_to_action': lines, 'inference': {k: v / 2 for k, v in lines.items()}},
            motion={'mode': 'twist', 'message': ''},
            recording=dict(node.recording),
        )

    def _action(self) -> Action:
        number = self._node.published
        turn = number / 10
        rows = tuple(
            (0.01 * math.cos(turn + k / 8), 0.01 * math.sin(turn + k / 8), 0.005, 0, 0, 0.02, k % 2)
            for k in range(8)
        )
        chances = tuple(0.5 + 0.5 * math.sin(turn + k) ** 2 for k in range(8 * len(_NAMES)))
        return Action(
            self.desk.name.robot,
            number,
            str(self._clock.system_ns()),
            0.0,
            self._node.instruction,
            'POSE_DELTA',
            'arm_base',
            'fake',
            _NAMES,
            rows,
            0.2,
            {'column': 6, 'closed': 0.0, 'open': 1.0},
            chances,
            0.060 + 0.01 * math.sin(turn),
            0.118 + 0.02 * math.sin(turn),
            1.0,
        )

    def _image(self, view: str) -> JpegImage:
        if self.jpeg is not None:
            return self.jpeg
        width, height = {'model': (224, 224), 'operator': (936, 572)}.get(view, (640, 480))
        at = self._clock.monotonic_s()
        rows, columns = np.mgrid[0:height, 0:width]
        pixels = np.empty((height, width, 3), np.uint8)
        pixels[..., 0] = columns * 255 // width
        pixels[..., 1] = rows * 255 // height
        pixels[..., 2] = 64
        x, y = (
            round(size / 2 * (1 + 0.7 * f(at)))
            for size, f in ((width, math.cos), (height, math.sin))
        )
        pixels[max(y - 12, 0) : y + 12, max(x - 12, 0) : x + 12] = 255
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, 'jpeg', quality=80)
        return JpegImage(buffer.getvalue(), width, height, str(self._clock.system_ns()))


def _done(reply: Reply) -> asyncio.Future[Reply]:
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    future.set_result(reply)
    return future


def _read(file: Path) -> JpegImage:
    image, buffer = Image.open(file).convert('RGB'), io.BytesIO()
    image.save(buffer, 'jpeg', quality=90)
    return JpegImage(buffer.getvalue(), *image.size)


async def _serve(asked: argparse.Namespace) -> None:
    access = (
        Access() if asked.token_file is None else Access.with_token(read_token(asked.token_file))
    )
    console = Console(access)
    robots = [FakeRobot(console, name, asked.limit) for name in asked.robots.split(',')]
    for robot in robots:
        robot.jpeg = asked.image and _read(asked.image)
    async with serving(console, Address(asked.host, asked.port)) as url:
        print(f'fake robots at {url}', flush=True)
        await asyncio.gather(*(robot.live() for robot in robots))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--host', default='127.0.0.1')
    parser.add_argument('--port', type=int, default=8080, help='0: any')
    parser.add_argument('--robots', default='-', help='keys, such as left,right')
    parser.add_argument('--limit', type=float, default=0.0, help='max_instruction_age_s [s]')
    parser.add_argument('--token-file', type=Path)
    parser.add_argument('--image', type=Path, help='shown as every view')
    try:
        asyncio.run(_serve(parser.parse_args()))
    except VlaError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == '__main__':
    sys.exit(main())
