"""The node in a process of its own, forked from one that has imported all it needs.

Importing torch takes seconds of a core, a fork a moment. Each pytest process has one such server,
from the standard library; it ends with that process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from multiprocessing.connection import Connection

_server = multiprocessing.get_context('forkserver')
_server.set_forkserver_preload(['vla_ros.cli.node', 'vla_ros.ros.node', 'vla_ros.openvla'])


class ForkedNode:
    """As much of ``subprocess.Popen`` as tests of the node use."""

    def __init__(self, arguments: list[str]) -> None:
        """Start ``vla_node`` with these arguments."""
        read_end, write_end = _server.Pipe(duplex=False)
        self._process = _server.Process(target=_run, args=(arguments, dict(os.environ), write_end))
        self._process.start()
        write_end.close()
        self.stdout = os.fdopen(os.dup(read_end.fileno()), encoding='utf-8', errors='replace')
        read_end.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired('vla_node', timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Return all that the process and its watchdog said."""
        with self.stdout, ThreadPoolExecutor(1) as reader:
            try:
                output = reader.submit(self.stdout.read).result(timeout)
            except FutureTimeoutError:
                self.kill()  # else the reader, too, would wait
                raise subprocess.TimeoutExpired('vla_node', timeout) from None
        self.wait(timeout)
        return output, None

    def send_signal(self, sent: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, sent)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], environment: dict[str, str], output: Connection) -> None:
    """Be the node."""
    from vla_ros.cli.node import main

    os.environ.clear()
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    sys.argv = ['vla_node', *arguments]
    sys.exit(main())
