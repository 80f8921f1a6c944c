# SPDX-License-Identifier: Apache-2.0
"""A server: how to connect to it, and which dialect it speaks."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from vla_ros.errors import VlaError
from vla_ros.files import read_bytes
from vla_ros.motion import Contract, load_contracts
from vla_ros.policy_request import PolicyRequest
from vla_ros.remote.address import Address, read_address
from vla_ros.remote.dialects import Dialect, Ours, foreign
from vla_ros.remote.failures import ConnectionFailed
from vla_ros.remote.network import Network
from vla_ros.remote.rest import Rest
from vla_ros.remote.websocket import WebSocket
from vla_ros.types import PolicyError, Progress, ProgressCallback
from vla_ros.wire import ServedPolicy, WireError, is_ours
from vla_ros.wire.token import HEADER, authorization, read_token

_LOG = logging.getLogger(__name__)
_RETRY_S = 1.0
_REPORT_S = 0.1
_PATIENCE_S = 0.25  # with an attempt, before another one begins beside it
_ATTEMPTS = 3  # beside each other
_MAX_CA_BYTES = 4_000_000


class Connection(Protocol):
    """A connection of one session, used in the network's loop."""

    @property
    def is_open(self) -> bool: ...

    @property
    def is_usable(self) -> bool: ...

    async def ask(self, message: bytes) -> bytes: ...

    def abort(self) -> None: ...


class Server:
    """The address, the secrets and the contract of a server; any thread."""

    def __init__(self, request: PolicyRequest) -> None:
        """Read the files that the request names.

        :raises PolicyError: if the address, or one of the files, can't be used.
        """
        self.address: Address = read_address(request.model)
        self._headers: dict[str, str] = {}
        self._image = cast(Literal['raw', 'png', 'jpeg'], request.remote_image)
        self._contract = _contract(request)
        try:
            if request.remote_token_file:
                token = read_token(Path(request.remote_token_file))
                self._headers[HEADER] = authorization(token)
            self.tls = _tls(self.address, request.remote_ca_file)
        except VlaError as error:
            raise PolicyError(error.what, error.advice or 'correct the parameter') from error

    @property
    def warning(self) -> str:
        """What a network could do to this connection; empty if it is safe."""
        if self.address.has_tls or self.address.is_loopback:
            return ''
        secret = ' and the token' if self._headers else ''
        return (
            f'{self.address} is not encrypted: others on the network can read the images{secret}, '
            'and can send actions; use wss:// or https:// (docs/serving.md)'
        )

    async def open(self) -> tuple[Connection, Dialect]:
        """Connect, and return the connection with the dialect that its metadata tells.

        :raises ConnectionFailed: if there is no connection.
        :raises ServerRefused: if a user must act first.
        :raises PolicyError: if it is not known how to speak to it.
        """
        opened: tuple[Connection, Any]
        if self.address.is_rest:
            opened = await Rest.open(self.address, self._headers, self.tls)
        else:
            opened = await WebSocket.open(self.address, self._headers, self.tls)
        connection, metadata = opened
        try:
            return connection, self._dialect(metadata)
        except BaseException:
            connection.abort()
            raise

    def _dialect(self, metadata: Any) -> Dialect:
        shown = str(self.address)
        if not is_ours(metadata):
            rest = self.address.is_rest
            return foreign(shown, self._contract, rest, self._image, metadata)
        try:
            return Ours(shown, ServedPolicy.from_metadata(metadata), self._image)
        except WireError as error:
            raise PolicyError(
                f'{shown} sends metadata that cannot be used: {error.what}', error.advice
            ) from error


async def open_soonest(server: Server) -> tuple[Connection, Dialect]:
    """Connect by the first attempt that succeeds; while one takes long, others begin beside it.

    Behind one address may be several replicas. One that has stopped still accepts connections, and
    its proxy does not know yet that it answers none.

    :raises ConnectionFailed: if no attempt succeeds; immediately if the only one fails.
    :raises PolicyError: as :meth:`Server.open`.
    """
    attempts: list[asyncio.Task[tuple[Connection, Dialect]]] = []
    waiting: set[asyncio.Task[tuple[Connection, Dialect]]] = set()
    opened = None
    try:
        while True:
            if len(attempts) < _ATTEMPTS:
                attempts.append(asyncio.create_task(server.open()))
                waiting.add(attempts[-1])
            patience_s = _PATIENCE_S if len(attempts) < _ATTEMPTS else None
            done, waiting = await asyncio.wait(
                waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
            )
            for opened in done:
                if not waiting or not isinstance(opened.exception(), ConnectionFailed):
                    return opened.result()
    finally:
        for one in attempts:
            if one is not opened:
                _discard(one)


def _discard(attempt: asyncio.Task[tuple[Connection, Dialect]]) -> None:
    """End an attempt, and the connection that it has, or will have opened by then."""

    def end(ended: asyncio.Task[tuple[Connection, Dialect]]) -> None:
        if not ended.cancelled() and ended.exception() is None:
            ended.result()[0].abort()

    attempt.cancel()
    attempt.add_done_callback(end)


def keep_trying(
    server: Server, network: Network, progress: ProgressCallback
) -> tuple[Connection, Dialect]:
    """Connect; while there is no connection, say whom it waits for and why.

    :param progress: called at least ten times a second; may raise, which ends the wait.
    :raises ServerRefused: if a user must act first.
    """
    said, attempt = '', 0
    while True:
        attempt += 1
        text = f'waits for {server.address}{said}'
        patience = reporter(progress, Progress(text, attempt, 0))
        try:
            return network.run(server.open(), patience)
        except ConnectionFailed as error:
            if said != f': {error.what}':
                _LOG.warning('waits for %s: %s; %s', server.address, error.what, error.advice)
            said = f': {error.what}'
            patience = reporter(progress, Progress(f'waits for {server.address}{said}', attempt, 0))
            network.run(asyncio.sleep(_RETRY_S), patience)


def reporter(progress: ProgressCallback, step: Progress) -> Callable[[], bool]:
    """Return a function that reports a step a few times a second, and never cancels by itself."""
    progress(step)
    last_s = time.monotonic()

    def report() -> bool:
        nonlocal last_s
        if time.monotonic() - last_s >= _REPORT_S:
            last_s = time.monotonic()
            progress(step)
        return False

    return report


def _contract(request: PolicyRequest) -> Contract | None:
    return load_contracts(request.contracts or None).get(request.unnorm_key)


def _tls(address: Address, ca_file: str) -> ssl.SSLContext | None:
    """Return how certificates are checked; None without TLS."""
    if not address.has_tls:
        return None
    if not ca_file:
        return ssl.create_default_context()
    text = read_bytes(Path(ca_file), _MAX_CA_BYTES).decode('ascii', 'ignore')
    try:
        if text:  # without any, those of the system would be trusted
            return ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        pass
    raise PolicyError(
        f'{ca_file} has no certificates', 'set remote_ca_file to a file in PEM', value=ca_file
    )
