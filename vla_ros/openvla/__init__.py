# SPDX-License-Identifier: Apache-2.0
"""OpenVLA and its family as a policy, independent of ROS."""

from vla_ros.openvla.errors import (
    CheckpointError,
    PlacementError,
    PreprocessingError,
    UnnormKeyError,
)
from vla_ros.openvla.policy import OpenVLAPolicy
from vla_ros.openvla.preprocessing import Preprocessing

__all__ = [
    'CheckpointError',
    'OpenVLAPolicy',
    'PlacementError',
    'Preprocessing',
    'PreprocessingError',
    'UnnormKeyError',
]
