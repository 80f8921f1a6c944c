# SPDX-License-Identifier: Apache-2.0
"""From actions to motion: the meaning of a data set's numbers, and twists that a robot can follow.

Needs NumPy and YAML; independent of ROS, torch and threads.
"""

from vla_ros.motion.contract import (
    ActionContract,
    Contract,
    JointContract,
    load_contracts,
    shipped_displacements,
    shipped_entry,
    was_cropped,
)
from vla_ros.motion.contract_fields import ContractError
from vla_ros.motion.description import ActionDescription, describe
from vla_ros.motion.displacement import ACTION_DIM
from vla_ros.motion.motion import Capture, Guide, Motion, MotionCounters
from vla_ros.motion.pose import Pose, PoseHistory
from vla_ros.motion.profile import MotionLimits, Twist
from vla_ros.motion.route import Box

__all__ = [
    'ACTION_DIM',
    'ActionContract',
    'ActionDescription',
    'Box',
    'Capture',
    'Contract',
    'ContractError',
    'Guide',
    'JointContract',
    'Motion',
    'MotionCounters',
    'MotionLimits',
    'Pose',
    'PoseHistory',
    'Twist',
    'describe',
    'load_contracts',
    'shipped_displacements',
    'shipped_entry',
    'was_cropped',
]
