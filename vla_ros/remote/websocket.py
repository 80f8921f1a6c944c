# SPDX-License-Identifier: Apache-2.0
"""One websocket to a server: metadata first, then requests and answers in turns.

Runs in the loop of :class:`vla_ros.remote.network.Network`. A connection is used until it fails; it
is never repaired. websockets 17.4: https://websockets.readthedocs.io.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from vla_ros.remote.address import Address
from vla_ros.remote.failures import (
    ConnectionFailed,
    ServerRefused,
    of_close,
    of_exception,
    of_status,
)
from vla_ros.text import printable
from vla_ros.wire import MAX_FRAME_BYTES, WireError, unpack

OPEN_TIMEOUT_S = 5.0
_PING_S = 5.0  # between two pings of an idle connection, and within which one is answered
_CLOSE_S = 0.2
_QUIET = logging.getLogger('vla_ros.remote.websockets')  # every failure is an error of ours
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


class _Connect(connect):
    """A connection to the address of the user, and to no other one."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the exception, so that no redirect is followed."""
        return exc


class WebSocket:
    """An open connection whose metadata has arrived."""

    def __init__(self, address: Address, socket: ClientConnection) -> None:
        """Take over an open socket; :meth:`open` makes one."""
        self._shown = str(address)
        self._socket = socket
        self._failure: ConnectionFailed | None = None
        self._waiting: asyncio.Future[bytes | str] | None = None  # who gets the next frame
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(
        cls, address: Address, headers: dict[str, str], tls: ssl.SSLContext | None
    ) -> tuple[WebSocket, Any]:
        """Connect, and return the connection with the server's metadata.

        :raises ConnectionFailed: if there is no connection.
        :raises ServerRefused: if a user must act first.
        """
        try:
            socket = await _Connect(
                f'{address.scheme}://{address.authority}{address.path}',
                additional_headers=headers,
                ssl=tls,
                compression=None,
                proxy=None,
                open_timeout=OPEN_TIMEOUT_S,
                ping_interval=None,
                close_timeout=_CLOSE_S,
                max_size=MAX_FRAME_BYTES,
                max_queue=2,
                logger=_QUIET,
            )
        except InvalidStatus as error:
            raise of_status(str(address), error.response.status_code) from error
        except (OSError, InvalidHandshake, TimeoutError) as error:
            raise of_exception(str(address), error) from error
        connection = cls(address, socket)
        try:
            first = connection._expect()
            connection._start()
            frame = await asyncio.wait_for(first, OPEN_TIMEOUT_S)
            return connection, unpack(connection._binary(frame))
        except WireError as error:
            connection.abort()
            raise ServerRefused(
                f'{address} sends no metadata first: {error.what}',
                'check that it is a server of this protocol',
            ) from error
        except (TimeoutError, asyncio.TimeoutError) as error:
            connection.abort()
            raise ConnectionFailed(
                f'{address} is open, but sends no metadata',
                'check that it is a server of this protocol, and its path',
            ) from error
        except BaseException:
            connection.abort()
            raise

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self._failure is None

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent."""
        return self.is_open and self._waiting is None

    async def ask(self, frame: bytes) -> bytes:
        """Send a request, and return its answer. If there is none, the connection has ended.

        :raises ConnectionFailed: if the connection fails, or the answer is text: an error.
        """
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        answer = self._expect()
        try:
            await self._socket.send(frame)
            return self._binary(await answer)
        except ConnectionClosed as error:
            raise self._closed(error) from error
        finally:
            if self._waiting is not None or not answer.done() or answer.cancelled():
                self.abort()
            elif answer.done():
                answer.exception()  # the connection may have failed while the frame was sent

    def abort(self) -> None:
        """End the connection immediately; what the server still sends is never read."""
        if self._failure is None:
            self._failure = ConnectionFailed(
                f'the connection to {self._shown} was ended', 'the next image has another'
            )
        for task in self._tasks:
            task.cancel()
        self._socket.transport.abort()

    def _start(self) -> None:
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._keep_alive())]

    def _expect(self) -> asyncio.Future[bytes | str]:
        """Return what gets the next frame."""
        self._waiting = asyncio.get_running_loop().create_future()
        return self._waiting

    def _binary(self, frame: bytes | str) -> bytes:
        """Return the frame; openpi's servers send a traceback as text, and close.

        :raises ConnectionFailed: if it is text.
        """
        if isinstance(frame, bytes):
            return frame
        last = frame.strip().rpartition('\n')[2]
        self.abort()
        raise ConnectionFailed(
            f'{self._shown} answers with an error: {printable(last, 300)}',
            'see the log of the server',
        )

    async def _read(self) -> None:
        """Hand each frame to the request that waits for it."""
        try:
            while True:
                frame = await self._socket.recv()
                waiting, self._waiting = self._waiting, None
                if waiting is None:
                    self._fail('sent a message that was not asked for')
                    return
                if not waiting.done():
                    waiting.set_result(frame)
        except ConnectionClosed as error:
            self._fail_with(self._closed(error))

    def _fail(self, what: str) -> None:
        self._fail_with(ConnectionFailed(f'{self._shown} {what}', 'check the server'))

    def _fail_with(self, failure: ConnectionFailed) -> None:
        if self._failure is None:
            self._failure = failure
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(self._failure)
        self._socket.transport.abort()

    def _closed(self, error: ConnectionClosed) -> ConnectionFailed:
        if error.rcvd is not None:
            return of_close(self._shown, error.rcvd.code, printable(error.rcvd.reason, 100))
        if error.sent is not None and error.sent.code == 1009:
            return ConnectionFailed(
                f'{self._shown} sent more than {MAX_FRAME_BYTES} bytes', 'check the server'
            )
        return ConnectionFailed(
            f'the connection to {self._shown} is lost', 'see the log of the server'
        )

    async def _keep_alive(self) -> None:
        """Ping while no request waits: a server may be busy for as long as the request may take."""
        while True:
            await asyncio.sleep(_PING_S)
            if self._waiting is not None:
                continue
            try:
                pong = await self._socket.ping()
                await asyncio.wait_for(pong, _PING_S)
            except (TimeoutError, asyncio.TimeoutError):
                if self._waiting is None:
                    self._fail('does not answer pings')
                    return
            except ConnectionClosed:
                return
