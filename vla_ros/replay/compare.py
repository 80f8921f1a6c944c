# SPDX-License-Identifier: Apache-2.0
"""Comparison of replays of the same images, as one JSON object for each pair and as tables.

It compares tokens, the policy's own output, and actions where there are none. Neighbouring tokens
mean neighbouring bins, so the distance of two tokens is a distance in bins.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from vla_ros.measure.statistics import Summary, compare_tokens, table
from vla_ros.replay.actions import ActionRow


def compare_all(runs: Mapping[str, Sequence[ActionRow]]) -> list[Summary]:
    """Return the comparison of each pair of runs, in order.

    :param runs: rows by the name of the run.
    """
    return [
        {'first': first, 'second': second, **compare(runs[first], runs[second])}
        for first, second in itertools.combinations(runs, 2)
    ]


def compare(first: Sequence[ActionRow], second: Sequence[ActionRow]) -> Summary:
    """Compare two runs.

    :returns: ``frames`` (number that both have), and over these: ``equal_actions`` (all tokens
        equal; of policies without tokens, all values), ``equal_tokens`` (0 to 1; None without
        tokens), ``largest_bin_distance`` (of valid actions), ``first_difference`` (None, or frame,
        bag time, row of the chunk and dimension), ``dimensions`` (the same for each over all rows,
        and the largest difference of the un-normalised values), ``asked_otherwise`` (number with
        another instruction or unnorm_key). ``only_first`` and ``only_second`` count the frames that
        only one run has.
    """
    pairs = _pairs(first, second)
    rows = [(a.valid and b.valid, *both) for a, b in pairs for both in _token_rows(a, b)]
    if not all(any(row.token_ids for row in run) for run in (first, second)):
        rows = []  # there is nothing to compare tokens with
    compared = compare_tokens(
        [tokens for _, tokens, _ in rows],
        [tokens for _, _, tokens in rows],
        [is_valid for is_valid, _, _ in rows],
    )
    compared['equal_actions'] = sum(_difference(a, b) is None for a, b in pairs)
    dimensions = compared['dimensions']
    for index in range(max(len(dimensions), _width(pairs))):
        if index == len(dimensions):  # without tokens
            dimensions.append({'tokens': 0, 'equal': 0, 'largest_bin_distance': 0})
        dimensions[index]['largest_action_difference'] = _largest_difference(pairs, index)
    return {
        'frames': len(pairs),
        'only_first': len(first) - len(pairs),
        'only_second': len(second) - len(pairs),
        'asked_otherwise': sum(
            (a.instruction, a.unnorm_key) != (b.instruction, b.unnorm_key) for a, b in pairs
        ),
        **compared,
        'first_difference': _first_difference(pairs),
    }


def comparison_tables(comparisons: Sequence[Summary]) -> str:
    """Return the comparisons as tables for the user."""
    names = [f'{one["first"]} | {one["second"]}' for one in comparisons]
    most = max(len(one['dimensions']) for one in comparisons)
    tables = [table('pair', names, [_whole(one) for one in comparisons])]
    have_tokens = [one['equal_tokens'] is not None for one in comparisons]
    if any(have_tokens):
        rows = [_by_dimension(one, most, _token_cell) for one in comparisons]
        tables.append(table('equal tokens', names, rows))
    if not all(have_tokens):
        rows = [_by_dimension(one, most, _difference_cell) for one in comparisons]
        tables.append(table('largest difference', names, rows))
    return '\n\n'.join(tables)


_Pair = tuple[ActionRow, ActionRow]
_Tokens = tuple[int, ...]


def _pairs(first: Sequence[ActionRow], second: Sequence[ActionRow]) -> list[_Pair]:
    """Return the rows of equal images: the same number in the topic, recorded at the same time."""
    others = {(row.frame, row.bag_time_ns): row for row in second}
    keyed = [(row, others.get((row.frame, row.bag_time_ns))) for row in first]
    return [(row, other) for row, other in keyed if other is not None]


def _token_rows(a: ActionRow, b: ActionRow) -> list[tuple[_Tokens, _Tokens]]:
    """Return the tokens of both answers for each row of the chunk."""
    return list(itertools.zip_longest(_split(a), _split(b), fillvalue=()))


def _split(row: ActionRow) -> list[_Tokens]:
    width = max(map(len, row.actions), default=0) or 1
    return [row.token_ids[i : i + width] for i in range(0, len(row.token_ids), width)]


def _width(pairs: Sequence[_Pair]) -> int:
    """Return the most columns of an action."""
    return max((len(one) for pair in pairs for row in pair for one in row.actions), default=0)


def _largest_difference(pairs: Sequence[_Pair], index: int) -> float:
    """Return the largest difference of valid actions in this dimension, over all rows."""
    differences = [
        abs(one[index] - other[index])
        for a, b in pairs
        if a.valid and b.valid
        for one, other in zip(a.actions, b.actions, strict=False)
        if index < min(len(one), len(other))
    ]
    return max(differences, default=0.0)


def _difference(a: ActionRow, b: ActionRow) -> tuple[int, int] | None:
    """Return row and dimension of the first difference of two answers; None if they are equal."""
    rows: Iterable[tuple[Sequence[float], Sequence[float]]] = _token_rows(a, b)
    if not (a.token_ids and b.token_ids):
        rows = itertools.zip_longest(a.actions, b.actions, fillvalue=())
    for row, (one, other) in enumerate(rows):
        for index, (value, another) in enumerate(itertools.zip_longest(one, other)):
            if not _are_equal(value, another):
                return row, index
    return None


def _are_equal(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


def _first_difference(pairs: Sequence[_Pair]) -> Summary | None:
    for a, b in pairs:
        where = _difference(a, b)
        if where is not None:
            row, index = where
            place = {'frame': a.frame, 'bag_time_ns': a.bag_time_ns}
            return {**place, 'row': row, 'dimension': index}
    return None


def _whole(one: Summary) -> dict[str, str]:
    has_tokens = one['equal_tokens'] is not None
    return {
        'frames': str(one['frames']),
        'in one only': str(one['only_first'] + one['only_second']),
        'asked otherwise': str(one['asked_otherwise']),
        'equal actions': str(one['equal_actions']),
        'equal tokens': f'{one["equal_tokens"]:.2%}' if has_tokens else '-',
        'largest distance': f'{one["largest_bin_distance"]} bins' if has_tokens else '-',
        'first difference': _place(one['first_difference']),
    }


def _place(where: Summary | None) -> str:
    if where is None:
        return 'none'
    row = f'row {where["row"]}, ' if where['row'] else ''
    return f'frame {where["frame"]}, {row}dimension {where["dimension"]}'


def _by_dimension(one: Summary, most: int, cell: Callable[[Summary], str]) -> dict[str, str]:
    """Return a cell for each dimension."""
    cells = [cell(dimension) for dimension in one['dimensions']]
    return {str(index): text for index, text in enumerate(cells + ['-'] * (most - len(cells)))}


def _token_cell(dimension: Summary) -> str:
    """Return the share of equal tokens, and the largest distance."""
    if not dimension['tokens']:
        return '-'
    return f'{dimension["equal"] / dimension["tokens"]:.0%} ({dimension["largest_bin_distance"]})'


def _difference_cell(dimension: Summary) -> str:
    return f'{dimension["largest_action_difference"]:.3g}'
