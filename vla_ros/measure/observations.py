# SPDX-License-Identifier: Apache-2.0
"""Observations for measurements, with the parts that a policy needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_ros.types import Observation, PolicySpec


def make_observations(
    spec: PolicySpec, images: Sequence[NDArray[np.uint8]], instruction: str
) -> list[Observation]:
    """Return observations that use the images in order, one for each camera.

    The state, if the policy takes one, is noise within [-1, 1].

    :param images: uint8 [H, W, 3] each; images beyond the last whole observation are ignored.
    """
    random = np.random.default_rng(0)
    cameras = len(spec.cameras)
    return [
        Observation(
            images=dict(zip(spec.cameras, images[first : first + cameras], strict=True)),
            instruction=instruction,
            stamps_ns=dict.fromkeys(spec.cameras, first),
            state=random.uniform(-1, 1, spec.state_dim) if spec.state_dim else None,
        )
        for first in range(0, len(images) - cameras + 1, cameras)
    ]
