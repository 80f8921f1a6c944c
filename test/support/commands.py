# SPDX-License-Identifier: Apache-2.0
"""Processes that a test starts with a Python of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from support.places import ROOT

# For a process that a test stops (SIGSTOP). With Fast DDS's shared memory, it could hold a lock
# meanwhile, and others would wait for it for seconds (docs/install.md).
STOPPABLE = {'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}


@contextlib.contextmanager
def running_python(
    *arguments: str, environment: Mapping[str, str] | None = None, **streams: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run Python in the source tree. Kill it at the end: a test that fails must not wait for it.

    :param environment: variables in addition to those of this process.
    :param streams: options of ``subprocess.Popen``.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        text=True,
        **streams,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
