# SPDX-License-Identifier: Apache-2.0
"""A simulated arm that is moved by displacements of its tool, exactly and within a period.

Inverse kinematics finds the joints of the displaced pose, the joints go there on a minimum-jerk
path, and computed torque keeps them on it. The arm rests at both ends of the path, so a single
image shows its whole state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.simulation.scene import FINGER_TRAVEL_M, JOINTS, TIMESTEP_S, TOOL

HOME = np.array([0.0, math.pi / 16, 0.0, -5 * math.pi / 6, 0.0, math.pi - 0.2, math.pi / 4])
_STIFFNESS, _DAMPING = 3600.0, 120.0  # 1/s² and 1/s: critically damped, 1/60 s
_PATH_SHARE = 0.85  # share of the period spent on the path; the arm settles in the rest
_IK_STEPS, _IK_TOLERANCE, _IK_MARGIN = 50, 1e-5, 1e-4
_POSTURE_GAIN = 0.05  # gain of the pull towards HOME, in the null space of the tool's motion


@dataclass
class _Path:
    """A path of the joints: with minimum jerk from rest to rest, or at a steady speed.

    :param start: float64 [7], radians.
    :param way: float64 [7], radians from ``start`` to the end.
    """

    start: NDArray[np.float64]
    way: NDArray[np.float64]
    duration_s: float
    elapsed_s: float = 0.0
    is_steady: bool = False

    def now(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the place, speed and acceleration of the joints: float64 [7] each."""
        s = min(self.elapsed_s / self.duration_s, 1.0)
        if self.is_steady:
            return self.start + self.way * s, self.way * (s < 1.0) / self.duration_s, 0.0 * self.way
        place = self.start + self.way * s**3 * (10 - 15 * s + 6 * s**2)
        speed = self.way * 30 * s**2 * (1 - s) ** 2 / self.duration_s
        return place, speed, self.way * 60 * s * (1 - s) * (1 - 2 * s) / self.duration_s**2


