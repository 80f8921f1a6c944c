# SPDX-License-Identifier: Apache-2.0
"""Controllers of joints that complain about what the real ones reject or should not be sent.

After ros2_controllers' jazzy branch: what joint_trajectory_controller validates, how it replaces a
trajectory and interpolates, and what forward_command_controller does with a command: the hardware
gets it as it is, so the bounds here are those of the hardware.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
_ROUNDING = 1e-9


@dataclass
class Hardware:
    """Joints that follow their commands with a delay, and complain about those they cannot make.

    :ivar position: where they are, float64 [J].
    :ivar command: the last one.
    """

    names: Sequence[str]
    position: Vector
    low: Vector
    high: Vector
    speed: Vector
    acceleration: Vector
    speed_slack: float = 1e-6
    acceleration_slack: float = 1e-6
    position_slack: float = 0.0  # rad
    unsure_s: float = 0.0  # so much later than its position was computed a command may come
    delay_s: float = 0.03
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.command = self.position.copy()
        self._velocity = np.zeros_like(self.position)
        self._passed_s = 0.0

    @property
    def rests(self) -> bool:
        return bool((np.abs(self._velocity) < 1e-6).all())

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    def write(self, command: Vector, passed_s: float) -> None:
        """Take the command of a cycle.

        :param passed_s: since the command before.
        """
        velocity = (command - self.command) / passed_s
        self._check('speed', np.abs(velocity), self.speed * (1 + self.speed_slack))
        between_s = (passed_s + (self._passed_s or passed_s)) / 2
        unsure = self._unsure(velocity, passed_s) + self._unsure(self._velocity, self._passed_s)
        change = (np.abs(velocity - self._velocity) - unsure) / between_s
        self._check('acceleration', change, self.acceleration * (1 + self.acceleration_slack))
        # Joints outside their limits may stay or come back.
        self._check('high', command, np.maximum(self.high, self.command) + self.position_slack)
        self._check('low', -command, -np.minimum(self.low, self.command) + self.position_slack)
        self.command, self._velocity, self._passed_s = command.copy(), velocity, passed_s

    def _unsure(self, velocity: Vector, passed_s: float) -> Vector:
        """Return by how much the velocity between two commands may be another.

        Their positions lie up to ``unsure_s`` more or less apart than they came. Between commands a
        tick apart that is little. A node that ends sends them as fast as it can, and between those
        the velocity is hardly known: 1 ms of 3 ms is a third of it.
        """
        if not velocity.any() or not self.unsure_s:
            return np.zeros_like(velocity)
        least_s = passed_s - self.unsure_s
        return np.abs(velocity) * (self.unsure_s / least_s if least_s > 0 else np.inf)

    def rest(self) -> None:
        """Know that the command has not changed for a while."""
        self._velocity, self._passed_s = np.zeros_like(self._velocity), 0.0

    def live(self, passed_s: float) -> None:
        share = 1 - math.exp(-passed_s / self.delay_s)
        self.position = self.position + share * (self.command - self.position)

    def moved_by_hand(self, position: Vector) -> None:
        self.position, self.command = position.copy(), position.copy()
        self.rest()

    def _check(self, what: str, values: Vector, limits: Vector) -> None:
        if not (values <= limits + _ROUNDING).all():  # nan is not, either
            worst = int(np.argmax(values - limits))
            self.complain(
                f'{what} of {self.names[worst]}: {values[worst]:.6g}, allowed {limits[worst]:.6g}'
            )


class ForwardController:
    """Forwards Float64MultiArray; also complains about a stream with gaps."""

    def __init__(self, hardware: Hardware, period_s: float, patience_s: float = 0.12) -> None:
        self.hardware = hardware
        self._period_s, self._patience_s = period_s, patience_s
        self._heard_s = -math.inf

    def hear(self, message: Any, now_s: float) -> None:
        data, hardware = np.array(message.data), self.hardware
        if len(data) != len(hardware.names):
            hardware.complain(f'command size {len(data)}, interfaces {len(hardware.names)}')
            return
        if not np.isfinite(data).all():
            hardware.complain(f'not finite: {data}')
            return
        gap_s, self._heard_s = now_s - self._heard_s, now_s
        if gap_s > self._patience_s:
            if not hardware.rests:
                hardware.complain(f'silence of {gap_s:.3f} s while moving')
            hardware.rest()
            gap_s = self._period_s
        elif gap_s == 0.0:
            if not np.allclose(data, hardware.command, atol=_ROUNDING):
                hardware.complain(f'two commands in one moment: {hardware.command}, {data}')
            return
        hardware.write(data, gap_s)


class TrajectoryController:
    """joint_trajectory_controller on a position interface, with its default parameters.

    :ivar complaints: of what it rejects, and of tolerances that are violated.
    """

    def __init__(
        self,
        hardware: Hardware,
        path_tolerance: float,
        goal_tolerance: float,
        from_desired: bool = True,
    ) -> None:
        """
        :param from_desired: its parameter interpolate_from_desired_state.
        """
        self.hardware = hardware
        self._path, self._goal = path_tolerance, goal_tolerance
        self._from_desired = from_desired
        self._desired = (hardware.position.copy(), np.zeros_like(hardware.position))
        self._points: list[tuple[float, Vector, Vector]] = []
        self.accepted = 0

    def hear(self, message: Any, now_s: float) -> None:
        why = self._why_rejected(message, now_s)
        if why:
            self.hardware.complain(why)
            return
        self.accepted += 1
        order = [list(message.joint_names).index(name) for name in self.hardware.names]
        start_s = _seconds(message.header.stamp) or now_s
        zeros = np.zeros_like(self.hardware.position)
        before = self._desired if self._from_desired else (self.hardware.position, zeros)
        self._points = [(now_s, *before)]
        for point in message.points:
            velocities = np.array(point.velocities)[order] if len(point.velocities) else zeros
            at_s = start_s + _seconds(point.time_from_start)
            if at_s > now_s:  # what is past is not reached any more
                self._points.append((at_s, np.array(point.positions)[order], velocities))

    def update(self, now_s: float, passed_s: float) -> None:
        """Run one cycle."""
        hardware = self.hardware
        if self._points:
            self._desired = _spline(self._points, now_s)
            error = float(np.abs(hardware.position - self._desired[0]).max())
            ended_s = now_s - self._points[-1][0]
            if ended_s < 0 and error > self._path:
                hardware.complain(f'path tolerance violated: {error:.3f}')
            if ended_s > 0.5 and error > self._goal:
                hardware.complain(f'goal tolerance violated: {error:.3f}')
            hardware.write(self._desired[0], passed_s)
        hardware.live(passed_s)

    def moved_by_hand(self, position: Vector) -> None:
        """As after another controller had the joints: this one is activated again."""
        self.hardware.moved_by_hand(position)
        self._points, self._desired = [], (position.copy(), np.zeros_like(position))

    def _why_rejected(self, message: Any, now_s: float) -> str:
        names, points = list(message.joint_names), message.points
        if len(names) != len(self.hardware.names):
            return 'joints do not match the joints of the controller'
        if any(name not in self.hardware.names for name in names) or len(set(names)) < len(names):
            return f'names {names}'
        if not points:
            return 'empty trajectory'
        last = points[-1]
        if any(abs(velocity) > np.finfo(np.float32).eps for velocity in last.velocities):
            return 'velocity of the last point is not zero'
        start_s, end_s = _seconds(message.header.stamp), _seconds(last.time_from_start)
        if start_s and start_s + end_s < now_s:
            return f'ends {now_s - start_s - end_s:.3f} s in the past'
        before_s = 0.0
        for number, point in enumerate(points):
            at_s = _seconds(point.time_from_start)
            if number and at_s <= before_s:
                return 'time is not strictly increasing'
            before_s = at_s
            if len(point.positions) != len(names):
                return 'positions do not match the names'
            if any(
                len(values) not in (0, len(names))
                for values in (point.velocities, point.accelerations)
            ):
                return 'velocities do not match the names'
            if len(point.effort):
                return 'effort'
            if not np.isfinite([*point.positions, *point.velocities]).all():
                return 'not finite'
        return ''


def _seconds(time: Any) -> float:
    seconds: float = time.sec + time.nanosec / 1e9
    return seconds


def _spline(points: list[tuple[float, Vector, Vector]], now_s: float) -> tuple[Vector, Vector]:
    """Cubic between positions and velocities, as the controller's; at rest after the end."""
    if now_s >= points[-1][0]:
        return points[-1][1], np.zeros_like(points[-1][1])
    index = max(0, next(i for i, point in enumerate(points) if point[0] > now_s) - 1)
    (t0, p0, v0), (t1, p1, v1) = points[index : index + 2]
    span = t1 - t0
    x = (now_s - t0) / span
    a = 2 * (p0 - p1) + (v0 + v1) * span
    b = 3 * (p1 - p0) - (2 * v0 + v1) * span
    position = ((a * x + b) * x + v0 * span) * x + p0
    velocity = ((3 * a * x + 2 * b) * x) / span + v0
    return position, velocity
