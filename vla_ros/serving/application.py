# SPDX-License-Identifier: Apache-2.0
"""The ASGI application of a replica: its paths, and who may use them.

=========  ======================  ======================================================
websocket  ``/``                   openpi and its dialects
websocket  ``/v1/realtime/...``    vLLM-Omni's path for openpi
websocket  ``/vla-eval``           vla-evaluation-harness
POST       ``/act``                OpenVLA's and OpenVLA-OFT's deploy.py
GET        ``/healthz``            ``OK`` while the policy answers; without a token
GET        ``/health``             the same as JSON, for the harness; without a token
GET        ``/metadata``           the first frame of the websocket, as JSON
GET        ``/status``             phase, free sessions, batches and counters, as JSON
=========  ======================  ======================================================

Every connection is one robot's: it owns a session until it ends. Any ASGI server runs this.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from vla_ros.errors import VlaError
from vla_ros.motion import Contract
from vla_ros.serving import act, openpi, vla_eval
from vla_ros.serving.access import Access, Refusal
from vla_ros.serving.connection import (
    Connection,
    HarnessSpeaker,
    OpenpiSpeaker,
    Receive,
    Send,
    Speaker,
)
from vla_ros.serving.errors import ServerFull, ServingError
from vla_ros.serving.inputs import Keys
from vla_ros.serving.replica import Replica, ServedSession
from vla_ros.serving.vla_eval import Harness

CLOSE_FULL = 1013
_OPEN_TO_ALL = ('/healthz', '/health')

Scope = Mapping[str, Any]

_log = logging.getLogger('vla_serve')


class Application:
    """The application; call it as ASGI says."""

    def __init__(
        self,
        replica: Replica,
        access: Access | None = None,
        keys: Keys | None = None,
        contracts: dict[str, Contract] | None = None,
    ) -> None:
        """Serve a replica that has started.

        :param access: by default no token is needed.
        :param keys: which key of a foreign client is which input.
        :param contracts: by unnorm_key; they say which column is a gripper.
        """
        self._replica, self._access = replica, access or Access()
        self._keys, self._contracts = keys or {}, contracts or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope['type'] == 'lifespan':
            await _live(receive, send)
        elif scope['type'] == 'websocket':
            await self._websocket(scope, receive, send)
        elif scope['type'] == 'http':
            await self._http(scope, receive, send)

    # -- websockets ----------------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        speaker = self._speaker(_path(scope))
        refusal = self._refusal(scope)
        if speaker is None or refusal is not None:
            await _deny(scope, send, 404 if refusal is None else int(refusal))
            return
        try:
            session = self._replica.open()
        except ServerFull as full:
            # Accepted first: only then do clients learn the code and the reason.
            await send({'type': 'websocket.accept'})
            await send({'type': 'websocket.close', 'code': CLOSE_FULL, 'reason': full.what[:120]})
            return
        try:
            await send({'type': 'websocket.accept'})
            self._replica.counters.connections += 1
            await Connection(self._replica, speaker, session, receive, send).run()
        finally:  # also when the server cancels this task, because the client has left
            session.close()

    def _speaker(self, path: str) -> Speaker | None:
        if path in (openpi.PATH, openpi.OMNI_PATH):
            return OpenpiSpeaker(self._replica, self._keys, path)
        if path == vla_eval.PATH:
            harness = Harness(self._replica.served(), self._keys, self._contracts)
            return HarnessSpeaker(self._replica, harness)
        return None

    def _refusal(self, scope: Scope) -> Refusal | None:
        refusal = self._access.refusal(scope['headers'])
        if refusal is Refusal.UNAUTHORIZED:
            self._replica.counters.unauthorized += 1
        elif refusal is Refusal.FOREIGN:
            self._replica.counters.foreign += 1
        return refusal

    # -- requests ------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = _path(scope), scope['method']
        if path not in _OPEN_TO_ALL and (refusal := self._refusal(scope)) is not None:
            await _respond(send, int(refusal), b'')
        elif (method, path) == ('POST', act.PATH):
            await self._act(receive, send)
        elif method == 'GET' and path in (*_OPEN_TO_ALL, '/metadata', '/status'):
            await _respond(send, *self._told(path))
        else:
            await _respond(send, 404, b'')

    def _told(self, path: str) -> tuple[int, bytes, str]:
        if path == '/metadata':
            return 200, _json(openpi.greeting(self._replica.served())), 'application/json'
        if path == '/status':
            told = {
                'phase': self._replica.phase,
                'sessions_free': self._replica.served().sessions_free,
                'batches': self._replica.batches,
                'counters': self._replica.counters.to_map(),
            }
            return 200, _json(told), 'application/json'
        try:
            self._replica.check()
        except ServingError:
            return 503, b'', 'text/plain'
        if path == '/health':
            return 200, _json({'status': 'ok'}), 'application/json'
        return 200, b'OK\n', 'text/plain'

    async def _act(self, receive: Receive, send: Send) -> None:
        body = await _body(receive, act.LIMITS.frame_bytes)
        if body is None:
            return
        try:
            session = self._replica.open()
        except ServerFull:
            await _respond(send, 503, act.ERROR, 'application/json')
            return
        try:
            left = asyncio.ensure_future(_until_left(receive))
            answering = asyncio.ensure_future(self._acted(body, session))
            try:
                await asyncio.wait((left, answering), return_when=asyncio.FIRST_COMPLETED)
                if answering.done():
                    await _respond(send, 200, answering.result(), 'application/json')
            finally:
                left.cancel()
                answering.cancel()
        finally:
            session.close()

    async def _acted(self, body: bytes, session: ServedSession) -> bytes:
        stamp_ns, served = self._replica.clock.now_ns(), self._replica.served()
        try:
            asked = await asyncio.to_thread(act.read, body, served, self._keys, stamp_ns)
        except VlaError as error:
            self._replica.counters.malformed += 1
            _log.info('a body of /act cannot be used: %s', error)
            return act.ERROR
        return act.write(asked, await session.ask(asked.request))


async def _live(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())['type']
        await send({'type': f'{kind}.complete'})
        if kind == 'lifespan.shutdown':
            return


async def _deny(scope: Scope, send: Send, status: int) -> None:
    """End a websocket before it is accepted."""
    if 'websocket.http.response' in (scope.get('extensions') or {}):
        await send({'type': 'websocket.http.response.start', 'status': status, 'headers': []})
        await send({'type': 'websocket.http.response.body', 'body': b''})
    else:
        await send({'type': 'websocket.close', 'code': 1008})


async def _respond(send: Send, status: int, body: bytes, kind: str = 'text/plain') -> None:
    headers = [(b'content-type', kind.encode()), (b'content-length', str(len(body)).encode())]
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})


async def _body(receive: Receive, most: int) -> bytes | None:
    """Return a body; None if the client left. One that is too long ends as one byte too many."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message['type'] != 'http.request':
            return None
        part = message.get('body', b'')
        size += len(part)
        if size <= most + 1:
            parts.append(part)
        if not message.get('more_body', False):
            return b''.join(parts) if size <= most else bytes(most + 1)


async def _until_left(receive: Receive) -> None:
    while (await receive())['type'] != 'http.disconnect':
        pass


def _path(scope: Scope) -> str:
    """Return the path below the prefix of the application."""
    path: str = scope['path']
    root: str = scope.get('root_path') or ''
    if root and path.startswith(root):
        path = path[len(root) :]
    return path if path.startswith('/') else f'/{path}'


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
