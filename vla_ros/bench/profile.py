# SPDX-License-Identifier: Apache-2.0
"""Profile of one inference by torch's profiler: the slowest operators, and a trace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from vla_ros.bench.measure import Infer

_MOST_OPERATORS = 15


@dataclass(frozen=True)
class Operator:
    """The time of one operator, or of the parts of a stage that are in no operator.

    :param self_s: seconds in the operator itself, without the operators that it calls; the GPU's
        time where there is a GPU.
    :param share: share of the total.
    """

    name: str
    calls: int
    self_s: float
    share: float


def profile_inference(infer: Infer, trace: Path) -> list[Operator]:
    """Profile one inference, and write its trace.

    :param trace: file to write, for Perfetto (ui.perfetto.dev) or chrome://tracing. It has the
        stages under their names.
    :returns: the slowest operators.
    :raises OSError: if the trace can't be written.
    """
    activities = [ProfilerActivity.CPU]
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        activities.append(ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        infer()
    profiler.export_chrome_trace(str(trace))
    events = profiler.key_averages()
    attribute = 'self_device_time_total' if on_cuda else 'self_cpu_time_total'  # microseconds
    self_s = [getattr(event, attribute) / 1e6 for event in events]
    operators = [
        Operator(event.key, event.count, seconds, seconds / sum(self_s))
        for event, seconds in zip(events, self_s, strict=True)
    ]
    return sorted(operators, key=lambda one: one.self_s, reverse=True)[:_MOST_OPERATORS]


def operator_table(operators: list[Operator]) -> str:
    """Return the operators as a table."""
    lines = [f'{"operator":48} {"calls":>6} {"self ms":>10} {"share":>6}']
    lines += [
        f'{operator.name[:48]:48} {operator.calls:6d} {1e3 * operator.self_s:10.2f} '
        f'{operator.share:6.1%}'
        for operator in operators
    ]
    return '\n'.join(lines)
