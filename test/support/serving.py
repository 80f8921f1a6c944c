# SPDX-License-Identifier: Apache-2.0
"""A server without a network: the application, called as an ASGI server would."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import numpy as np

from support.fakes import INFO, SPEC, FakePolicy
from vla_ros.policy_request import PolicyRequest
from vla_ros.serving import loading
from vla_ros.serving.application import Application
from vla_ros.serving.loading import Loaded
from vla_ros.serving.replica import Replica, ReplicaLimits
from vla_ros.types import Observation, ProgressCallback
from vla_ros.wire import Request, ServedPolicy, pack, unpack

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
OPENPI = {'observation/image': NOISE, 'prompt': 'pick up the cup'}
PATIENCE_S = 20.0


def a_request(instruction: str = 'pick up the cup', **others: Any) -> Request:
    return Request(Observation.of_one(NOISE, instruction, 1), **others)


def of_model(model: str, max_batch_size: int = 8, **request: Any) -> Callable[..., Loaded]:
    """Return what loads a model."""
    wanted = PolicyRequest(model=model, **request)
    return lambda progress: loading.load(wanted, max_batch_size, progress)


def of_fake(policy: FakePolicy, *keys: str) -> Callable[[ProgressCallback], Loaded]:
    specs = dict.fromkeys(keys or ('',), SPEC)
    served = ServedPolicy(INFO, specs, takes_any_key=not keys)
    return lambda progress: Loaded(policy, served)


@contextlib.asynccontextmanager
async def running(load: Callable[..., Loaded], **options: Any) -> AsyncIterator[Replica]:
    """A replica that has started, and ends at the end. Its counters balance."""
    limits = {name: options.pop(name) for name in list(options) if name.endswith(('_s', 'sions'))}
    replica = Replica(load, ReplicaLimits(**limits), **options)
    await asyncio.wait_for(replica.start(), PATIENCE_S)
    try:
        yield replica
    finally:
        await replica.close()
        assert replica.counters.balances
        assert not replica.counters.waiting


async def eventually(condition: Callable[[], Any]) -> None:
    """Fail the test if the condition does not come true."""

    async def come() -> None:
        while not condition():
            await asyncio.sleep(0.002)

    await asyncio.wait_for(come(), PATIENCE_S)


class Websocket:
    """The client's end of a websocket of the application."""

    def __init__(
        self, application: Application, path: str = '/', headers: Mapping[str, str] | None = None
    ) -> None:
        self._to_server: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._to_client: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._to_server.put_nowait({'type': 'websocket.connect'})
        scope = {
            'type': 'websocket',
            'path': path,
            'headers': as_headers(headers),
            'extensions': {'websocket.http.response': {}},
        }
        served = application(scope, self._to_server.get, self._to_client.put)
        self.task = asyncio.ensure_future(served)
        self.metadata: Any = None

    async def event(self) -> dict[str, Any]:
        return await asyncio.wait_for(self._to_client.get(), PATIENCE_S)

    async def accepted(self) -> None:
        assert (await self.event())['type'] == 'websocket.accept'

    async def told(self) -> Any:
        """The next frame: text, or what its bytes mean."""
        event = await self.event()
        assert event['type'] == 'websocket.send', event
        return event['text'] if event.get('text') is not None else unpack(event['bytes'])

    async def closed(self) -> int:
        event = await self.event()
        assert event['type'] == 'websocket.close', event
        return event['code']

    def send(self, value: Any) -> None:
        frame = value if isinstance(value, bytes) else pack(value)
        self._to_server.put_nowait({'type': 'websocket.receive', 'bytes': frame})

    async def ask(self, value: Any) -> Any:
        self.send(value)
        return await self.told()

    async def leave(self) -> None:
        self._to_server.put_nowait({'type': 'websocket.disconnect', 'code': 1005})
        await asyncio.wait_for(self.task, PATIENCE_S)


@contextlib.asynccontextmanager
async def connected(application: Application, path: str = '/') -> AsyncIterator[Websocket]:
    """A websocket that was accepted; at openpi's path its first frame is in ``metadata``."""
    websocket = Websocket(application, path)
    await websocket.accepted()
    if path != '/vla-eval':
        websocket.metadata = await websocket.told()
    yield websocket
    await websocket.leave()


async def asked(
    application: Application,
    method: str,
    path: str,
    body: bytes = b'',
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Status and body of a request."""
    events = [{'type': 'http.request', 'body': body}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if events:
            return events.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    scope = {'type': 'http', 'method': method, 'path': path, 'headers': as_headers(headers)}
    await asyncio.wait_for(application(scope, receive, send), PATIENCE_S)
    return sent[0]['status'], b''.join(one.get('body', b'') for one in sent[1:])


def as_headers(headers: Mapping[str, str] | None) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
