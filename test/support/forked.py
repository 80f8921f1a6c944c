# SPDX-License-Identifier: Apache-2.0
"""Processes of this package, forked from one that has imported all they need.

Importing torch takes seconds of a core, a fork a moment. Each pytest process has one such server,
from the standard library; it ends with that process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

_server = multiprocessing.get_context('forkserver')
_server.set_forkserver_preload(['support.preloaded'])


class Forked:
    """``python -m MODULE``, and as much of ``subprocess.Popen`` as the tests use."""

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it.

        :param environment: variables in addition to those of this process.
        """
        descriptor, self._output = tempfile.mkstemp(prefix='vla_ros_output_')
        os.close(descriptor)
        variables = {**os.environ, **(environment or {})}
        self._process = _server.Process(
            target=_run, args=(module, list(arguments), variables, self._output)
        )
        self._process.start()
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
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Return all that was printed, after the end."""
        file = Path(self._output)
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.send_signal(signal.SIGABRT)  # it prints what each of its threads does
            self._process.join(10.0)
            self.kill()  # or this process would wait for it at its own end
            print(file.read_text(errors='replace'))
            raise
        output = file.read_text(errors='replace')
        file.unlink()
        return output, None

    def send_signal(self, sent: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, sent)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def running_forked(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None, **streams: Any
) -> Iterator[Forked]:
    """In place of ``client.processes.running``; what is printed becomes the test's."""
    process = Forked(module, arguments, environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        print(*process.communicate(20.0))


def _run(module: str, arguments: list[str], environment: dict[str, str], output: str) -> None:
    """Be that process."""
    os.environ.clear()
    os.environ.update(environment)
    with open(output, 'wb', buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = [module, *arguments]
    sys.exit(import_module(module).main())
