"""How much alike two policies answer to the same pictures.

Tokens are compared, as they are what a policy says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_ros.measure.statistics import Summary, compare_tokens


def agreement(first: NDArray[np.int64], second: NDArray[np.int64]) -> Summary:
    """
    :param first: int64 [N, D], action tokens; N and D at least 1.
    :param second: int64 [N, D], of the same N pictures.
    :returns: ``pictures``, ``equal_actions`` (all tokens equal), ``equal_bins`` (0 to 1),
        ``largest_bin_distance``, and ``dimensions``, the last two of each.
    :raises ValueError: if they are not of the same shape.
    """
    if first.shape != second.shape:
        raise ValueError(f'tokens of shape {first.shape} are beside tokens of {second.shape}')
    compared = compare_tokens(first.tolist(), second.tolist())
    return {
        'pictures': len(first),
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
