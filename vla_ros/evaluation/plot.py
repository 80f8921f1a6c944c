# SPDX-License-Identifier: Apache-2.0
"""A plot of the success rate of each condition, and of the effect of added latency.

matplotlib is imported when something is drawn. Files have neither time nor version: equal numbers
give equal bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla_ros.drawing import BLUE, GRAY, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILLION
from vla_ros.evaluation.summary import Condition
from vla_ros.measure.statistics import Summary

_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY_BLUE, GRAY)
_BARS = SKY_BLUE
_WIDTH, _BAR, _CURVE, _AROUND = 9.0, 0.36, 3.2, 1.0  # inches
_DPI = 100


def plot_success(summaries: Sequence[Summary], path: Path) -> None:
    """Write a PNG with the success rates.

    It has a bar for each condition, with its interval. Below is the success over the added latency,
    with a line for each group of conditions that differ only in latency.

    :param summaries: at least one, from :func:`~vla_ros.evaluation.summary.summarize`.
    :raises OSError: if it can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = _curves(summaries)
    heights = [_AROUND + _BAR * len(summaries), *([_CURVE] if curves else [])]
    figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=_DPI, layout='constrained')
    FigureCanvasAgg(figure)
    # Each has its own width, so that the names of the bars do not make the curves narrow.
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_bars(parts[0].subplots(), summaries)
    if curves:
        _draw_curves(parts[1].subplots(), curves)
    figure.savefig(path, format='png', metadata={'Software': None})


def _curves(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    """Return the groups with several added latencies, by name, each by rising latency."""
    groups: dict[str, list[Summary]] = {}
    for summary in summaries:
        condition = Condition.from_json(summary)
        name = str(dataclasses.replace(condition, added_latency_s=0.0))
        groups.setdefault(name, []).append(summary)
    return {
        name: sorted(group, key=lambda one: one['added_latency_s'])
        for name, group in groups.items()
        if len({one['added_latency_s'] for one in group}) > 1
    }


def _draw_bars(panel: Any, summaries: Sequence[Summary]) -> None:
    places = range(len(summaries))
    rates = _percent(summaries)
    panel.barh(places, rates, height=0.7, color=_BARS)
    panel.errorbar(rates, places, xerr=_reach(summaries), fmt='none', ecolor='black', capsize=3)
    for place, summary in zip(places, summaries, strict=True):
        high = 100 * summary['all']['interval'][1]
        text = f'{summary["all"]["successes"]}/{summary["all"]["episodes"]}'
        panel.text(high + 1.5, place, text, va='center', fontsize='small')
    panel.set_yticks(places, [summary['name'] for summary in summaries], fontsize='small')
    panel.invert_yaxis()  # the first on top
    panel.set_xlim(0, 115)
    panel.set_xticks(range(0, 101, 20))
    panel.set_xlabel('success, % of episodes, and 95 % interval')
    panel.grid(axis='x', alpha=0.3)
    panel.set_axisbelow(True)


def _draw_curves(panel: Any, curves: dict[str, list[Summary]]) -> None:
    for number, (name, group) in enumerate(curves.items()):
        panel.errorbar(
            [1e3 * one['added_latency_s'] for one in group],
            _percent(group),
            yerr=_reach(group),
            fmt='o-',
            color=_COLOURS[number % len(_COLOURS)],
            linewidth=1.5,
            markersize=4,
            capsize=3,
            label=name,
        )
    panel.set_xlabel('added latency, ms')
    panel.set_ylabel('success, %')
    panel.set_ylim(-3, 103)
    panel.grid(alpha=0.3)
    panel.legend(fontsize='small')


def _percent(summaries: Sequence[Summary]) -> list[float]:
    return [100 * one['all']['success_rate'] for one in summaries]


def _reach(summaries: Sequence[Summary]) -> list[list[float]]:
    """Return the interval's reach below and above each rate, in %."""
    rates = [(one['all']['success_rate'], *one['all']['interval']) for one in summaries]
    below = [100 * max(0.0, rate - low) for rate, low, _ in rates]
    above = [100 * max(0.0, high - rate) for rate, _, high in rates]
    return [below, above]
