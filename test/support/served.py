# SPDX-License-Identifier: Apache-2.0
"""The application of vla_serve behind a real websocket, in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from support.serving import running
from vla_ros.serving.application import Application
from vla_ros.serving.replica import Replica


class Served:
    """A server that has started."""

    def __init__(self, replica: Replica, port: int) -> None:
        self.replica = replica
        self.url = f'ws://localhost:{port}'


@contextlib.contextmanager
def served(load: Callable[..., Any], **options: Any) -> Iterator[Served]:
    """A server of this policy; options are those of :func:`support.serving.running`."""
    found: list[Served] = []
    errors: list[BaseException] = []
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        async with running(load, **options) as replica:
            application = Application(replica)

            async def handle(connection: ServerConnection) -> None:
                await _bridge(application, connection)

            async with serve(handle, 'localhost', 0, compression=None, max_size=2**25) as server:
                found.append(Served(replica, next(iter(server.sockets)).getsockname()[1]))
                ready.set()
                await stop.wait()

    def begin() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as error:
            errors.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=begin)
    thread.start()
    assert ready.wait(60)
    if errors:
        raise errors[0]
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        assert not thread.is_alive() and not errors, errors


async def _bridge(application: Application, connection: ServerConnection) -> None:
    """Speak ASGI to the application, as a server does after the handshake."""
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    events.put_nowait({'type': 'websocket.connect'})

    async def read() -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in connection:
                kind = 'text' if isinstance(frame, str) else 'bytes'
                events.put_nowait({'type': 'websocket.receive', kind: frame})
        events.put_nowait({'type': 'websocket.disconnect', 'code': 1005})

    async def send(event: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionClosed):
            if event['type'] == 'websocket.send':
                await connection.send(event.get('text') or event['bytes'])
            elif event['type'] == 'websocket.close':
                await connection.close(event['code'], event.get('reason', ''))

    headers = [
        (name.lower().encode(), value.encode())
        for name, value in connection.request.headers.raw_items()
    ]
    path = connection.request.path
    scope = {'type': 'websocket', 'path': path, 'headers': headers, 'extensions': {}}
    reader = asyncio.create_task(read())
    try:
        await application(scope, events.get, send)
    finally:
        reader.cancel()
