# SPDX-License-Identifier: Apache-2.0
"""The twist that makes an action's displacement within one period of its data set.

Independent of ROS.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.contract import ActionContract
from vla_ros.motion.profile import Twist

ACTION_DIM = 7  # translation 3, rotation 3, gripper 1


def action_twist(action: NDArray[np.float64], contract: ActionContract) -> Twist:
    """Return the constant twist that makes an action's displacement in one period.

    :param action: float64 [7], un-normalised.
    :returns: float64 [6], m/s and rad/s, along the axes of the contract's frame.
    """
    turn = contract.radians_per_unit * action[3:6]
    if contract.rotation == 'rpy':
        turn = rotation_vector(turn)
    return np.concatenate([contract.metres_per_unit * action[:3], turn]) / contract.period_s


def rotation_vector(rpy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation vector (axis times angle) of roll, pitch and yaw.

    The rotations are about the fixed axes x, then y, then z (REP 103).

    :param rpy: float64 [3], radians.
    :returns: float64 [3], radians, with a norm of at most pi.
    """
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy / 2), np.sin(rpy / 2)
    quaternion = np.array(  # w, x, y, z of yaw * pitch * roll
        [
            cy * cp * cr + sy * sp * sr,
            cy * cp * sr - sy * sp * cr,
            cy * sp * cr + sy * cp * sr,
            sy * cp * cr - cy * sp * sr,
        ]
    )
    if quaternion[0] < 0:  # the same rotation by the smaller angle
        quaternion = -quaternion
    cosine, axis = float(quaternion[0]), quaternion[1:]
    sine = float(np.linalg.norm(axis))
    return axis * (2 * math.atan2(sine, cosine) / sine) if sine else np.zeros(3)
