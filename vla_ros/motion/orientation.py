# SPDX-License-Identifier: Apache-2.0
"""Orientations as quaternions, and as the rotation vectors that policies were trained on.

Quaternions are x, y, z, w, as in ROS and robosuite. NumPy only; any thread.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_NORM_TOLERANCE = 0.01  # a driver that publishes single precision, or a few decimals, is within


def unit_quaternion(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quaternion divided by its norm.

    :param quaternion: float64 [4], x, y, z, w.
    :raises ValueError: if it is not finite, or its norm is not 1 within 0.01.
    """
    norm = float(np.linalg.norm(quaternion)) if np.isfinite(quaternion).all() else math.nan
    if not abs(norm - 1.0) <= _NORM_TOLERANCE:
        raise ValueError(
            f'the quaternion {quaternion.tolist()} (x, y, z, w) has the norm {norm:g}; allowed: '
            f'{1 - _NORM_TOLERANCE:g} to {1 + _NORM_TOLERANCE:g}'
        )
    return quaternion / norm


def nearer(quaternion: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the one of q and -q, which are one orientation, that is nearer to the reference.

    :param quaternion: float64 [4]; unchanged if both are equally near.
    """
    return -quaternion if float(quaternion @ reference) < 0.0 else quaternion


def axis_angle(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the axis times the angle, as robosuite does (``quat2axisangle``).

    The angle is 2 acos(w), from 0 to 2 pi. So q and -q give different vectors: with w below 0 the
    angle is above pi. Only an angle of exactly 0, or of 2 pi, gives zeros.

    :param quaternion: float64 [4], x, y, z, w, of norm 1.
    :returns: float64 [3], radians.
    """
    w = min(max(float(quaternion[3]), -1.0), 1.0)
    sine = math.sqrt(1.0 - w * w)
    if sine == 0.0:
        return np.zeros(3)
    vector: NDArray[np.float64] = quaternion[:3] * 2.0 * math.acos(w) / sine
    return vector
