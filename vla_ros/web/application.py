# SPDX-License-Identifier: Apache-2.0
"""The server's paths, and who may use them.

=========  =======================================  ===============================================
GET        ``/``, ``/static/NAME``                  the page; no sign-in
GET        ``/api/session``                         ``{"needs_token": bool, "signed_in": bool}``
POST       ``/api/sign_in``                         ``{"token": TEXT}``; sets the cookie
POST       ``/api/sign_out``                        ``{}``
GET        ``/api/robots``                          ``{"robots": [STATE, ...]}``, for programs
POST       ``/api/robots/ROBOT/COMMAND``            ``{}``; COMMAND of ``messages.COMMANDS``
GET        ``/api/refused``                         counters of what was refused
websocket  ``/api/messages``                        JSON in both directions (``messages.py``)
websocket  ``/api/images``                          images to the page (``messages.py``)
=========  =======================================  ===============================================

A command answers :class:`messages.Answer`: status 200 if it was carried out, 409 if the node
refused it, 504 if the node did not answer. Any other refusal is ``{"error": TEXT}``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import PurePath
from typing import Any

from aiohttp import web

from vla_ros.text import printable
from vla_ros.web.access import COOKIE, Refused
from vla_ros.web.connections import Connections
from vla_ros.web.console import Console
from vla_ros.web.images import ImagePage
from vla_ros.web.limits import BODY_BYTES, BODY_S, MESSAGE_BYTES, SESSION_S
from vla_ros.web.messages import COMMANDS, to_json
from vla_ros.web.pages import Page

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HEADERS = {
    'Cache-Control': 'no-store',
    'Content-Security-Policy': (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'Server': 'vla_console',
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
}
_KINDS = {
    '.css': 'text/css',
    '.html': 'text/html',
    '.js': 'text/javascript',
    '.png': 'image/png',
    '.svg': 'image/svg+xml',
    '.webmanifest': 'application/manifest+json',
}
_OPEN = ('/api/session', '/api/sign_in')  # without a sign-in, beside the page's files


def application(console: Console, connections: Connections, has_tls: bool) -> web.Application:
    """Return the application.

    :param has_tls: whether the cookie is for TLS only.
    """
    handlers = _Handlers(console, connections, has_tls)
    app = web.Application(middlewares=[handlers.guard], client_max_size=BODY_BYTES)
    app.router.add_get('/', handlers.index)
    app.router.add_get('/static/{name}', handlers.static)
    app.router.add_get('/api/session', handlers.session)
    app.router.add_post('/api/sign_in', handlers.sign_in)
    app.router.add_post('/api/sign_out', handlers.sign_out)
    app.router.add_get('/api/robots', handlers.robots)
    app.router.add_post('/api/robots/{robot}/{command}', handlers.command)
    app.router.add_get('/api/refused', handlers.refused)
    app.router.add_get('/api/messages', handlers.messages)
    app.router.add_get('/api/images', handlers.images)
    return app


class _Handlers:
    def __init__(self, console: Console, connections: Connections, has_tls: bool) -> None:
        self._console, self._access = console, console.access
        self._connections, self._has_tls = connections, has_tls
        self._files = _static_files()

    @property
    def guard(self) -> Any:
        """The middleware around every request."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            with self._connections.answering(request):
                try:
                    self._check(request)
                    response = await handler(request)
                except Refused as refused:
                    self._access.refused.count(refused.name)
                    response = _json({'error': str(refused)}, refused.status)
                except web.HTTPException as error:
                    response = _json({'error': printable(error.reason)}, error.status)
            if not response.prepared:
                response.headers.update(_HEADERS)
            return response

        return guard

    def _check(self, request: web.Request) -> None:
        self._access.check_site(request.method, request.path, request.headers)
        is_file = request.path == '/' or request.path.startswith('/static/')
        if not is_file and request.path not in _OPEN:
            self._access.check_token(request.cookies.get(COOKIE, ''), request.headers)

    # -- the page ----------------------------------------------------------------------------------

    async def index(self, _: web.Request) -> web.Response:
        return self._file('index.html')

    async def static(self, request: web.Request) -> web.Response:
        return self._file(request.match_info['name'])

    def _file(self, name: str) -> web.Response:
        content = self._files.get(name)
        if content is None:
            raise Refused(404, 'malformed', 'there is no such file')
        kind = _KINDS[PurePath(name).suffix]
        charset = 'utf-8' if kind.startswith('text/') else None
        return web.Response(body=content, content_type=kind, charset=charset)

    # -- sign-in -----------------------------------------------------------------------------------

    async def session(self, request: web.Request) -> web.Response:
        cookie = request.cookies.get(COOKIE, '')
        return _json(
            {
                'needs_token': bool(self._access.digest),
                'signed_in': self._access.is_signed_in(cookie, request.headers),
            }
        )

    async def sign_in(self, request: web.Request) -> web.Response:
        token = (await self._body(request)).get('token')
        if not isinstance(token, str):
            raise Refused(400, 'malformed', 'the body has no token')
        response = _json({})
        response.set_cookie(
            COOKIE,
            self._access.sign_in(token),
            max_age=round(SESSION_S),
            httponly=True,
            samesite='Strict',
            secure=self._has_tls,
        )
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        self._access.sign_out(request.cookies.get(COOKIE, ''))
        response = _json({})
        response.del_cookie(COOKIE)
        return response

    # -- robots ------------------------------------------------------------------------------------

    async def robots(self, _: web.Request) -> web.Response:
        states = [to_json(desk.state('')) for desk in self._console.desks.values()]
        return web.Response(
            text=f'{{"robots":[{",".join(states)}]}}', content_type='application/json'
        )

    async def command(self, request: web.Request) -> web.Response:
        desk = self._console.desk(request.match_info['robot'])
        command = request.match_info['command']
        if command not in COMMANDS:
            raise Refused(404, 'malformed', f'there is no command {command[:80]!r}')
        answer = await desk.command(command)  # a stop waits for nothing, not even for its body
        status = 200 if answer.ok else 409 if answer.confirmed else 504
        return web.Response(text=to_json(answer), status=status, content_type='application/json')

    async def refused(self, _: web.Request) -> web.Response:
        return _json(dataclasses.asdict(self._access.refused))

    # -- websockets --------------------------------------------------------------------------------

    async def messages(self, request: web.Request) -> web.StreamResponse:
        return await self._websocket(request, Page)

    async def images(self, request: web.Request) -> web.StreamResponse:
        return await self._websocket(request, ImagePage)

    async def _websocket(
        self, request: web.Request, kind: type[Page] | type[ImagePage]
    ) -> web.StreamResponse:
        with self._console.listening() as bell:
            socket = web.WebSocketResponse(
                max_msg_size=MESSAGE_BYTES, compress=False, heartbeat=10.0, timeout=1.0
            )
            socket.headers.update(_HEADERS)
            await socket.prepare(request)
            await kind(self._console, socket, bell).run()
            await socket.close()
            return socket

    async def _body(self, request: web.Request) -> dict[str, Any]:
        """Return the request's JSON object.

        :raises Refused: if it is none, too large or too slow.
        """
        try:
            content = json.loads(await asyncio.wait_for(request.read(), BODY_S))
        except asyncio.TimeoutError:
            raise Refused(408, 'too_slow', f'the body took more than {BODY_S:g} s') from None
        except web.HTTPRequestEntityTooLarge:
            raise Refused(413, 'too_large', f'the body is above {BODY_BYTES} bytes') from None
        except (ValueError, RecursionError, web.RequestPayloadError):
            content = None
        if not isinstance(content, dict):
            raise Refused(400, 'malformed', 'the body is no JSON object')
        return content


def _json(content: Any, status: int = 200) -> web.Response:
    return web.json_response(content, status=status)


def _static_files() -> dict[str, bytes]:
    """Return the page's files by name, read once: no path of a request reaches the disk."""
    folder = resources.files('vla_ros.web') / 'static'
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.is_file() and PurePath(file.name).suffix in _KINDS
    }
