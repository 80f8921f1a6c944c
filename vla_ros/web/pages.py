# SPDX-License-Identifier: Apache-2.0
"""A page's websocket of messages. Used by the thread of the server's loop.

Each page has one task that sends, and sends the newest state of each robot: a page that reads
slowly gets fewer states, never a queue of old ones. Each command is a task of its own, so that a
stop waits for no other command.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from aiohttp import web

from vla_ros.web.access import Refused
from vla_ros.web.console import Console
from vla_ros.web.desk import Desk
from vla_ros.web.limits import COMMANDS, SEND_S, SILENT_S, Bucket
from vla_ros.web.messages import (
    STATE_PERIOD_S,
    Answer,
    Command,
    Events,
    Hello,
    Here,
    Instruct,
    MessageError,
    Samples,
    ToPage,
    from_json,
    to_json,
)
from vla_ros.web.sockets import converse, receive, too_many_messages

_SHORTEST_S = 0.1  # between two states of a robot
_DETAILS_S = 1.0
_RATE, _BURST = 20.0, 40.0  # messages of a page


@dataclass
class _Sent:
    """What a page was sent of one robot."""

    action: int = -1
    samples: int = 0
    events: int = -1
    doctor: int = -1
    details_s: float = -_DETAILS_S


class Page:
    """One page, from its websocket's begin to its end."""

    def __init__(
        self, console: Console, socket: web.WebSocketResponse, bell: asyncio.Event
    ) -> None:
        self._console, self._socket, self._bell = console, socket, bell
        self._clock = console.clock
        self._name = console.next_page()
        self._here_ms: float | None = None
        self._heard_s = self._clock.monotonic_s()
        self._sent: dict[str, _Sent] = {}
        self._greeted = -1
        self._bucket = Bucket(self._clock, _RATE, _BURST)
        self._commands: set[asyncio.Task[None]] = set()
        self._answers: list[Answer] = []

    async def run(self) -> None:
        """Serve the page until it or the server ends it."""
        refused = self._console.access.refused
        receiving = receive(self._socket, self._take, refused)
        try:
            await converse(self._send(), receiving, self._leave, refused)
        finally:
            await asyncio.gather(*self._commands, return_exceptions=True)

    def _leave(self) -> None:
        for desk in self._console.desks.values():
            desk.leave(self._name)
        for command in self._commands:
            command.cancel()

    # -- from the page -----------------------------------------------------------------------------

    def _take(self, text: str) -> None:
        message = from_json(text)
        is_stop = isinstance(message, Command) and message.command in ('stop', 'hold', 'disable')
        if not self._bucket.take() and not is_stop:
            raise too_many_messages()
        self._heard_s = self._clock.monotonic_s()
        if isinstance(message, Here):
            self._here_ms = message.now_ms
            for robot in message.robots:
                self._console.desk(robot).here(self._name)
        elif isinstance(message, (Command, Instruct)):
            if len(self._commands) >= COMMANDS and not is_stop:
                raise Refused(
                    429, 'too_many', f'{COMMANDS} commands wait', 'wait for their answers'
                )
            desk = self._console.desk(message.robot)
            task = asyncio.create_task(self._carry_out(desk, message))
            self._commands.add(task)
            task.add_done_callback(self._commands.discard)
        else:
            raise MessageError('images have a websocket of their own', 'open /api/images')

    async def _carry_out(self, desk: Desk, message: Command | Instruct) -> None:
        if isinstance(message, Command):
            answer = await desk.command(message.command)
        else:
            answer = await desk.instruct(self._name, message.text)
        self._answers.append(replace(answer, id=message.id))
        self._bell.set()

    # -- to the page -------------------------------------------------------------------------------

    async def _send(self) -> None:
        while True:
            self._bell.clear()
            for message in self._news():
                await asyncio.wait_for(self._socket.send_str(to_json(message)), SEND_S)
            await asyncio.sleep(_SHORTEST_S)
            if self._clock.monotonic_s() - self._heard_s > SILENT_S:
                self._console.access.refused.too_slow += 1
                await self._socket.close(code=1008, message=b'the page sent nothing')
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._bell.wait(), STATE_PERIOD_S - _SHORTEST_S)

    def _news(self) -> Iterator[ToPage]:
        """Yield what the page does not have yet, at the moment when it is sent."""
        if self._greeted != self._console.version:
            self._greeted = self._console.version
            yield Hello(self._name, tuple(desk.name for desk in self._console.desks.values()))
        for desk in [*self._console.desks.values()]:
            yield desk.state(self._name, self._here_ms)
        while self._answers:
            yield self._answers.pop(0)
        for robot, desk in [*self._console.desks.items()]:
            yield from self._other_news(desk, self._sent.setdefault(robot, _Sent()))

    def _other_news(self, desk: Desk, sent: _Sent) -> Iterator[ToPage]:
        action = desk.newest_action()
        if action is not None and action.sequence != sent.action:
            sent.action = action.sequence
            yield action
        if desk.samples.count != sent.samples:
            rows = desk.samples.rows(sent.samples)
            sent.samples = desk.samples.count
            yield Samples(desk.name.robot, rows)
        if desk.timeline.version != sent.events:
            sent.events = desk.timeline.version
            yield Events(desk.name.robot, desk.timeline.events())
        if desk.doctor_version != sent.doctor:
            sent.doctor = desk.doctor_version
            yield desk.findings()
        now_s = self._clock.monotonic_s()
        if now_s - sent.details_s >= _DETAILS_S:
            sent.details_s = now_s
            yield desk.details()
