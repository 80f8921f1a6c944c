"""Scales a normalised action to the units of the data set it was learned from.

Runs in the policy's thread. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.openvla.errors import CheckpointError, UnnormKeyError, listing


@dataclass(frozen=True)
class ActionStatistics:
    """The 1 % and 99 % quantiles of one data set's actions.

    :param q01: float64 [D].
    :param q99: float64 [D].
    :param mask: bool [D]; False where the normalised value is the action already (grippers).
    """

    q01: NDArray[np.float64]
    q99: NDArray[np.float64]
    mask: NDArray[np.bool_]

    @property
    def action_dim(self) -> int:
        return len(self.q01)

    def unnormalize(self, normalized: NDArray[np.float64]) -> NDArray[np.float64]:
        """From [-1, 1] to the data set's units; the order of operations is the reference's.

        :param normalized: float64 [D].
        :returns: float64 [D].
        """
        scaled = 0.5 * (normalized + 1) * (self.q99 - self.q01) + self.q01
        return np.where(self.mask, scaled, normalized)


def read_norm_stats(norm_stats: Any, source: str) -> dict[str, ActionStatistics]:
    """Read the statistics of every data set of a checkpoint.

    :param norm_stats: what the JSON file holds: ``{unnorm_key: {'action': {'q01': [...], ...}}}``.
    :param source: the file, named in errors.
    :raises CheckpointError: if there is none, or an entry is malformed.
    """
    if not isinstance(norm_stats, Mapping) or not norm_stats:
        raise CheckpointError(
            f'{source} has no norm_stats: without them actions have no units; take the '
            "dataset_statistics.json that the fine-tuning wrote and put it into the checkpoint's "
            'folder'
        )
    return {key: _read_entry(entry, f'{source}: {key}') for key, entry in norm_stats.items()}


def _read_entry(entry: Any, where: str) -> ActionStatistics:
    try:
        action = entry['action']
        q01 = np.asarray(action['q01'], dtype=np.float64)
        q99 = np.asarray(action['q99'], dtype=np.float64)
        mask = np.asarray(action.get('mask', [True] * len(q01)), dtype=np.bool_)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f'{where} has no usable action statistics ({error!r}); expected "action" with lists '
            'of numbers "q01" and "q99"'
        ) from error
    if q01.ndim != 1 or not len(q01) or not (q01.shape == q99.shape == mask.shape):
        raise CheckpointError(
            f'{where}: q01, q99 and mask have shapes {q01.shape}, {q99.shape} and {mask.shape}; '
            'expected one list of equal length each'
        )
    if not (np.isfinite(q01).all() and np.isfinite(q99).all() and (q01 <= q99).all()):
        raise CheckpointError(f'{where}: q01 and q99 must be finite, and q01 not above q99')
    return ActionStatistics(q01, q99, mask)


def select_statistics(
    norm_stats: Mapping[str, ActionStatistics], unnorm_key: str | None
) -> tuple[str, ActionStatistics]:
    """The statistics under a key; without a key, the only ones there are.

    :raises UnnormKeyError: if the key is unknown, or left out where there are several.
    """
    if not unnorm_key:
        if len(norm_stats) > 1:
            raise UnnormKeyError(
                'unnorm_key is not set, and this checkpoint has statistics of several data sets; '
                f'set it to one of: {listing(norm_stats, most=40)}'
            )
        unnorm_key = next(iter(norm_stats))
    if unnorm_key not in norm_stats:
        raise UnnormKeyError(
            f'unnorm_key {unnorm_key!r} is not in this checkpoint; '
            f'it has: {listing(norm_stats, most=40)}'
        )
    return unnorm_key, norm_stats[unnorm_key]
