# SPDX-License-Identifier: Apache-2.0
"""Start and end of processes: a Python of their own, families of processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from support.places import ROOT
from vla_ros.serving.ports import family

PIPES = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}

# For a process that a test stops (SIGSTOP). With Fast DDS's shared memory, it could hold a lock
# meanwhile, and others would wait for it for seconds (docs/install.md).
STOPPABLE = {'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}


@contextlib.contextmanager
def running_python(
    *arguments: str, environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run Python in the source tree, and kill it at the end: a failed test must not wait for it.

    :param environment: variables in addition to those of this process.
    :param options: of ``subprocess.Popen``.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        text=True,
        **options,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def kill_family(process: int) -> None:
    """Kill a process and all that it started."""
    for one in family(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
