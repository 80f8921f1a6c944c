# SPDX-License-Identifier: Apache-2.0
"""Parts shared by the reports: percentiles, agreement of tokens, recipes and tables."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Summary = dict[str, Any]


def percentiles(times: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Return the percentiles 50, 95 and 99 in the unit of the times, interpolated."""
    return {f'p{q}': float(np.percentile(times, q)) for q in (50, 95, 99)}


def compare_tokens(
    first: Sequence[Sequence[int]],
    second: Sequence[Sequence[int]],
    are_bins: Sequence[bool] | None = None,
) -> Summary:
    """Compare two lists of answers to the same images.

    Neighbouring tokens mean neighbouring bins, so the distance of two tokens is a distance in bins.

    :param are_bins: for each pair of answers, whether all its tokens are action tokens; only such
        pairs have a distance. None: all are.
    :returns: ``equal_actions`` (all tokens equal), ``equal_tokens`` (0 to 1; None without tokens),
        ``largest_bin_distance``, and ``dimensions`` with ``tokens``, ``equal`` (number of equal
        tokens) and ``largest_bin_distance`` each.
    """
    answers = [[*itertools.zip_longest(a, b)] for a, b in zip(first, second, strict=True)]
    bins = [True] * len(answers) if are_bins is None else are_bins
    dimensions = []
    for index in range(max(map(len, answers), default=0)):
        met = [
            (answer[index], is_bin)
            for answer, is_bin in zip(answers, bins, strict=True)
            if index < len(answer)
        ]
        distances = [abs(a - b) for (a, b), is_bin in met if is_bin and None not in (a, b)]
        dimensions.append(
            {
                'tokens': len(met),
                'equal': sum(a == b for (a, b), _ in met),
                'largest_bin_distance': max(distances, default=0),
            }
        )
    tokens = sum(one['tokens'] for one in dimensions)
    return {
        'equal_actions': sum(all(a == b for a, b in answer) for answer in answers),
        'equal_tokens': sum(one['equal'] for one in dimensions) / tokens if tokens else None,
        'largest_bin_distance': max((one['largest_bin_distance'] for one in dimensions), default=0),
        'dimensions': dimensions,
    }


def recipe_text(report: Summary) -> str:
    """Return a text with the ``command``, ``date`` and ``machine`` of a report."""
    machine = report['machine']
    return (
        f'{report["command"]}\n{report["date"]}, {machine["cpu"]}, {machine["cores"]} cores '
        f'({" ".join(machine["cpu_flags"])}), {machine["memory_gb"]} GB, '
        f'{", ".join(machine["gpus"]) or "no CUDA"}, {machine["system"]}, '
        f'Python {machine["python"]}, torch {machine["torch"]}'
    )


def table(title: str, names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """Return a table with names on the left; every row must have the same columns."""
    width = max(len(text) for text in (title, *names))
    lines = [f'{title:{width}}', *(f'{name:{width}}' for name in names)]
    for column in rows[0]:
        cells = [column, *(row[column] for row in rows)]
        cell_width = max(map(len, cells))
        lines = [f'{line}  {cell:>{cell_width}}' for line, cell in zip(lines, cells, strict=True)]
    return '\n'.join(lines)
