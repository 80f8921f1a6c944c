# SPDX-License-Identifier: Apache-2.0
"""Drafts of an action: right ones, and wrong ones of every kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def differing(ids: Ids, *places: int) -> Ids:
    """Another token in these places."""
    draft = ids.copy()
    draft[[place for place in places if place < len(ids)]] = 5
    return draft


DRAFTS: dict[str, Callable[[Ids], Ids]] = {
    'right': lambda ids: ids,
    'first wrong': lambda ids: differing(ids, 0),
    'second wrong': lambda ids: differing(ids, 1),
    'middle wrong': lambda ids: differing(ids, 3),
    'two wrong': lambda ids: differing(ids, 1, 4),
    'last wrong': lambda ids: differing(ids, len(ids) - 1),
    'all wrong': lambda ids: np.full_like(ids, 5),
    'short': lambda ids: ids[:3],
    'one token': lambda ids: ids[:1],
    'any action': lambda ids: np.random.default_rng(int(ids[0])).integers(31744, 32000, len(ids)),
}
