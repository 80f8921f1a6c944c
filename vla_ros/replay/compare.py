"""Comparison of replays of the same images, as one JSON object for each pair and as tables.

It compares tokens, the policy's own output. Neighbouring tokens mean neighbouring bins, so the
distance of two tokens is a distance in bins.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

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
        equal), ``equal_tokens`` (0 to 1; None without tokens), ``largest_bin_distance`` (of valid
        actions), ``first_difference`` (None, or frame, bag time and dimension), ``dimensions`` (the
        same for each, and the largest difference of the un-normalised values), ``asked_otherwise``
        (number with another instruction or unnorm_key). ``only_first`` and ``only_second`` count
        the frames that only one run has.
    """
    pairs = _pairs(first, second)
    compared = compare_tokens(
        [a.token_ids for a, _ in pairs],
        [b.token_ids for _, b in pairs],
        [a.valid and b.valid for a, b in pairs],
    )
    for index, dimension in enumerate(compared['dimensions']):
        dimension['largest_action_difference'] = _largest_difference(pairs, index)
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
    return '\n\n'.join(
        [
            table('pair', names, [_whole(one) for one in comparisons]),
            table('equal tokens', names, [_by_dimension(one, most) for one in comparisons]),
        ]
    )


_Pair = tuple[ActionRow, ActionRow]


def _pairs(first: Sequence[ActionRow], second: Sequence[ActionRow]) -> list[_Pair]:
    """Return the rows of equal images: the same number in the topic, recorded at the same time."""
    others = {(row.frame, row.bag_time_ns): row for row in second}
    keyed = [(row, others.get((row.frame, row.bag_time_ns))) for row in first]
    return [(row, other) for row, other in keyed if other is not None]


def _largest_difference(pairs: Sequence[_Pair], index: int) -> float:
    """Return the largest difference of valid actions with a token in this dimension."""
    differences = [
        abs(a.action[index] - b.action[index])
        for a, b in pairs
        if a.valid and b.valid and index < min(len(a.token_ids), len(b.token_ids))
    ]
    return max(differences, default=0.0)


def _first_difference(pairs: Sequence[_Pair]) -> Summary | None:
    for a, b in pairs:
        both = itertools.zip_longest(a.token_ids, b.token_ids)
        for index, (token, other) in enumerate(both):
            if token != other:
                return {'frame': a.frame, 'bag_time_ns': a.bag_time_ns, 'dimension': index}
    return None


def _whole(one: Summary) -> dict[str, str]:
    where = one['first_difference']
    return {
        'frames': str(one['frames']),
        'in one only': str(one['only_first'] + one['only_second']),
        'asked otherwise': str(one['asked_otherwise']),
        'equal actions': str(one['equal_actions']),
        'equal tokens': '-' if one['equal_tokens'] is None else f'{one["equal_tokens"]:.2%}',
        'largest distance': f'{one["largest_bin_distance"]} bins',
        'first difference': (
            'none' if where is None else f'frame {where["frame"]}, dimension {where["dimension"]}'
        ),
    }


def _by_dimension(one: Summary, most: int) -> dict[str, str]:
    """Return the share of equal tokens, and the largest distance, for each dimension."""
    cells = {str(index): '-' for index in range(most)}
    for index, dimension in enumerate(one['dimensions']):
        share = dimension['equal'] / dimension['tokens']
        cells[str(index)] = f'{share:.0%} ({dimension["largest_bin_distance"]})'
    return cells
