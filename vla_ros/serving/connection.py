# SPDX-License-Identifier: Apache-2.0
"""One websocket of a robot: frames in, frames out, in the order of the frames.

A reader and a writer run side by side, so that a client which leaves is noticed, and a newer frame
supersedes an older one, while an inference runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from vla_ros.serving import openpi
from vla_ros.serving.inputs import Keys
from vla_ros.serving.openpi import Reply
from vla_ros.serving.replica import Answer, Replica, ServedSession
from vla_ros.serving.vla_eval import Harness
from vla_ros.wire import WireError, pack, unpack

MAX_UNANSWERED = 8  # frames of one connection
CLOSE_FLOODING = 1008

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Answering = Callable[[], Awaitable[Reply | None]]


class Speaker(Protocol):
    """One protocol on one connection."""

    def greeting(self) -> bytes | None:
        """Return the frame that the server sends first."""

    def hear(self, frame: bytes, session: ServedSession) -> Answering:
        """Submit what a frame asks for, and return what gives its reply.

        :raises WireError: if the frame is of no dialect; the connection then ends.
        """


class OpenpiSpeaker:
    """openpi and its dialects."""

    def __init__(self, replica: Replica, keys: Keys, path: str) -> None:
        self._replica, self._keys, self._path = replica, keys, path
        self._previous_total_ms: float | None = None

    def greeting(self) -> bytes:
        """Return the metadata."""
        return pack(openpi.greeting(self._replica.served()))

    def hear(self, frame: bytes, session: ServedSession) -> Answering:
        """Submit the request of a frame."""
        began_s = time.monotonic()
        stamp_ns = self._replica.clock.now_ns()
        served = self._replica.served()
        message = openpi.read(unpack(frame), served, self._keys, stamp_ns, self._path)
        if message.is_reset:
            session.reset()
        if message.request is None:
            reply = (
                openpi.write_aside(message)
                if message.error is None
                else openpi.write(message, message.error, {})
            )
            self._replica.counters.malformed += message.error is not None
            return _at_once(reply)
        asked = session.ask(message.request)

        async def answer() -> Reply:
            answered: Answer = await asked
            timing = {'infer_ms': 1e3 * (time.monotonic() - began_s)}
            if self._previous_total_ms is not None:
                timing['prev_total_ms'] = self._previous_total_ms
            reply = openpi.write(message, answered, timing)
            self._previous_total_ms = 1e3 * (time.monotonic() - began_s)
            return reply

        return answer


class HarnessSpeaker:
    """vla-evaluation-harness."""

    def __init__(self, replica: Replica, harness: Harness) -> None:
        self._replica, self._harness = replica, harness

    def greeting(self) -> None:
        """Return None: the client speaks first."""

    def hear(self, frame: bytes, session: ServedSession) -> Answering:
        """Submit the request of a frame."""
        message = self._harness.read(unpack(frame), self._replica.clock.now_ns())
        if message.is_reset:
            session.reset()
        if message.request is None:
            return _at_once(message.reply)
        asked = session.ask(message.request)

        async def answer() -> Reply:
            return self._harness.write(message, await asked)

        return answer


class Connection:
    """The frames of one robot, from the acceptance to the end."""

    def __init__(
        self,
        replica: Replica,
        speaker: Speaker,
        session: ServedSession,
        receive: Receive,
        send: Send,
    ) -> None:
        self._replica, self._speaker, self._session = replica, speaker, session
        self._receive, self._send = receive, send
        self._answers: asyncio.Queue[Answering | Reply] = asyncio.Queue()
        self._unanswered = 0

    async def run(self) -> None:
        """Answer frames until the client leaves, or a frame ends the connection.

        What no client can cause is raised, for the log of the server.
        """
        greeting = self._speaker.greeting()
        if greeting is not None:
            await self._send({'type': 'websocket.send', 'bytes': greeting})
        reader = asyncio.ensure_future(self._read())
        writer = asyncio.ensure_future(self._write())
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, writer):
                task.cancel()
            ends = await asyncio.gather(reader, writer, return_exceptions=True)
        for error in ends:
            if isinstance(error, Exception) and not isinstance(error, OSError):  # a client is gone
                raise error

    async def _read(self) -> None:
        """Read frames until the client leaves. What it asked for is cancelled by the session."""
        while True:
            message = await self._receive()
            if message['type'] != 'websocket.receive':
                return
            self._unanswered += 1
            if self._unanswered > MAX_UNANSWERED:
                self._replica.counters.flooding += 1
                await self._send({'type': 'websocket.close', 'code': CLOSE_FLOODING})
                return
            self._answers.put_nowait(self._hear(message.get('bytes')))

    def _hear(self, frame: bytes | None) -> Answering | Reply:
        try:
            if frame is None:
                raise WireError('a frame is text', 'send msgpack', expected='a binary frame')
            return self._speaker.hear(frame, self._session)
        except WireError as error:
            self._replica.counters.malformed += 1
            return openpi.unreadable(error)

    async def _write(self) -> None:
        while True:
            answering = await self._answers.get()
            reply = answering if isinstance(answering, Reply) else await answering()
            self._unanswered -= 1
            if reply is None:
                continue
            kind = 'text' if isinstance(reply.data, str) else 'bytes'
            await self._send({'type': 'websocket.send', kind: reply.data})
            if reply.close:
                await self._send({'type': 'websocket.close', 'code': reply.close})
                return


def _at_once(reply: Reply | None) -> Answering:
    async def answer() -> Reply | None:
        return reply

    return answer
