# SPDX-License-Identifier: Apache-2.0
"""When each row of a chunk is played. Independent of contracts and ROS."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """The time in which a row is commanded."""

    start_s: float
    end_s: float


class Due(NamedTuple):
    """The times of a chunk, in seconds of one clock. Row k is due k periods after row 0.

    :param row_0_s: time at which row 0 is due, at the latest ``now_s``.
    :param now_s: when the chunk begins.
    :param valid_until_s: time by which the motion of row 0 must end; that of row k may end k
        periods later.
    """

    row_0_s: float
    now_s: float
    valid_until_s: float

    def ends_s(self, period_s: float, ramps_s: float) -> float:
        """Return when row 0 ends; not after ``row_0_s`` if its validity leaves no time to it.

        :param ramps_s: time that a motion goes on after the end of its row.
        """
        return min(self.row_0_s + period_s, self.valid_until_s - ramps_s)

    def past(self, rows: int, period_s: float, ends_s: float) -> int:
        """Return the number of rows that have no time left, counted from row 0.

        :param rows: number of rows of the chunk.
        :param ends_s: end of row 0; row k ends k periods later.
        """
        ends = (ends_s + row * period_s for row in range(rows))
        return next((row for row, end_s in enumerate(ends) if end_s > self.now_s), rows)

    def windows(self, rows: int, period_s: float, ends_s: float) -> list[Window]:
        """Return the time of each row, of which those before ``now_s`` have lost what is past.

        :param ends_s: end of row 0; row k ends k periods later, or when the next row starts.
        """
        starts_s = [max(self.now_s, self.row_0_s + row * period_s) for row in range(rows + 1)]
        # Exactly the number at which the next row starts: rows that overlap are too fast.
        return [
            Window(start_s, min(ends_s + row * period_s, starts_s[row + 1]))
            for row, start_s in enumerate(starts_s[:-1])
        ]

    def rows_s(self, rows: int, period_s: float) -> tuple[list[float], list[float]]:
        """Return when each row is due, perhaps before ``now_s``, and by when it must have ended."""
        later_s = [row * period_s for row in range(rows)]
        return (
            [self.row_0_s + one_s for one_s in later_s],
            [self.valid_until_s + one_s for one_s in later_s],
        )

    def from_row(self, row: int, period_s: float) -> Due:
        """Return the times of the rest of the chunk, as if ``row`` were row 0."""
        later_s = row * period_s
        return Due(self.row_0_s + later_s, self.now_s, self.valid_until_s + later_s)
