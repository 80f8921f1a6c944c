# SPDX-License-Identifier: Apache-2.0
"""A process of vla_serve with its replicas, whose processes a test may end or stop."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from support.places import ROOT
from vla_ros.serving.ports import family, free_port, listening

PATIENCE_S = 120.0  # of a machine with other work
TOKEN = 'a-token-of-sixteen-and-more'
HEADERS = {'Authorization': f'Bearer {TOKEN}'}

_ESTABLISHED = '01'
_SERVES = re.compile(r'serving ([^ ;]+).*--address (\S+)')


class Server:
    """A process of vla_serve that has started."""

    def __init__(self, home: Path, *arguments: str) -> None:
        """Start it, and wait until it serves.

        :param home: a folder of its own: of its token, and of Ray's.
        """
        self.port = free_port()
        self.token = home / 'token'
        self.token.write_text(TOKEN)
        self._environment = {**os.environ, 'HOME': str(home), 'PYTHONPATH': str(ROOT)}
        given = ['--port', str(self.port), '--token-file', str(self.token)]
        self._command = [sys.executable, '-m', 'vla_ros.cli.serve', *given]
        self.log = home / 'log'
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                [*self._command, *arguments],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until_s = time.monotonic() + PATIENCE_S
        while not (told := _SERVES.search(self.log.read_text())):
            if self.process.poll() is not None or time.monotonic() > until_s:
                self.process.kill()
                raise AssertionError(self.log.read_text())
            time.sleep(0.05)
        self.url, self.cluster = told[1].rstrip('/'), told[2]

    def end(self) -> int:
        """End it as a user does; its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def deploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another call that replaces the policy."""
        command = [*self._command, '--address', self.cluster, *arguments]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=PATIENCE_S
        )

    def replicas(self) -> list[int]:
        """Their process ids."""
        return [
            one
            for one, command in self.commands().items()
            if command[0].startswith(b'ray::ServeReplica:policy')
        ]

    def connections(self, replica: int) -> int:
        """How many there are to a replica; behind HAProxy each is a robot's."""
        ports = {one.port for one in listening(replica) if one.host == '127.0.0.1'}
        rows = map(str.split, Path('/proc/net/tcp').read_text().splitlines()[1:])
        return sum(
            row[3] == _ESTABLISHED and int(row[1].partition(':')[2], 16) in ports for row in rows
        )

    def commands(self) -> dict[int, list[bytes]]:
        """The command lines of its processes."""
        found = {}
        for one in family(self.process.pid):
            with contextlib.suppress(OSError):
                found[one] = Path(f'/proc/{one}/cmdline').read_bytes().split(b'\0')
        return found
