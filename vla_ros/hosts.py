# SPDX-License-Identifier: Apache-2.0
"""The names and addresses of machines, and what a server shows to prove its own."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

from vla_ros.errors import VlaError


class HostError(VlaError):
    """A host on which a server must not listen, or a certificate that it can't show."""


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


def server_tls(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return the context of a server's TLS.

    :param certificate: PEM file.
    :param key: PEM file; None: the key is in the certificate's.
    :raises HostError: if the files can't be used, also if the key needs a password.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password='')  # no server asks at a terminal
    except OSError as error:  # ssl.SSLError is one
        raise HostError(
            f'{certificate} and its key cannot be used: {error}',
            'give PEM files of a pair, and a key without a password',
        ) from error
    return context