class Arm:
    """The arm. Its state is MuJoCo's, except for the path that it follows."""

    def __init__(self, mujoco: Any, model: Any, data: Any) -> None:
        self._mujoco, self._model, self._data = mujoco, model, data
        self._scratch = mujoco.MjData(model)
        self._site = model.site(TOOL).id
        self._qpos = np.array([model.joint(name).qposadr[0] for name in JOINTS])
        self._dofs = np.array([model.joint(name).dofadr[0] for name in JOINTS])
        self._range = np.array([model.joint(name).range for name in JOINTS])
        self._motors = np.array([model.actuator(f'torq_j{number}').id for number in range(1, 8)])
        fingers = ('gripper_finger_joint1', 'gripper_finger_joint2')
        self._finger_motors = [model.actuator(f'gripper_{name}').id for name in fingers]
        self._finger_qpos = [model.joint(name).qposadr[0] for name in fingers]
        self._mass = np.zeros((model.nv, model.nv))
        self._path = _Path(HOME, np.zeros(7), 1.0)

    @property
    def position(self) -> NDArray[np.float64]:
        """Position of the tool in the base's frame: float64 [3], metres."""
        return np.array(self._data.site_xpos[self._site])

    @property
    def rotation(self) -> NDArray[np.float64]:
        """Rotation from the tool's frame to the base's: float64 [3, 3]."""
        return np.array(self._data.site_xmat[self._site]).reshape(3, 3)

    @property
    def opening(self) -> float:
        """Opening of the fingers: 0 closed, 1 open."""
        first, second = (float(self._data.qpos[address]) for address in self._finger_qpos)
        return (first - second) / (2 * FINGER_TRAVEL_M)

    def place(self, position: NDArray[np.float64], rotation: NDArray[np.float64]) -> None:
        """Put the tool at a pose immediately, with open fingers."""
        joints = self._solve(HOME, position, rotation)
        self._path = _Path(joints, np.zeros(7), 1.0)
        self._data.qpos[self._qpos] = joints
        self._data.qpos[self._finger_qpos] = FINGER_TRAVEL_M, -FINGER_TRAVEL_M
        self._data.ctrl[self._finger_motors] = FINGER_TRAVEL_M, -FINGER_TRAVEL_M

    def begin(
        self,
        translation: NDArray[np.float64],
        turn: NDArray[np.float64],
        gripper_open: bool,
        period_s: float,
    ) -> None:
        """Start moving the tool by a displacement, within a period.

        :param translation: float64 [3], metres along the base's axes.
        :param turn: float64 [3], radians, axis times angle along the base's axes.
        """
        start = np.array(self._data.qpos[self._qpos])
        goal = self._solve(start, self.position + translation, rotation(turn) @ self.rotation)
        self._path = _Path(start, goal - start, _PATH_SHARE * period_s)
        self._move_fingers(gripper_open)

    def lead(
        self,
        position: NDArray[np.float64],
        rotation: NDArray[np.float64],
        gripper_open: bool,
        duration_s: float,
    ) -> None:
        """Start moving the tool to a pose at a steady speed, from where the last path leads."""
        path = self._path
        start = path.start + path.way if path.is_steady else np.array(self._data.qpos[self._qpos])
        way = self._solve(start, position, rotation) - start
        self._path = _Path(start, way, duration_s, is_steady=True)
        self._move_fingers(gripper_open)

    def _move_fingers(self, gripper_open: bool) -> None:
        travel = FINGER_TRAVEL_M if gripper_open else 0.0
        self._data.ctrl[self._finger_motors] = travel, -travel

    def advance(self, ticks: int) -> None:
        """Simulate a number of time steps, whether the arm moves or rests."""
        for _ in range(ticks):
            self._path.elapsed_s += TIMESTEP_S
            self._track(self._path)

    def _track(self, path: _Path) -> None:
        """Simulate one tick of computed torque towards the current place on the path."""
        mujoco, data = self._mujoco, self._data
        place, speed, acceleration = path.now()
        acceleration += _STIFFNESS * (place - data.qpos[self._qpos])
        acceleration += _DAMPING * (speed - data.qvel[self._dofs])
        mujoco.mj_step1(self._model, data)
        mujoco.mj_fullM(self._model, self._mass, data.qM)
        inertia = self._mass[np.ix_(self._dofs, self._dofs)]
        passive = data.qfrc_bias[self._dofs] - data.qfrc_passive[self._dofs]
        data.ctrl[self._motors] = inertia @ acceleration + passive
        mujoco.mj_step2(self._model, data)

    def _solve(
        self,
        joints: NDArray[np.float64],
        position: NDArray[np.float64],
        rotation: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the joints of a pose, by damped least squares.

        For a pose that is out of reach, return the joints that come nearest to it.

        :param joints: where to start, float64 [7], radians.
        """
        mujoco, model, scratch = self._mujoco, self._model, self._scratch
        joints = joints.copy()
        jacobian = np.zeros((6, model.nv))
        for _ in range(_IK_STEPS):
            scratch.qpos[self._qpos] = joints
            mujoco.mj_kinematics(model, scratch)
            mujoco.mj_comPos(model, scratch)
            now = scratch.site_xmat[self._site].reshape(3, 3)
            error = np.concatenate(
                [position - scratch.site_xpos[self._site], rotation_vector(rotation @ now.T)]
            )
            if np.linalg.norm(error) < _IK_TOLERANCE:
                break
            mujoco.mj_jacSite(model, scratch, jacobian[:3], jacobian[3:], self._site)
            columns = jacobian[:, self._dofs]
            inverse = columns.T @ np.linalg.inv(columns @ columns.T + _IK_MARGIN * np.eye(6))
            posture = (np.eye(7) - inverse @ columns) @ (_POSTURE_GAIN * (HOME - joints))
            joints = np.clip(joints + inverse @ error + posture, *self._range.T)
        return joints


def rotation_vector(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the axis times the angle of a rotation below half a turn: float64 [3], radians."""
    doubled = np.array(
        [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]
    )
    sine, cosine = float(np.linalg.norm(doubled)) / 2, (float(np.trace(matrix)) - 1) / 2
    scale = math.atan2(sine, cosine) / sine if sine > 1e-9 else 1.0
    return doubled * (scale / 2)


def quaternion(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quaternion x, y, z, w of a rotation, whose largest part is positive: float64 [4].

    It is an eigenvector of a matrix of the rotation's values (Bar-Itzhack 2000,
    doi:10.2514/2.4654), so that no case needs a formula of its own.
    """
    (a, b, c), (d, e, f), (g, h, i) = matrix
    symmetric = np.array(
        [
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    vector: NDArray[np.float64] = np.linalg.eigh(symmetric)[1][:, -1]
    return vector if vector[np.abs(vector).argmax()] > 0 else -vector


def rotation(turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation about a vector by its length, by Rodrigues' formula: float64 [3, 3]."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = turn / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    square: NDArray[np.float64] = cross @ cross
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * square
