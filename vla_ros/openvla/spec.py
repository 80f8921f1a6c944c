"""The spec of a checkpoint, from its config.json alone."""

from __future__ import annotations

from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.normalization import select_statistics
from vla_ros.types import ONE_CAMERA, ActionSpace, PolicySpec, unknown_names


def spec_of(config: OpenVLAConfig, unnorm_key: str | None) -> PolicySpec:
    """Return the spec; the key is optional if there is only one.

    :raises UnnormKeyError: if there are no such statistics.
    """
    action_dim = select_statistics(config.norm_stats, unnorm_key)[1].action_dim
    return PolicySpec(
        cameras=(ONE_CAMERA,),
        state_dim=0,
        action_dim=action_dim,
        horizon=1,
        action_space=ActionSpace.UNKNOWN,  # the action contract tells
        names=unknown_names(action_dim),
        period_s=None,
        emits_tokens=True,
        deterministic=True,
    )
