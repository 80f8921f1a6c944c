# SPDX-License-Identifier: Apache-2.0
"""A policy server in a thread of this process, which does what the test says."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.protocol import State

from support.fakes import SPEC
from support.places import ROOT
from vla_ros.serving.ports import free_port
from vla_ros.types import PolicyInfo, Prediction, TokenTrace, WarmupTimes
from vla_ros.wire import ServedPolicy, pack, reply_map, unpack
from vla_ros.wire.token import digest_of, is_authorized

KEY, CERTIFICATE = ROOT / 'test/support/tls/server.key', ROOT / 'test/support/tls/server.pem'

SERVED = ServedPolicy(
    PolicyInfo('tiny', 'main', 'cpu', 'float32', 'none'),
    {'fake': SPEC},
    warmup=WarmupTimes(1.0, 0.5, 0.1),
    self_checked=True,
    identity='1',
    version='1.0.0',
)

Act = Callable[[ServerConnection, dict[str, Any]], Awaitable[None]]


def reply(value: float = 0.5) -> bytes:
    """An answer whose seven numbers are all ``value``."""
    actions = np.full((1, 7), value)
    tokens = TokenTrace(np.full(7, 31900), np.ones(7, np.float32))
    return pack(reply_map(Prediction(actions, 'fake', actions, tokens=tokens)))


async def answer(connection: ServerConnection, request: dict[str, Any]) -> None:
    await connection.send(reply())


class FakeServer:
    """What it does may be set at any time; ``act`` is called for each request, in the loop."""

    def __init__(self, port: int | None = None, tls: bool = False) -> None:
        self.port = port or free_port()
        self.metadata: dict[str, Any] = SERVED.to_metadata()
        self.token = ''
        self.close_first: tuple[int, str] | None = None  # instead of metadata
        self.ignored = 0  # the next connections that get no metadata and no answer
        self.act: Act = answer
        self.requests: list[dict[str, Any]] = []
        self.connections: list[ServerConnection] = []  # in the order they came
        self.handshakes = 0  # with those that were refused
        self._tasks: list[asyncio.Task[Any]] = []
        self._loop = asyncio.new_event_loop()
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._tls = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(CERTIFICATE, KEY)
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))

    @property
    def url(self) -> str:
        return f'{"wss" if self._tls else "ws"}://localhost:{self.port}'

    @property
    def open_connections(self) -> int:
        return sum(one.state is State.OPEN for one in self.connections)

    def start(self) -> FakeServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        """End as a process that is killed does: without a word."""
        self._loop.call_soon_threadsafe(self._kill)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._loop.close()

    def close_all(self, code: int, reason: str = '') -> None:
        async def close() -> None:
            for one in self.connections:
                await one.close(code, reason)

        self._call(close()).result(10)

    def kill_all(self) -> None:
        async def kill() -> None:
            for one in self.connections:
                one.transport.abort()

        self._call(kill()).result(10)

    def pause_all(self) -> None:
        """Read nothing more, as a machine that has vanished."""

        async def pause() -> None:
            for one in self.connections:
                one.transport.pause_reading()

        self._call(pause()).result(10)

    def call(self, act: Callable[[], None]) -> None:
        """Call something in the loop, soon."""
        self._loop.call_soon_threadsafe(act)

    def _call(self, task: Any) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(task, self._loop)

    def _kill(self) -> None:
        for one in self.connections:
            one.transport.abort()
        for task in self._tasks:
            task.cancel()
        if self._stop is not None:
            self._stop.set()

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        async with serve(
            self._handle,
            'localhost',
            self.port,
            compression=None,
            process_request=self._check,
            ssl=self._tls,
            max_size=2**25,
            close_timeout=0.2,
            ping_interval=None,
        ):
            self._ready.set()
            await self._stop.wait()

    def _check(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        self.handshakes += 1
        shown = request.headers.get('Authorization')
        if not self.token or is_authorized(shown, digest_of(self.token)):
            return None
        status = HTTPStatus.UNAUTHORIZED
        return Response(status.value, status.phrase, Headers())

    async def _handle(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        if (task := asyncio.current_task()) is not None:
            self._tasks.append(task)
        with contextlib.suppress(ConnectionClosed):
            if self.close_first is not None:
                await connection.close(*self.close_first)
                return
            if self.ignored:
                self.ignored -= 1
                await connection.wait_closed()
                return
            await connection.send(pack(self.metadata))
            async for frame in connection:
                assert isinstance(frame, bytes)
                self.requests.append(unpack(frame))
                await self.act(connection, self.requests[-1])


@contextlib.contextmanager
def fake_server(**options: Any) -> Iterator[FakeServer]:
    """A server that has started; it may have been stopped by the end."""
    server = FakeServer(**options).start()
    try:
        yield server
    finally:
        if server._thread.is_alive():
            server.stop()
