# SPDX-License-Identifier: Apache-2.0
"""The names and addresses of machines."""

from __future__ import annotations

import ipaddress

from vla_ros.errors import VlaError


class HostError(VlaError):
    """A host on which a server must not listen."""


def is_loopback(host: str) -> bool:
    """Return whether only processes of this machine reach the host.

    :param host: name or IP address, without a port.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def can_be_host(text: str) -> bool:
    """Return whether the text has the form of a machine's name or address; it need not exist.

    Python's sockets raise UnicodeError for other texts, such as ``robot..lan``.
    """
    try:
        text.encode('idna')
    except UnicodeError:
        return False
    return bool(text)


def check_host(host: str, has_token: bool, otherwise: str = '') -> None:
    """Raise HostError if a server must not listen there: others could reach it without a token.

    :param otherwise: what else the user may do, as the end of the advice.
    """
    if not can_be_host(host):
        raise HostError(f'host {host!r} is no name of a machine', 'correct it', value=host)
    if not (is_loopback(host) or has_token):
        raise HostError(
            f'host {host} is reached from other machines, and there is no token',
            f'give --token-file FILE (openssl rand -hex 32 > FILE; chmod 600 FILE){otherwise}',
            value=host,
            expected='127.0.0.1 without a token',
        )
