# SPDX-License-Identifier: Apache-2.0
"""Mistakes that are planted into the policy of more than one family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_ros.openvla.normalization import Statistics


def mask_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The gripper is scaled like all others."""
    scale = Statistics.unnormalize
    patch.setattr(
        Statistics,
        'unnormalize',
        lambda self, x: scale(replace(self, mask=np.ones_like(self.mask)), x),
    )
