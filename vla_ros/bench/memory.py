# SPDX-License-Identifier: Apache-2.0
"""Check whether all policies of a benchmark fit into memory together."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from vla_ros.bench.combinations import Combination
from vla_ros.measure.memory import available_bytes
from vla_ros.openvla.costs import Costs
from vla_ros.openvla.placement import DTYPES

_BESIDE_WEIGHTS = 1.1  # factor for activations, key-value cache and torch itself


def loaded_together(
    combinations: Sequence[Combination],
    costs: Sequence[Costs],
    dtypes: Collection[torch.dtype],
) -> bool:
    """Return whether all policies of the combinations fit into the free memory together.

    On the CPU in the stored dtype the weights are the mapped file, which policies share.

    :param costs: costs of each combination.
    :param dtypes: dtypes of the weights in the file; empty if there is none.
    """
    needed: dict[str, dict[object, int]] = {}
    for combination, cost in zip(combinations, costs, strict=True):
        policy = combination.policy
        stored = set(dtypes) == {DTYPES[policy.dtype]}
        is_mapped = policy.device == 'cpu' and policy.quantization == 'none' and stored
        key = policy.dtype if is_mapped else policy
        needed.setdefault(policy.device, {})[key] = cost.model_bytes
    return all(
        len(weights) == 1 or _BESIDE_WEIGHTS * sum(weights.values()) < available_bytes(device)
        for device, weights in needed.items()
    )
