"""How much of the cores each process had, by what its threads are for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_MIDDLEWARE = 'dds.'  # what Fast DDS calls its threads begins so


def cpu_seconds(processes: Mapping[str, int]) -> dict[str, float]:
    """What they have used since they started; two of these make a difference.

    :param processes: process ids by name.
    :returns: of each, under ``NAME main``, ``NAME middleware`` and ``NAME others``, the sum of such
        threads that are still there. Empty where there is no Linux.
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
