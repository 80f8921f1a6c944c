# SPDX-License-Identifier: Apache-2.0
"""Scales actions to the units of the data set that they were learned from, and states from them.

Runs in the policy's thread. Independent of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.openvla.errors import CheckpointError, UnnormKeyError, listing
from vla_ros.openvla.layout import LAYOUT_NAME, Layout
from vla_ros.text import NAME, is_name, quoted

_BOUNDS = {'q01_q99': ('q01', 'q99'), 'min_max': ('min', 'max')}
_LARGEST = 1e100  # their difference is finite, too
# Added to the width of each range by the programs of OpenVLA-OFT and VLA-Adapter, which divide
# by it; OpenVLA's adds nothing.
_EPSILON = 1e-8


@dataclass(frozen=True)
class Statistics:
    """The bounds of one data set's actions or states: the values that mean -1 and 1.

    They are the 1 % and 99 % quantiles, or minimum and maximum.

    :param low: float64 [N].
    :param high: float64 [N].
    :param mask: bool [N]; False where values are not normalised (grippers).
    :param epsilon: added to the width of each range.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mask: NDArray[np.bool_]
    epsilon: float = 0.0

    def unnormalize(
        self, normalized: NDArray[np.float64] | NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Scale from [-1, 1] to the data set's units, in the reference's order of operations.

        :param normalized: [..., N]. A head's output is float32, and is halved in float32.
        :returns: float64 [..., N].
        """
        scaled = 0.5 * (normalized + 1) * (self.high - self.low + self.epsilon) + self.low
        return np.where(self.mask, scaled, normalized)

    def normalize(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scale from the data set's units to [-1, 1]; what is beyond is clipped.

        :param values: float64 [..., N].
        :returns: float64 [..., N]; 0 where the range has no width.
        """
        width = self.high - self.low + self.epsilon
        wide = np.where(width > 0, width, 1.0)
        scaled = np.where(width > 0, 2 * (values - self.low) / wide - 1, 0.0)
        return np.where(self.mask, scaled, values).clip(-1, 1)


@dataclass(frozen=True)
class ActionStatistics(Statistics):
    """The statistics of one data set.

    :param state: of the robot's state; None if the policy takes none.
    """

    state: Statistics | None = None

    @property
    def action_dim(self) -> int:
        return len(self.low)


def read_norm_stats(
    norm_stats: Any, source: str, layout: Layout | None = None
) -> dict[str, ActionStatistics]:
    """Read the statistics of every data set of a checkpoint.

    :param norm_stats: from the JSON file: ``{unnorm_key: {'action': {'q01': [...], ...}}}``.
    :param source: the file, named in errors.
    :param layout: of a policy that gives chunks; None for OpenVLA.
    :raises CheckpointError: if there is none, or an entry is malformed, or does not fit the layout.
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
    return {key: _read_entry(one, f'{source}: {key}', layout) for key, one in norm_stats.items()}


def _read_entry(entry: Any, where: str, layout: Layout | None) -> ActionStatistics:
    if layout is None:
        actions = _read_part(entry, 'action', _BOUNDS['q01_q99'], where)
        return ActionStatistics(actions.low, actions.high, actions.mask)
    names = _BOUNDS[layout.normalization]
    actions = _read_part(entry, 'action', names, where)
    _check_size(actions, 'actions', 'action_dim', layout.action_dim, where)
    state = None
    if layout.state_dim:
        state = replace(_read_part(entry, 'proprio', names, where), epsilon=_EPSILON)
        _check_size(state, 'states', 'state_dim', layout.state_dim, where)
    # MiniVLA's tokens are scaled by OpenVLA's program.
    epsilon = 0.0 if layout.decodes else _EPSILON
    return ActionStatistics(actions.low, actions.high, actions.mask, epsilon, state)


def _read_part(entry: Any, part: str, names: tuple[str, str], where: str) -> Statistics:
    """Read the statistics of the actions or of the states.

    :param names: of the lower and the upper bound.
    """
    values = entry.get(part) if isinstance(entry, Mapping) else None
    if not isinstance(values, Mapping):
        raise CheckpointError(
            f'{where} has no {part} statistics',
            expected=f'"{part}" with lists of numbers "{names[0]}" and "{names[1]}"',
        )
    low, high = (_read_list(values, name, _is_number, 'a finite number', where) for name in names)
    mask = [True] * len(low)
    if 'mask' in values:
        mask = _read_list(values, 'mask', _is_truth, 'true or false', where)
    if not len(low) == len(high) == len(mask):
        raise CheckpointError(
            f'{where}: {names[0]}, {names[1]} and mask have {len(low)}, {len(high)} and '
            f'{len(mask)} values',
            expected='as many in each',
        )
    statistics = Statistics(np.array(low, float), np.array(high, float), np.array(mask, bool))
    _check_range(statistics, names, where)
    return statistics


def _check_size(statistics: Statistics, what: str, field: str, expected: int, where: str) -> None:
    if len(statistics.low) != expected:
        raise CheckpointError(
            f'{where} has {what} of {len(statistics.low)} values',
            value=len(statistics.low),
            expected=f'{expected}, which is {field} in {LAYOUT_NAME}',
        )


def _read_list(
    part: Mapping[str, Any],
    name: str,
    is_right: Callable[[Any], bool],
    expected: str,
    where: str,
) -> list[Any]:
    """:param expected: what each value of the list must be."""
    values = part.get(name)
    if not isinstance(values, list) or not values:
        found = f'is {quoted(values)}' if name in part else 'is missing'
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


def _check_range(statistics: Statistics, names: tuple[str, str], where: str) -> None:
    inverted = np.flatnonzero(statistics.low > statistics.high)
    if len(inverted):
        index = inverted[0]
        raise CheckpointError(
            f'{where}: {names[0]}[{index}] is {statistics.low[index]:g} and {names[1]}[{index}] is '
            f'{statistics.high[index]:g}',
            expected=f'{names[0]} not above {names[1]}',
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
