# SPDX-License-Identifier: Apache-2.0
"""The ports on which the processes of a server listen, read from Linux's ``/proc``."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from vla_ros.serving.errors import ServingError

_LISTENS = '0A'
_SOCKET = re.compile(r'socket:\[(\d+)\]')


@dataclass(frozen=True)
class Listening:
    """A port on which a process listens."""

    host: str
    port: int
    command: str

    @property
    def is_exposed(self) -> bool:
        """Whether other machines reach it."""
        address = ipaddress.ip_address(self.host)
        mapped = getattr(address, 'ipv4_mapped', None)
        return not (mapped or address).is_loopback

    def __str__(self) -> str:
        return f'{self.host} port {self.port} ({self.command})'


def check_ports(process: int, allowed: Collection[int]) -> None:
    """Check that a process and its descendants listen for this machine only.

    :param allowed: ports that others may reach.
    :raises ServingError: with the port and its process.
    """
    exposed = [one for one in listening(process) if one.is_exposed and one.port not in allowed]
    if exposed:
        raise ServingError(
            f'other machines could reach {", ".join(map(str, exposed[:5]))}',
            'report it; until then, --expose starts the server in spite of it',
        )


def listening(process: int) -> list[Listening]:
    """Return the TCP ports on which a process and its descendants listen."""
    owners = {inode: one for one in family(process) for inode in _sockets(one)}
    found = []
    for table in ('tcp', 'tcp6'):
        with contextlib.suppress(OSError):
            lines = Path(f'/proc/net/{table}').read_text().splitlines()[1:]
            for fields in map(str.split, lines):
                if fields[3] == _LISTENS and fields[9] in owners:
                    found.append(Listening(*_address(fields[1]), _command(owners[fields[9]])))
    return found


def free_port() -> int:
    """Return a port of the loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port: int = probe.getsockname()[1]
        return port


def family(process: int) -> list[int]:
    """Return a process and all its descendants, by their numbers."""
    children: dict[int, list[int]] = {}
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int(stat.read_text().rpartition(')')[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    family = [process]
    for one in family:  # it grows
        family += children.get(one, ())
    return family


def _sockets(process: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for file in os.scandir(f'/proc/{process}/fd'):
            with contextlib.suppress(OSError):
                if match := _SOCKET.fullmatch(os.readlink(file.path)):
                    yield match[1]


def _address(text: str) -> tuple[str, int]:
    """Return host and port of ``0100007F:1F90``: words of four bytes, each the last one first."""
    host, _, port = text.partition(':')
    data = bytes.fromhex(host)
    turned = b''.join(data[begin : begin + 4][::-1] for begin in range(0, len(data), 4))
    return str(ipaddress.ip_address(turned)), int(port, 16)


def _command(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f'/proc/{process}/comm').read_text().strip()
    return 'unknown'
