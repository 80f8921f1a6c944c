# SPDX-License-Identifier: Apache-2.0
"""Orientations as quaternions, and as the rotation vectors that policies were trained on.

Quaternions are x, y, z, w, as in ROS and robosuite. NumPy only; any thread.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_NORM_TOLERANCE = 0.01  # a driver that publishes single precision, or a few decimals, is within


def unit_quaternion(quaternion: Vector) -> Vector:
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


def nearer(quaternion: Vector, reference: Vector) -> Vector:
    """Return the one of q and -q, which are one orientation, that is nearer to the reference.

    :param quaternion: float64 [4]; unchanged if both are equally near.
    """
    return -quaternion if float(quaternion @ reference) < 0.0 else quaternion


def axis_angle(quaternion: Vector) -> Vector:
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
    vector: Vector = quaternion[:3] * 2.0 * math.acos(w) / sine
    return vector


def rotated(quaternion: Vector, vectors: Vector) -> Vector:
    """Return a vector, or each row of vectors, rotated by a quaternion of norm 1.

    :param vectors: float64 [3] or [N, 3].
    """
    axis, w = quaternion[:3], quaternion[3]
    twice = 2 * np.cross(axis, vectors)
    turned: Vector = vectors + w * twice + np.cross(axis, twice)
    return turned


def product(left: Vector, right: Vector) -> Vector:
    """Return the rotation ``right``, followed by ``left``."""
    (*_, lw), (*_, rw) = left, right
    axis = lw * right[:3] + rw * left[:3] + np.cross(left[:3], right[:3])
    return np.array([*axis, lw * rw - left[:3] @ right[:3]])


def inverse(quaternion: Vector) -> Vector:
    """Return the opposite rotation of a quaternion of norm 1."""
    return quaternion * [-1, -1, -1, 1]


def normalized(quaternion: Vector) -> Vector:
    """Return a quaternion without its rounding errors."""
    unit: Vector = quaternion / np.linalg.norm(quaternion)
    return unit


def quaternion_of(vector: Vector) -> Vector:
    """Return the quaternion of a rotation vector (axis times angle), float64 [3], radians."""
    angle = float(np.linalg.norm(vector))
    if angle == 0.0:
        return np.array([0.0, 0.0, 0.0, 1.0])
    return np.array([*(vector * (math.sin(angle / 2) / angle)), math.cos(angle / 2)])


def vector_of(quaternion: Vector) -> Vector:
    """Return the rotation vector, float64 [3], with a norm of at most pi."""
    if quaternion[3] < 0:
        quaternion = -quaternion
    sine = float(np.linalg.norm(quaternion[:3]))
    if sine == 0.0:
        return np.zeros(3)
    vector: Vector = quaternion[:3] * (2 * math.atan2(sine, float(quaternion[3])) / sine)
    return vector


def quaternion_of_rpy(rpy: Vector) -> Vector:
    """Return the quaternion of roll, pitch and yaw.

    The rotations are about the fixed axes x, then y, then z (REP 103).

    :param rpy: float64 [3], radians.
    """
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy / 2), np.sin(rpy / 2)
    return np.array(
        [
            cy * cp * sr - sy * sp * cr,
            cy * sp * cr + sy * cp * sr,
            sy * cp * cr - cy * sp * sr,
            cy * cp * cr + sy * sp * sr,
        ]
    )
