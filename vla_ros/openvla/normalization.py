"""Scales normalised actions to the units of the data set that they were learned from.

Runs in the policy's thread. Independent of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.openvla.errors import CheckpointError, UnnormKeyError, listing
from vla_ros.text import NAME, is_name, quoted

_BOUNDS = ('q01', 'q99')
_LARGEST = 1e100  # their difference is finite, too


@dataclass(frozen=True)
class ActionStatistics:
    """The 1 % and 99 % quantiles of one data set's actions.

    :param q01: float64 [D].
    :param q99: float64 [D].
    :param mask: bool [D]; False where actions are not normalised (grippers).
    """

    q01: NDArray[np.float64]
    q99: NDArray[np.float64]
    mask: NDArray[np.bool_]

    @property
    def action_dim(self) -> int:
        return len(self.q01)

    def unnormalize(self, normalized: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scale from [-1, 1] to the data set's units, in the reference's order of operations.

        :param normalized: float64 [D].
        :returns: float64 [D].
        """
        scaled = 0.5 * (normalized + 1) * (self.q99 - self.q01) + self.q01
        return np.where(self.mask, scaled, normalized)


def read_norm_stats(norm_stats: Any, source: str) -> dict[str, ActionStatistics]:
    """Read the statistics of every data set of a checkpoint.

    :param norm_stats: from the JSON file: ``{unnorm_key: {'action': {'q01': [...], ...}}}``.
    :param source: the file, named in errors.
    :raises CheckpointError: if there is none, or an entry is malformed.
    """
    if not isinstance(norm_stats, Mapping) or not norm_stats:
        raise CheckpointError(
            f'{source} has no norm_stats: without them actions have no units',
            'put the dataset_statistics.json that the fine-tuning wrote into its folder',
        )
    for key in norm_stats:
        if not is_name(key):
            raise CheckpointError(
                f'{source} has the data set {quoted(key)}',
                value=key,
                expected=f'{NAME}, as its name',
            )
    return {key: _read_entry(entry, f'{source}: {key}') for key, entry in norm_stats.items()}


def _read_entry(entry: Any, where: str) -> ActionStatistics:
    action = entry.get('action') if isinstance(entry, Mapping) else None
    if not isinstance(action, Mapping):
        raise CheckpointError(
            f'{where} has no action statistics',
            expected='"action" with lists of numbers "q01" and "q99"',
        )
    q01, q99 = (_read_list(action, name, _is_number, 'a finite number', where) for name in _BOUNDS)
    mask = [True] * len(q01)
    if 'mask' in action:
        mask = _read_list(action, 'mask', _is_truth, 'true or false', where)
    if not len(q01) == len(q99) == len(mask):
        raise CheckpointError(
            f'{where}: q01, q99 and mask have {len(q01)}, {len(q99)} and {len(mask)} values',
            expected='as many in each',
        )
    statistics = ActionStatistics(np.array(q01, float), np.array(q99, float), np.array(mask, bool))
    _check_range(statistics, where)
    return statistics


def _read_list(
    action: Mapping[str, Any],
    name: str,
    is_right: Callable[[Any], bool],
    expected: str,
    where: str,
) -> list[Any]:
    """:param expected: what each value of the list must be."""
    values = action.get(name)
    if not isinstance(values, list) or not values:
        found = f'is {quoted(values)}' if name in action else 'is missing'
        raise CheckpointError(f'{where}: {name} {found}', expected=f'a list, each value {expected}')
    for index, value in enumerate(values):
        if not is_right(value):
            raise CheckpointError(
                f'{where}: {name}[{index}] is {quoted(value)}', value=value, expected=expected
            )
    return values


def _is_number(value: Any) -> bool:
    # Neither a bool nor text: NumPy would take both for numbers.
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST


def _is_truth(value: Any) -> bool:
    # NumPy would take every text for true, also "false".
    return type(value) is bool or (type(value) is int and value in (0, 1))


def _check_range(statistics: ActionStatistics, where: str) -> None:
    inverted = np.flatnonzero(statistics.q01 > statistics.q99)
    if len(inverted):
        index = inverted[0]
        raise CheckpointError(
            f'{where}: q01[{index}] is {statistics.q01[index]:g} and q99[{index}] is '
            f'{statistics.q99[index]:g}',
            expected='q01 not above q99',
        )


def select_statistics(
    norm_stats: Mapping[str, ActionStatistics], unnorm_key: str | None
) -> tuple[str, ActionStatistics]:
    """Return a key and its statistics; without a key, the only ones of the checkpoint.

    :raises UnnormKeyError: if the key is unknown, or omitted where there are several.
    """
    if not unnorm_key:
        if len(norm_stats) > 1:
            raise UnnormKeyError(
                'unnorm_key is not set, and this checkpoint has statistics of several data sets',
                f'set it to one of: {listing(norm_stats, most=40)}',
                expected=f'one of {listing(norm_stats, most=40)}',
            )
        unnorm_key = next(iter(norm_stats))
    if unnorm_key not in norm_stats:
        raise UnnormKeyError(
            f'unnorm_key {quoted(unnorm_key)} is not in this checkpoint',
            value=unnorm_key,
            expected=f'one of {listing(norm_stats, most=40)}',
        )
    return unnorm_key, norm_stats[unnorm_key]
