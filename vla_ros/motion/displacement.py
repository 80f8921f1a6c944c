# SPDX-License-Identifier: Apache-2.0
"""The twist that makes an action's displacement within one period of its data set.

Independent of ROS.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.contract import ActionContract
from vla_ros.motion.orientation import quaternion_of_rpy, vector_of
from vla_ros.motion.profile import Twist

ACTION_DIM = 7  # translation 3, rotation 3, gripper 1


def action_twist(action: NDArray[np.float64], contract: ActionContract) -> Twist:
    """Return the constant twist that makes an action's displacement in one period.

    :param action: float64 [7], un-normalised.
    :returns: float64 [6], m/s and rad/s, along the axes of the contract's frame.
    """
    turn = contract.radians_per_unit * action[3:6]
    if contract.rotation == 'rpy':
        turn = vector_of(quaternion_of_rpy(turn))
    return np.concatenate([contract.metres_per_unit * action[:3], turn]) / contract.period_s
