"""From actions to motion: what a data set's numbers mean, and twists that a robot can follow.

Numpy only: nothing of ROS, torch or threads.
"""

from vla_ros.motion.contract import ActionContract, ContractError, load_contracts, was_cropped
from vla_ros.motion.motion import Motion, MotionCounters
from vla_ros.motion.profile import Clipped, MotionLimits, Twist, TwistProfile

__all__ = [
    'ActionContract',
    'Clipped',
    'ContractError',
    'Motion',
    'MotionCounters',
    'MotionLimits',
    'Twist',
    'TwistProfile',
    'load_contracts',
    'was_cropped',
]
