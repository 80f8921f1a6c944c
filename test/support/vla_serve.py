# SPDX-License-Identifier: Apache-2.0
"""A process of vla_serve with its replicas, whose processes a test may end or stop."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from support.commands import kill_family
from support.places import ROOT
from vla_ros.serving.ports import family, free_port, listening
from vla_ros.serving.ray_environment import protect_token

PATIENCE_S = 120.0  # of a machine with other work
TOKEN = 'a-token-of-sixteen-and-more'
HEADERS = {'Authorization': f'Bearer {TOKEN}'}

_ESTABLISHED = '01'
_SERVES = re.compile(r'serving ([^ ;]+).*--address (\S+)')


class Processes:
    """What serves a policy.

    :ivar url: of the policy.
    :ivar token: file with the token.
    :ivar log: what the processes print.
    :ivar processes: that were started; their descendants serve.
    """

    url: str
    token: Path
    log: Path
    processes: list[subprocess.Popen[bytes]]

    def replicas(self) -> list[int]:
        """The process ids of the replicas."""
        replica = b'ray::ServeReplica:policy'
        return [one for one, command in self.commands().items() if command[0].startswith(replica)]

    def connections(self, replica: int) -> int:
        """How many there are to a replica; behind HAProxy each is a robot's."""
        ports = {one.port for one in listening(replica) if ':' not in one.host}
        rows = map(str.split, Path('/proc/net/tcp').read_text().splitlines()[1:])
        own = [row[3] for row in rows if int(row[1].partition(':')[2], 16) in ports]
        return own.count(_ESTABLISHED)

    def commands(self) -> dict[int, list[bytes]]:
        """The command lines of all processes."""
        found = {}
        for one in itertools.chain.from_iterable(family(top.pid) for top in self.processes):
            with contextlib.suppress(OSError):
                found[one] = Path(f'/proc/{one}/cmdline').read_bytes().split(b'\0')
        return found


class Server(Processes):
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
        self.processes = [self.process]
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


class Machines(Processes):
    """A Ray cluster of two machines, simulated by addresses of this one, that serves a policy.

    Each has a replica. Their proxies listen on the same port; the kernel leads a connection to one
    of them, as a load balancer does.
    """

    def __init__(self, home: Path, *arguments: str) -> None:
        """Start it with as much for each machine as one replica needs."""
        self.port, port = free_port(), free_port()
        self.url, self.log = f'ws://127.0.0.1:{self.port}', home / 'log'
        self.token = home / 'token'
        self.token.write_text(TOKEN)
        protect_token(home)
        self._environment = {
            **os.environ,
            'HOME': str(home),
            'PYTHONPATH': str(ROOT),
            'RAY_AUTH_MODE': 'token',
            'RAY_SERVE_ENABLE_HA_PROXY': '1',
        }
        head = ['--head', '--node-ip-address=127.0.0.2', f'--port={port}']
        head += [f'--temp-dir={home}/ray', '--include-dashboard=false']
        self.processes = [self._start(*head)]
        self.processes.append(
            self._start(f'--address=127.0.0.2:{port}', '--node-ip-address=127.0.0.3')
        )
        given = ['--port', str(self.port), '--token-file', str(self.token), '--host', '0.0.0.0']
        subprocess.run(
            [sys.executable, '-m', 'vla_ros.cli.serve', *given, '--address', 'auto', *arguments],
            env={**self._environment, 'RAY_ADDRESS': f'127.0.0.2:{port}'},
            timeout=PATIENCE_S,
            check=True,
        )

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [Path(sys.executable).parent / 'ray', 'start', '--block', *arguments]
        command += ['--num-cpus=1', '--object-store-memory=80000000', '--disable-usage-stats']
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open('ab') as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)
        until_s = time.monotonic() + PATIENCE_S
        while b'runtime started' not in self.log.read_bytes()[before:]:
            assert process.poll() is None and time.monotonic() < until_s, self.log.read_text()
            time.sleep(0.1)
        return process

    def kill(self, machine: int) -> None:
        """End all processes of a machine, as a loss of its power does."""
        kill_family(self.processes[machine].pid)
        self.processes[machine].wait(PATIENCE_S)

    def end(self) -> int:
        """End them; 0."""
        for machine, process in enumerate(self.processes):
            if process.poll() is None:
                self.kill(machine)
        return 0
