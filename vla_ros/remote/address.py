# SPDX-License-Identifier: Apache-2.0
"""The address of a server, read from the parameter ``model``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from vla_ros.hosts import can_be_host, is_loopback
from vla_ros.text import quoted
from vla_ros.types import PolicyError

ELSEWHERE = 'server'  # device and dtype of a policy that is not on this machine

_SCHEMES = {'ws': 80, 'wss': 443, 'http': 80, 'https': 443}  # and their ports
_FORM = re.compile(rf'({"|".join(_SCHEMES)})://', re.IGNORECASE)
_EXPECTED = 'ws://HOST:PORT, wss://HOST:PORT, http://HOST:PORT/act or https://HOST:PORT/act'
_VISIBLE = re.compile(r'[\x21-\x7e]{1,500}')


@dataclass(frozen=True)
class Address:
    """Where a server is.

    :param path: begins with a slash.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_rest(self) -> bool:
        """Whether the server is asked by REST, not by a websocket."""
        return self.scheme.startswith('http')

    @property
    def has_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ('wss', 'https')

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine, by its address."""
        return is_loopback(self.host)

    @property
    def authority(self) -> str:
        """Host and port, for headers."""
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{host}:{self.port}'

    def __str__(self) -> str:
        path = '' if self.path == '/' else self.path
        return f'{self.scheme}://{self.authority}{path}'


def is_address(model: str) -> bool:
    """Return whether the parameter ``model`` names a server."""
    return bool(_FORM.match(model))


def read_address(model: str) -> Address:
    """Return the address.

    :raises PolicyError: if it is not one that is allowed.
    """
    try:
        parts = urlsplit(model)
        port = parts.port
    except ValueError as error:
        raise _wrong(model, str(error)) from None
    if parts.username is not None or parts.password is not None:
        # Not quoted: everybody in the graph can read it in the parameter, but not in the log.
        raise PolicyError(
            'model has a user or a password, which all nodes can read in a parameter',
            'set remote_token_file to a file with the token',
        )
    host = parts.hostname or ''
    if not _VISIBLE.fullmatch(model) or not can_be_host(host) or port == 0:
        raise _wrong(model, 'it has no host, or characters that are not allowed')
    if parts.query or parts.fragment:
        raise _wrong(model, 'it has a query or a fragment')
    scheme = parts.scheme.lower()
    path = parts.path or ('/act' if scheme.startswith('http') else '/')
    return Address(scheme, host, port or _SCHEMES[scheme], path)


def _wrong(model: str, why: str) -> PolicyError:
    return PolicyError(
        f'model {quoted(model)} is not the address of a server: {why}',
        value=model,
        expected=_EXPECTED,
    )
