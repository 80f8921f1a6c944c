# SPDX-License-Identifier: Apache-2.0
"""Plot of the replayed actions over time, with the recorded actions and velocities.

matplotlib is imported only when a plot is drawn. The file contains no time and no version, so equal
numbers give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla_ros.drawing import BLUE, GRAY, GREEN, ORANGE, PURPLE, VERMILLION
from vla_ros.replay.actions import ActionRow
from vla_ros.replay.recorded import Recorded, column

_REPLAYED, _INVALID = BLUE, VERMILLION
_RECORDED = (ORANGE, GREEN, PURPLE, GRAY)
_VELOCITIES = ('m/s', 'm/s', 'm/s', 'rad/s', 'rad/s', 'rad/s')
_WIDTH, _HEIGHT = 9.0, 1.3  # inches, for one dimension
_DPI = 80


def plot_actions(
    path: Path, title: str, rows: Sequence[ActionRow], recorded: Sequence[Recorded] = ()
) -> None:
    """Write a PNG with one panel for each dimension of the action.

    :param rows: at least one; the first row of each action is drawn, invalid ones as marks only.
    :param recorded: actions are drawn on the same scale, velocities on a separate one.
    :raises OSError: if the file can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dimensions = max(1, *(len(row.action) for row in rows))
    figure = Figure(figsize=(_WIDTH, 1.0 + _HEIGHT * dimensions), dpi=_DPI, layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(dimensions, 1, sharex=True, squeeze=False)[:, 0]
    start_ns = rows[0].bag_time_ns
    for index, panel in enumerate(panels):
        _draw_replayed(panel, rows, index, start_ns)
        _draw_recorded(panel, recorded, index, start_ns)
        panel.set_ylabel(f'action {index}')
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel('seconds since the first used image')
    panels[-1].set_xlim(*_span(rows, start_ns))
    figure.suptitle(title, fontsize='medium')
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        list(handles.values()), list(handles), loc='outside lower center', ncols=3, fontsize='small'
    )
    figure.savefig(path, format='png', metadata={'Software': None})


def _span(rows: Sequence[ActionRow], start_ns: int) -> tuple[float, float]:
    """Return the range of the time axis: the images' times with some margin."""
    duration_s = (rows[-1].bag_time_ns - start_ns) / 1e9
    room_s = 0.02 * duration_s or 0.5
    return -room_s, duration_s + room_s


def _draw_replayed(panel: Any, rows: Sequence[ActionRow], index: int, start_ns: int) -> None:
    times_s = [(row.bag_time_ns - start_ns) / 1e9 for row in rows]
    values = [row.action[index] if index < len(row.action) else math.nan for row in rows]
    valid = [v if row.valid else math.nan for v, row in zip(values, rows, strict=True)]
    panel.plot(times_s, valid, '.-', color=_REPLAYED, linewidth=1, markersize=4, label='replayed')
    invalid = [
        (t, v if math.isfinite(v) else 0.0)
        for t, v, row in zip(times_s, values, rows, strict=True)
        if not row.valid
    ]
    if invalid:
        panel.plot(*zip(*invalid, strict=True), 'x', color=_INVALID, label='replayed, not valid')


def _draw_recorded(panel: Any, recorded: Sequence[Recorded], index: int, start_ns: int) -> None:
    velocities = None
    for number, one in enumerate(recorded):
        if not one.is_action and index >= len(_VELOCITIES):
            continue
        axes = panel
        if not one.is_action:
            velocities = velocities or panel.twinx()
            velocities.set_ylabel(_VELOCITIES[index])
            axes = velocities
        axes.plot(
            [(bag_time_ns - start_ns) / 1e9 for bag_time_ns in one.bag_times_ns],
            column(one, index),
            color=_RECORDED[number % len(_RECORDED)],
            linewidth=1,
            label=f'recorded: {one.topic}',
        )
