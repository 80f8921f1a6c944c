# SPDX-License-Identifier: Apache-2.0
"""The positions of joints at any time, which follow rows smoothly and within limits.

Independent of contracts and ROS.

The reference moves in a straight line from row to row, with at most the limits of speed. The
commanded position is the average of the reference over the last two ``ramp_s``, weighted by a
triangle:

* An average lies between the positions that it averages, so limits of position are kept.
* It is never faster than what it averages, so limits of speed are kept.
* Its acceleration is at most ``2 * speed / ramp_s``.
* It begins where the joints are, without a step, and ends exactly at the last row.

A stop is faster than that: each joint brakes with the acceleration that it may have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.joint_limits import JointBounds
from vla_ros.motion.rows import Window

Joints = NDArray[np.float64]  # [J]: rad or m, or per second


class JointSample(NamedTuple):
    """A moment of a motion.

    :param at_s: time from the beginning of the trajectory.
    :param positions: float64 [J], rad or m.
    :param velocities: float64 [J], rad/s or m/s.
    """

    at_s: float
    positions: Joints
    velocities: Joints


class Shortened(NamedTuple):
    """What the limits took from the rows of a chunk.

    :param positions: bool [J], joints that a row would have led out of their limits.
    :param speed: whether a row was too far away for its time.
    """

    positions: NDArray[np.bool_]
    speed: bool


class _Line(NamedTuple):
    """A part of the reference with constant velocity."""

    start_s: float
    end_s: float
    velocity: Joints


class _Brake(NamedTuple):
    """A stop with constant deceleration of each joint."""

    start_s: float
    position: Joints
    velocity: Joints
    lasts_s: Joints  # of each joint

    @property
    def end_s(self) -> float:
        return self.start_s + float(self.lasts_s.max())

    def at(self, now_s: float) -> tuple[Joints, Joints]:
        """Return positions and velocities."""
        passed = np.clip(now_s - self.start_s, 0.0, self.lasts_s)
        left = np.divide(
            self.lasts_s - passed, self.lasts_s, out=np.zeros_like(passed), where=self.lasts_s > 0
        )
        return self.position + self.velocity * passed * (1 + left) / 2, self.velocity * left


class JointProfile:
    """The commanded positions of some joints. Times are seconds of a clock that does not go back.

    :ivar bounds: limits of the motion, which do not change.
    """

    def __init__(self, start: Joints, bounds: JointBounds) -> None:
        """Begin at rest.

        :param start: where the joints are.
        """
        self.bounds = bounds
        self._base = start  # of the reference, before its lines
        self._lines: list[_Line] = []
        self._brake: _Brake | None = None

    def ready_s(self, now_s: float) -> float:
        """Return the earliest time at which rows can begin: now, or after a stop."""
        return max(now_s, self._brake.end_s) if self._brake else now_s

    def follow(
        self, rows: NDArray[np.float64], windows: Sequence[Window], ends_s: Sequence[float]
    ) -> Shortened:
        """Lead the reference to each row, in place of all lines from the first window on.

        Where a row is too far away for its time, all joints go the same share of their way, and
        the next row makes up for the rest.

        :param rows: float64 [K, J], finite; what is outside the limits is moved to them.
        :param windows: of each row, one after the other, none before :meth:`ready_s`.
        :param ends_s: when each row is to be reached, not before the end of its window.
        """
        bounds = self.bounds
        at = self._end_lines(windows[0].start_s)
        inside = np.clip(rows, bounds.low, bounds.high)
        is_fast = False
        for row, window, end_s in zip(inside, windows, ends_s, strict=True):
            if window.end_s <= window.start_s:
                continue
            velocity = (row - at) / (end_s - window.start_s)
            too_fast = float((np.abs(velocity) / bounds.speed).max())
            if too_fast > 1.0:
                velocity, is_fast = velocity / too_fast, True
            self._lines.append(_Line(*window, velocity))
            at = at + velocity * (window.end_s - window.start_s)
        return Shortened((inside != rows).any(axis=0), is_fast)

    def brake(self, now_s: float) -> None:
        """Stop each joint as fast as its acceleration allows; the rows to come are discarded.

        A joint that is averaged towards a reference within its limits can brake within them: it
        needs no longer way than the average.
        """
        if self._brake and now_s < self._brake.end_s:
            self._lines = []
            return
        position, velocity = self.position(now_s), self.velocity(now_s)
        lasts_s = np.abs(velocity) * (self.bounds.ramp_s / 2) / self.bounds.speed
        self._brake = _Brake(now_s, position, velocity, lasts_s)
        self._lines = []
        self._base = self._brake.at(self._brake.end_s)[0]

    def is_over(self, now_s: float) -> bool:
        """Return whether the positions stay as they are until the next rows."""
        return now_s >= self.end_s

    @property
    def end_s(self) -> float:
        """The time from which on the positions stay as they are."""
        ends_s = [self._brake.end_s] if self._brake else []
        if self._lines:
            ends_s.append(self._lines[-1].end_s + 2 * self.bounds.ramp_s)
        return max(ends_s, default=-np.inf)

    def position(self, now_s: float) -> Joints:
        """Return the commanded positions at a time, float64 [J]."""
        if self._brake and now_s < self._brake.end_s:
            return self._brake.at(now_s)[0]
        ramp_s, position = self.bounds.ramp_s, self._base
        for line in self._lines:
            if now_s <= line.start_s:
                break
            made = _made((now_s - line.start_s) / ramp_s) - _made((now_s - line.end_s) / ramp_s)
            position = position + line.velocity * (ramp_s * made)
        return position

    def velocity(self, now_s: float) -> Joints:
        """Return the commanded velocities at a time, float64 [J]."""
        if self._brake and now_s < self._brake.end_s:
            return self._brake.at(now_s)[1]
        ramp_s, velocity = self.bounds.ramp_s, np.zeros_like(self._base)
        for line in self._lines:
            if line.start_s < now_s < line.end_s + 2 * ramp_s:
                start, end = (now_s - line.start_s) / ramp_s, (now_s - line.end_s) / ramp_s
                velocity = velocity + line.velocity * (_share(start) - _share(end))
        return velocity

    def samples(self, now_s: float, step_s: float) -> list[JointSample]:
        """Return the motion to come, one sample after each step; the last one is at rest.

        At least one sample: where the joints stay.
        """
        count = int(max(0.0, np.ceil(min(self.end_s - now_s, 1e4) / step_s - 1e-9)))
        moving = [
            JointSample(number * step_s, self.position(at_s), self.velocity(at_s))
            for number in range(1, count)
            for at_s in [now_s + number * step_s]
        ]
        rest_s = max(count, 1) * step_s
        end = self.position(max(now_s + rest_s, self.end_s))
        return [*moving, JointSample(rest_s, end, np.zeros_like(end))]

    def _end_lines(self, now_s: float) -> Joints:
        """End the reference at a time, and return where it is then."""
        ramp_s, lines = self.bounds.ramp_s, []
        for line in self._lines:
            line = line._replace(end_s=min(line.end_s, now_s))
            if line.end_s <= line.start_s:
                continue
            if line.end_s + 2 * ramp_s <= now_s:
                self._base = self._base + line.velocity * (line.end_s - line.start_s)
            else:
                lines.append(line)
        self._lines = lines
        return self._base + sum(
            (line.velocity * (line.end_s - line.start_s) for line in lines),
            np.zeros_like(self._base),
        )


def _share(x: float) -> float:
    """Return the share of the triangle that is younger than ``x`` ramps, 0 to 1."""
    x = min(max(x, 0.0), 2.0)
    return x * x / 2 if x <= 1 else 1 - (2 - x) ** 2 / 2


def _made(x: float) -> float:
    """Return the integral of :func:`_share` from 0 to ``x`` ramps."""
    x = max(x, 0.0)
    return x**3 / 6 if x <= 1 else x - 1 + max(2 - x, 0.0) ** 3 / 6
