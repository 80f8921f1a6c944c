# SPDX-License-Identifier: Apache-2.0
"""The rows that an arm executes: which one of the newest chunk comes next, and from where.

Used by the robot's thread. All times are the robot's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.simulation import FreeWorld
from vla_ros.types import Observation

_GRIPPER_M = 0.05  # a gripper in the other position counts as a tool so far away


@dataclass(frozen=True)
class Captured:
    """An observation that the robot made.

    :param at_s: time of capture, seconds.
    :param seen: the observation as the node gets it.
    :param pose: pose of the tool.
    :param finished: number of rows that the arm had completed.
    :param is_open: last position that the gripper was told to take.
    """

    at_s: float
    seen: Observation
    pose: Any
    finished: int = 0
    is_open: bool = True


@dataclass
class Chunk:
    """A chunk that the arm executes.

    :param captured: its observation.
    :param rows: float64 [K, D], those that may be executed.
    :param due_ns: time of row 0 by the robot's clock, nanoseconds.
    :param period_ns: time between two rows, nanoseconds.
    :param next_row: index of the first row that has neither begun nor been skipped.
    """

    captured: Captured
    rows: NDArray[np.float64]
    due_ns: int
    period_ns: int
    next_row: int = 0

    def due_row(self, now_ns: int) -> int:
        """Return the index of the row that is due; -1 before row 0, the last row at the end."""
        return min((now_ns - self.due_ns) // self.period_ns, len(self.rows) - 1)


class Player:
    """Plays one chunk at a time, each row once and in order.

    With displacements from the pose ``now``, it plays the row that is due. Rows whose time is over
    are skipped, except for the last one.

    With displacements from the ``image``, it knows the poses that the chunk leads to. It compares
    them with the tool's pose and the gripper's position when the chunk comes: the rows that the arm
    has done since the image are taken off. The others follow without waiting.
    """

    def __init__(self, world: FreeWorld, deltas_from: str) -> None:
        self._world, self._from_image = world, deltas_from == 'image'
        self._begun = 0
        self._is_open = True
        self._chunk: Chunk | None = None
        self.is_playing = False  # whether a row of the chunk has begun
        self._path: list[Any] = []  # poses before row 0, 1, ..., and at the end

    def captured(self, at_s: float, seen: Observation, resting: bool) -> Captured:
        """Return an observation with what must be remembered of this moment.

        :param resting: whether the arm has completed the last row.
        """
        finished = self._begun if resting else self._begun - 1
        return Captured(at_s, seen, self._world.pose, finished, self._is_open)

    def take(self, chunk: Chunk) -> None:
        """Replace the chunk; the arm has completed its last row."""
        self._chunk, self._path, self.is_playing = chunk, [], False
        if not self._from_image:
            return
        self._path = [chunk.captured.pose]
        for row in chunk.rows:
            self._path.append(self._world.moved(self._path[-1], row))
        chunk.next_row = self._done(chunk)

    def drop(self) -> None:
        """End the chunk."""
        self._chunk, self.is_playing = None, False

    def begin(self, now_ns: int) -> tuple[Captured, NDArray[np.float64], bool] | None:
        """Begin the next row if its time has come.

        :returns: the observation, the row, float64 [D], and whether it is the chunk's first; None
            if nothing begins.
        """
        chunk = self._chunk
        if chunk is None:
            return None
        index = chunk.next_row if self._from_image else chunk.due_row(now_ns)
        if not chunk.next_row <= index < len(chunk.rows):
            return None
        row, is_first = chunk.rows[index], not self.is_playing
        self._world.begin(row, self._path[index] if self._from_image else None)
        chunk.next_row = index + 1
        self._begun += 1
        self.is_playing, self._is_open = True, bool(row[-1] > 0.5)
        return chunk.captured, row, is_first

    def _done(self, chunk: Chunk) -> int:
        """Return how many rows the arm has done since the image was captured."""
        captured, pose = chunk.captured, self._world.pose
        most = min(self._begun - captured.finished, len(chunk.rows))
        grippers = [captured.is_open, *(row[-1] > 0.5 for row in chunk.rows)]
        apart_m = [
            self._world.apart(place, pose) + _GRIPPER_M * (is_open != self._is_open)
            for place, is_open in zip(self._path[: most + 1], grippers, strict=False)
        ]
        return int(np.argmin(apart_m))
