"""The OpenVLA policy. Knows nothing of ROS."""

from vla_ros.openvla.errors import CheckpointError, PlacementError, UnnormKeyError
from vla_ros.openvla.policy import OpenVLAPolicy

__all__ = ['CheckpointError', 'OpenVLAPolicy', 'PlacementError', 'UnnormKeyError']
