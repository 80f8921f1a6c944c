# SPDX-License-Identifier: Apache-2.0
"""The server from its start to its end: sockets, TLS, and the tick."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from vla_ros.hosts import check_host, server_tls
from vla_ros.web.access import ConsoleError, Refusals
from vla_ros.web.application import application
from vla_ros.web.connections import Connections
from vla_ros.web.console import Console
from vla_ros.web.limits import HANDSHAKE_S, IDLE_S

_TICK_S = 0.1
_SWEEP_TICKS = 10
_HEADER_BYTES = 8190


@dataclass(frozen=True)
class Address:
    """Where the server listens.

    :param port: 0: any that is free.
    :param tls_cert: PEM file; with it the page is at https://.
    """

    host: str = '127.0.0.1'
    port: int = 8080
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def tls(self) -> ssl.SSLContext | None:
        """Return the context of TLS; None without a certificate.

        :raises ConsoleError: if there is a key only.
        :raises HostError: if the files can't be used.
        """
        if self.tls_cert is None:
            if self.tls_key is not None:
                raise ConsoleError('there is a --tls-key but no --tls-cert', 'give both')
            return None
        return server_tls(self.tls_cert, self.tls_key)


@contextlib.asynccontextmanager
async def serving(console: Console, address: Address) -> AsyncIterator[str]:
    """Serve the page until the block ends; provide its URL.

    :raises ConsoleError: if the address can't be used.
    :raises HostError: if others could reach it without a token.
    """
    check_host(address.host, bool(console.access.digest))
    tls = address.tls()
    connections = Connections(console.access.refused)
    app = application(console, connections, tls is not None)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_log(console.access.refused),
        keepalive_timeout=IDLE_S,
        lingering_time=0.0,  # of a body that nobody reads
        max_line_size=_HEADER_BYTES,
        max_field_size=_HEADER_BYTES,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    server = runner.server
    if server is None:
        raise RuntimeError('the runner has no server after its set-up')
    listener = None
    try:
        listener = await _listen(lambda: connections.admit(server), address, tls)
        ticking = asyncio.create_task(_tick(console, connections))
        try:
            name = f'[{address.host}]' if ':' in address.host else address.host
            port = listener.sockets[0].getsockname()[1]
            yield f'http{"s" if tls else ""}://{name}:{port}/'
        finally:
            ticking.cancel()
    finally:
        if listener is not None:
            listener.close()
        await runner.cleanup()


async def _listen(
    admit: Callable[[], asyncio.BaseProtocol], address: Address, tls: ssl.SSLContext | None
) -> asyncio.Server:
    try:
        return await asyncio.get_running_loop().create_server(
            admit,
            address.host,
            address.port,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_S if tls else None,
            backlog=128,
        )
    except socket.gaierror as error:
        raise ConsoleError(
            f'the name of the host {address.host} is not known ({error.strerror})',
            'give the name or the address of this machine as --host',
            value=address.host,
        ) from error
    except OSError as error:
        raise ConsoleError(
            f'the page cannot be served on {address.host}, port {address.port}: {error.strerror}',
            'give another --port, or end the program that has this one',
            value=address.port,
        ) from error


def _log(refused: Refusals) -> logging.Logger:
    """Return a log for errors of ours; what strangers send that is no HTTP is counted instead.

    aiohttp would write a traceback for each.
    """

    def is_ours(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        is_strangers = isinstance(error, HttpProcessingError)
        refused.malformed += is_strangers
        return not is_strangers and record.levelno >= logging.WARNING

    log = logging.Logger('vla_console')
    log.addFilter(is_ours)
    return log


async def _tick(console: Console, connections: Connections) -> None:
    ticks = 0
    while True:
        await asyncio.sleep(_TICK_S)
        console.tick()
        ticks += 1
        if ticks % _SWEEP_TICKS == 0:
            connections.sweep()
