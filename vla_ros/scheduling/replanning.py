# SPDX-License-Identifier: Apache-2.0
"""When the next inference of one robot may begin, if rows of its chunk are played before.

Independent of ROS and torch. Guarded by the worker's lock.
"""

from __future__ import annotations

from vla_ros.types import Observation


def rows_played_ns(due_ns: int, rows: int, period_s: float) -> int:
    """Return when so many rows of a chunk have been played, by the clock of ``due_ns``.

    :param due_ns: time at which row 0 is due.
    :param rows: number of rows; the robot rests for those that the chunk does not have.
    :param period_s: time between two rows.
    """
    return due_ns + round(rows * period_s * 1e9)


class Replanning:
    """The inference that runs, or is not judged yet, and the chunk that is played before the next.

    Each inference begins from an image that was captured when the rows had been played. A hold ends
    the chunk, so nothing is left to wait for.
    """

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Let the next inference begin from any image, even while one still runs."""
        self._asked: Observation | None = None
        self.end_chunk()

    def end_chunk(self) -> None:
        """Wait no longer for the rows of a chunk; one that is still computed is waited for."""
        self._from_ns: int | None = None

    def ask(self, observation: Observation) -> None:
        """Note that an inference begins. None begins until it is judged."""
        self._asked = observation
        self.end_chunk()

    def judge(self, observation: Observation, from_ns: int | None) -> None:
        """Note what came of an inference; nothing if there was a fresh start since it began.

        :param from_ns: when the rows of its chunk have been played; None: it has no chunk.
        """
        if observation is self._asked:
            self._asked, self._from_ns = None, from_ns

    def may_begin(self, stamp_ns: int) -> bool:
        """Return whether the next inference may begin from an image of this capture time."""
        is_played = self._from_ns is None or stamp_ns >= self._from_ns
        return self._asked is None and is_played
