# SPDX-License-Identifier: Apache-2.0
"""Agreement of two policies on the same images, measured by their tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from vla_ros.measure.statistics import Summary, compare_tokens
from vla_ros.types import Observation, Policy, PolicyError, all_predicted


def tokens_of(
    policy: Policy,
    observations: Sequence[Observation],
    unnorm_key: str,
    starts: Collection[int] | None = None,
) -> NDArray[np.int64]:
    """Return int64 [N, tokens], those of each answer; -1 after the end of a sequence.

    :param starts: numbers of the observations that begin an episode, for a policy that keeps
        something from one to the next; None: each answer depends on its observation only.
    :raises PolicyError: if the policy decodes no tokens.
    """
    session = policy.session(unnorm_key)
    rows = []
    for number, observation in enumerate(observations):
        if starts is None or number in starts:
            session.reset()  # neither a draft nor patches are kept
        [prediction] = all_predicted(policy.predict([(session, observation)]))
        if prediction.tokens is None:
            raise PolicyError(
                f'{policy.info.model} decodes no tokens to compare', 'leave the comparison out'
            )
        row = np.full(len(prediction.tokens.probabilities), -1)
        row[: len(prediction.tokens.ids)] = prediction.tokens.ids
        rows.append(row)
    return np.array(rows)


def agreement(first: NDArray[np.int64], second: NDArray[np.int64]) -> Summary:
    """Compare the tokens of two policies.

    :param first: int64 [N, D], action tokens; N and D at least 1.
    :param second: int64 [N, D], for the same N images.
    :returns: N, ``equal_actions`` (all tokens equal), ``equal_bins`` (0 to 1),
        ``largest_bin_distance``, and ``dimensions``: the last two for each dimension.
    :raises ValueError: if they are not of the same shape.
    """
    if first.shape != second.shape:
        raise ValueError(
            f'tokens have shapes {first.shape} and {second.shape}; expected equal ones'
        )
    compared = compare_tokens(first.tolist(), second.tolist())
    return {
        'images': len(first),
        'equal_actions': compared['equal_actions'],
        'equal_bins': compared['equal_tokens'],
        'largest_bin_distance': compared['largest_bin_distance'],
        'dimensions': [
            {
                'equal_bins': one['equal'] / one['tokens'],
                'largest_bin_distance': one['largest_bin_distance'],
            }
            for one in compared['dimensions']
        ],
    }
