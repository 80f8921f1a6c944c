# SPDX-License-Identifier: Apache-2.0
"""The open connections of the server: bounded, and none is kept that does nothing.

aiohttp closes a connection that is idle after a request. It waits without limit for the first
request of a connection, and for headers that come byte by byte; here both end after IDLE_S. When
too many connections are open, a new one takes the place of the one that has been idle for longest,
so that idle connections never keep a stop out. Used by the thread of the server's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from vla_ros.clock import Clock, SystemClock
from vla_ros.web.access import Refusals
from vla_ros.web.limits import CONNECTIONS, HANDSHAKE_S, IDLE_S

_MOMENT_S = 0.05


class Connections:
    """Counts what each connection does."""

    def __init__(
        self, refused: Refusals, clock: Clock = SystemClock(), most: int = CONNECTIONS
    ) -> None:
        self._refused, self._clock, self._most = refused, clock, most
        self._busy: Counter[object] = Counter()  # requests that are answered now
        self._idle_since_s: dict[RequestHandler, float] = {}  # the oldest first

    def admit(self, server: web.Server) -> asyncio.Protocol:
        """Return the protocol of a new connection, and close idle ones if there are too many."""
        handler = server()
        self._idle_since_s[handler] = self._clock.monotonic_s()
        if len(self._idle_since_s) + len(self._busy) > self._most:
            # A moment later: of connections that come together, none has its socket yet.
            asyncio.get_running_loop().call_later(_MOMENT_S, self._make_room)
        return handler

    @contextlib.contextmanager
    def answering(self, request: web.BaseRequest) -> Iterator[None]:
        """Mark the connection as busy until the block ends; a websocket is busy while open."""
        handler = request.protocol
        self._busy[handler] += 1
        self._idle_since_s.pop(handler, None)
        try:
            yield
        finally:
            self._busy[handler] -= 1
            if not self._busy[handler]:
                del self._busy[handler]
                if handler.transport is not None:
                    self._idle_since_s[handler] = self._clock.monotonic_s()

    def sweep(self) -> None:
        """Close what was idle for too long. Call it about once a second."""
        now_s = self._clock.monotonic_s()
        for handler, since_s in [*self._idle_since_s.items()]:
            if handler.transport is None and now_s - since_s > HANDSHAKE_S + 1.0:
                del self._idle_since_s[handler]  # it was closed, or never came to be
            elif now_s - since_s > IDLE_S:
                self._close(handler)

    def _make_room(self) -> None:
        too_many = len(self._idle_since_s) + len(self._busy) - self._most
        for handler in [*self._idle_since_s][: max(too_many, 0)]:  # idle for longest
            self._close(handler)

    def _close(self, handler: RequestHandler) -> None:
        self._idle_since_s.pop(handler, None)
        self._refused.too_slow += 1
        if handler.transport is not None:
            handler.transport.abort()
