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
        position, velocity = self.at(now_s)
        lasts_s = np.abs(velocity) * (self.bounds.ramp_s / 2) / self.bounds.speed
        self._brake = _Brake(now_s, position, velocity, lasts_s)
        self._lines = []
        self._base = self._brake.at(self._brake.end_s)[0]

    def follows(self, now_s: float) -> bool:
        """Return whether there are rows to be followed, now or after a stop."""
        return bool(self._lines) and not self.is_over(now_s)

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

    def at(self, now_s: float) -> tuple[Joints, Joints]:
        """Return the commanded positions and velocities at a time, each float64 [J]."""
        positions, velocities = self._at(np.array([now_s]))
        return positions[0], velocities[0]

    def _at(self, times_s: NDArray[np.float64]) -> tuple[Joints, Joints]:
        """Return positions and velocities, each float64 [N, J].

        :param times_s: float64 [N].
        """
        if self._brake is not None and (times_s < self._brake.end_s).any():
            return self._braking(self._brake, times_s)
        if not self._lines:
            positions = np.tile(self._base, (len(times_s), 1))
            return positions, np.zeros_like(positions)
        ramp_s = self.bounds.ramp_s
        starts, ends = np.array([line[:2] for line in self._lines]).T
        moves = np.array([line.velocity for line in self._lines])
        since, after = ((times_s[:, None] - edges) / ramp_s for edges in (starts, ends))
        made = (_made(since) - _made(after)) * ramp_s
        return self._base + made @ moves, (_share(since) - _share(after)) @ moves

    def _braking(self, brake: _Brake, times_s: NDArray[np.float64]) -> tuple[Joints, Joints]:
        """Return the same for times of which some are before the end of a stop."""
        self._brake = None
        positions, velocities = self._at(times_s)
        self._brake = brake
        for number, now_s in enumerate(times_s):
            if now_s < brake.end_s:
                positions[number], velocities[number] = brake.at(float(now_s))
        return positions, velocities

    def samples(self, now_s: float, step_s: float) -> list[JointSample]:
        """Return the motion to come, one sample after each step; the last one is at rest.

        At least one sample: where the joints stay.
        """
        count = int(max(0.0, np.ceil(min(self.end_s - now_s, 1e4) / step_s - 1e-9)))
        offsets_s: Joints = step_s * np.arange(1.0, max(count, 1) + 1.0)
        positions, velocities = self._at(now_s + offsets_s)
        positions[-1], velocities[-1] = self.at(max(now_s + offsets_s[-1], self.end_s))[0], 0.0
        return [
            JointSample(*one) for one in zip(offsets_s.tolist(), positions, velocities, strict=True)
        ]

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


def _share(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of the triangle that is younger than ``x`` ramps, 0 to 1."""
    x = np.clip(x, 0.0, 2.0)
    return np.where(x <= 1, x * x / 2, 1 - (2 - x) ** 2 / 2)


def _made(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the integral of :func:`_share` from 0 to ``x`` ramps."""
    x = np.maximum(x, 0.0)
    return np.where(x <= 1, x**3 / 6, x - 1 + np.maximum(2 - x, 0.0) ** 3 / 6)
