# SPDX-License-Identifier: Apache-2.0
"""The spec of a checkpoint, from its JSON files alone."""

from __future__ import annotations

from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.normalization import select_statistics
from vla_ros.types import ActionSpace, PolicySpec, unknown_names

# Heads, and networks of codes, are trained on values from -1 to 1, and nothing keeps their
# output there: the reference executes values a little beyond. Twice the range of the data set is no
# such value.
_LARGEST_OF_HEADS = 2.0


def spec_of(config: OpenVLAConfig, unnorm_key: str | None) -> PolicySpec:
    """Return the spec; the key is optional if there is only one.

    :raises UnnormKeyError: if there are no such statistics.
    """
    action_dim = select_statistics(config.norm_stats, unnorm_key)[1].action_dim
    layout = config.layout
    emits_tokens = layout is None or layout.emits_tokens
    of_bins = emits_tokens and (layout is None or layout.codes is None)
    return PolicySpec(
        cameras=config.cameras,
        state_dim=0 if layout is None else layout.state_dim,
        action_dim=action_dim,
        horizon=1 if layout is None else layout.horizon,
        action_space=ActionSpace.UNKNOWN,  # the action contract tells
        names=unknown_names(action_dim),
        period_s=None,
        emits_tokens=emits_tokens,
        deterministic=True,
        largest_normalized=1.0 if of_bins else _LARGEST_OF_HEADS,
    )
