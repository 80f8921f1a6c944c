# SPDX-License-Identifier: Apache-2.0
"""CPU time of processes, by the purpose of their threads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_MIDDLEWARE = 'dds.'  # prefix of the names of Fast DDS's threads


def cpu_seconds(processes: Mapping[str, int]) -> dict[str, float]:
    """Return the CPU seconds of processes since their start; subtract two calls for an interval.

    :param processes: process ids by name.
    :returns: for each process ``NAME main``, ``NAME middleware`` and ``NAME others``, the sums over
        its living threads. Empty where there is no Linux.
    """
    seconds: dict[str, float] = {}
    for name, pid in processes.items():
        for task in Path(f'/proc/{pid}/task').glob('*'):
            try:
                on_cpu_ns = int((task / 'schedstat').read_text().split()[0])
                thread = (task / 'comm').read_text()
            except OSError:  # the thread has just ended
                continue
            kind = 'middleware' if thread.startswith(_MIDDLEWARE) else 'others'
            key = f'{name} {"main" if int(task.name) == pid else kind}'
            seconds[key] = seconds.get(key, 0.0) + on_cpu_ns / 1e9
    return seconds
