# SPDX-License-Identifier: Apache-2.0
"""One connection to a REST server: a POST at a time, its answer bounded.

Runs in the loop of :class:`vla_ros.remote.network.Network`. As much of HTTP/1.1 (RFC 9112) as
servers of policies use: a body with a length, in chunks, or up to the end of the connection.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from vla_ros.remote.address import Address
from vla_ros.remote.failures import ConnectionFailed, of_exception, of_status
from vla_ros.remote.websocket import OPEN_TIMEOUT_S
from vla_ros.wire import MAX_FRAME_BYTES

_MAX_HEADER_BYTES = 65_536
_MAX_LINES = 200


class Rest:
    """An open connection, which its server may keep open for the next request."""

    def __init__(
        self,
        address: Address,
        headers: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Take over an open socket; :meth:`open` makes one."""
        self._shown = str(address)
        self._reader, self._writer = reader, writer
        given = {'Host': address.authority, 'Content-Type': 'application/json', **headers}
        lines = (f'{name}: {value}\r\n' for name, value in given.items())
        self._head = f'POST {address.path} HTTP/1.1\r\n{"".join(lines)}'
        self._is_open = True

    @classmethod
    async def open(
        cls, address: Address, headers: dict[str, str], tls: ssl.SSLContext | None
    ) -> tuple[Rest, Any]:
        """Connect, and return the connection with no metadata: such servers have none.

        :raises ConnectionFailed: if there is no connection.
        :raises ServerRefused: if a user must act first.
        """
        opening = asyncio.open_connection(
            address.host, address.port, ssl=tls, limit=_MAX_HEADER_BYTES
        )
        try:
            reader, writer = await asyncio.wait_for(opening, OPEN_TIMEOUT_S)
        except (OSError, TimeoutError, asyncio.TimeoutError) as error:
            raise of_exception(str(address), error) from error
        return cls(address, headers, reader, writer), None

    @property
    def is_open(self) -> bool:
        """Whether it has not been ended here."""
        return self._is_open

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent."""
        return self._is_open and not self._reader.at_eof()

    async def ask(self, body: bytes) -> bytes:
        """Send a request, and return its answer. If there is none, the connection has ended.

        :raises ConnectionFailed: if the connection fails, or the status is not success.
        :raises ServerRefused: if a user must act first.
        """
        is_kept = False
        try:
            await self._check_silence()
            self._writer.write(f'{self._head}Content-Length: {len(body)}\r\n\r\n'.encode() + body)
            await self._writer.drain()
            status, headers = await self._read_head()
            answer = await self._read_body(headers)
            if status != 200:
                raise of_status(self._shown, status)
            is_kept = headers.get('connection', '').lower() != 'close'
            return answer
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            if isinstance(error, ConnectionFailed):
                raise
            text = 'closed the connection' if isinstance(error, EOFError) else f'failed: {error}'
            raise ConnectionFailed(f'{self._shown} {text}', 'see the log of the server') from error
        finally:
            if not is_kept:
                self.abort()

    def abort(self) -> None:
        """End the connection immediately; what the server still sends is never read."""
        self._is_open = False
        self._writer.transport.abort()

    async def _check_silence(self) -> None:
        """Raise ConnectionFailed if the server has sent more than its last answer.

        What it has sent would be read as the answer to the next request.
        """
        more = asyncio.ensure_future(self._reader.read(1))
        await asyncio.sleep(0)  # enough for bytes that have arrived
        is_silent = not more.done()
        more.cancel()
        await asyncio.wait((more,))
        if not is_silent and more.result():
            raise ConnectionFailed(
                f'{self._shown} sent an answer that was not asked for', 'check the server'
            )

    async def _read_head(self) -> tuple[int, dict[str, str]]:
        first = (await self._line()).split(maxsplit=2)
        if len(first) < 2 or not first[0].startswith('HTTP/1.') or not first[1].isdigit():
            raise ConnectionFailed(f'{self._shown} does not speak HTTP', 'check the port in model')
        headers: dict[str, str] = {}
        for _ in range(_MAX_LINES):
            line = await self._line()
            if not line:
                return int(first[1]), headers
            name, _, value = line.partition(':')
            headers[name.strip().lower()] = value.strip()
        raise ValueError(f'more than {_MAX_LINES} headers')

    async def _read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get('transfer-encoding', '').lower() == 'chunked':
            return await self._read_chunks()
        if 'content-length' in headers:
            return await self._reader.readexactly(_bounded(int(headers['content-length'])))
        body = await self._reader.read(MAX_FRAME_BYTES + 1)
        while more := await self._reader.read(_bounded(len(body)) + 1):
            body += more
        return body

    async def _read_chunks(self) -> bytes:
        body = bytearray()
        for _ in range(MAX_FRAME_BYTES // 256):
            size = int((await self._line()).partition(';')[0], 16)
            if not size:
                while await self._line():
                    pass
                return bytes(body)
            _bounded(len(body) + size)
            body += await self._reader.readexactly(size)
            await self._line()
        raise ValueError('too many chunks')

    async def _line(self) -> str:
        return (await self._reader.readuntil(b'\n')).decode('latin-1').strip()


def _bounded(count: int) -> int:
    """Return a number of bytes that may be read.

    :raises ValueError: if it is beyond the limit.
    """
    if not 0 <= count <= MAX_FRAME_BYTES:
        raise ValueError(f'an answer of {count} bytes, at most {MAX_FRAME_BYTES} are allowed')
    return count
