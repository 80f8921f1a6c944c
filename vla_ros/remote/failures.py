# SPDX-License-Identifier: Apache-2.0
"""Failures of connections, as one sentence each, and which of them no repetition repairs."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl

from vla_ros.reasons import Reason
from vla_ros.types import PolicyError

_FULL = 1013  # try again later
_RESTART = 1012
_TOO_LARGE = 1009
_REFUSED_TOKEN = (401, 403)
_BUSY = (429, 503)
# What TLS raises where a connection is lost, as during a restart.
_LOST = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_NUMBER = re.compile(r'\[Errno (\d+)\]')


class ConnectionFailed(PolicyError):
    """A connection that could not be made, or was lost; the next image may have another."""


class ServerFull(ConnectionFailed):
    """A server that has no session free for one more robot."""


class ServerRestarts(ConnectionFailed):
    """A connection that the server ends because it ends itself, or is replaced by another one."""


class ServerRefused(PolicyError):
    """A server that will not serve this node until a user changes something."""

    reason = Reason.SERVER_REFUSED


def of_close(shown: str, code: int, reason: str) -> ConnectionFailed:
    """Return the failure of a websocket that the server closed.

    :param shown: name of the server.
    """
    said = f'{code} {reason}'.strip()
    if code == _FULL:
        return ServerFull(f'{shown} is full ({said})', 'connect fewer robots, or add replicas')
    if code == _RESTART:
        return ServerRestarts(f'{shown} restarts ({said})', 'it is asked again')
    if code == _TOO_LARGE:
        return ConnectionFailed(
            f'{shown} rejects the size of the observation ({said})', 'let cameras send less'
        )
    return ConnectionFailed(f'{shown} closed the connection ({said})', 'see the log of the server')


def of_status(shown: str, status: int) -> ConnectionFailed | ServerRefused:
    """Return the failure of a request that was answered with a status other than success."""
    if status in _REFUSED_TOKEN:
        return ServerRefused(
            f'{shown} rejects the token ({status})',
            'set remote_token_file to the file with the token of this server',
        )
    if 300 <= status < 400:
        return ServerRefused(
            f'{shown} redirects to another address ({status})', 'set model to that address'
        )
    if status in _BUSY:
        return ServerFull(f'{shown} is full, or not ready ({status})', 'connect fewer robots')
    return ConnectionFailed(
        f'{shown} answers with status {status}', 'check the path in model, and that it is a server'
    )


def of_exception(shown: str, error: BaseException) -> ConnectionFailed | ServerRefused:
    """Return the failure for what a socket or TLS raised."""
    if isinstance(error, ConnectionFailed | ServerRefused):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return ServerRefused(
            f'the certificate of {shown} cannot be trusted ({error.verify_message})',
            'set remote_ca_file to the certificate of the authority that signed it',
        )
    if isinstance(error, ssl.SSLError) and not isinstance(error, _LOST):
        return ServerRefused(
            f'{shown} does not speak TLS as expected ({_reason(error)})',
            'use ws:// or http:// for a server without TLS',
        )
    if isinstance(error, socket.gaierror):
        return ConnectionFailed(f'the name of {shown} is not known ({error.strerror})', 'check it')
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return ConnectionFailed(f'{shown} does not answer', 'check the network, and the server')
    return ConnectionFailed(
        f'no connection to {shown}: {_text(error)}', 'start the server, or check its address'
    )


def _reason(error: ssl.SSLError) -> str:
    """Return OpenSSL's word for it, where there is one."""
    return getattr(error, 'reason', None) or str(error)


def _text(error: BaseException) -> str:
    """Return the system's text; asyncio puts several errors, or addresses, into its own."""
    number = getattr(error, 'errno', None)
    if number is None and (match := _NUMBER.search(str(error))):
        number = int(match[1])
    return os.strerror(number) if number else str(error) or type(error).__name__
