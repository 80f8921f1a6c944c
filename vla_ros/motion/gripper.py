# SPDX-License-Identifier: Apache-2.0
"""The state of a gripper, row by row of a chunk. Independent of ROS.

The arm's commands are averages over two ramps, so the arm begins a row one ramp after the row's
command begins. Its gripper is turned then, and not before: a hand that closes a ramp early closes
beside the object.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

_CLOSE_BELOW = 0.4
_OPEN_ABOVE = 0.6
_CHANGES = 100  # that are remembered


class _Row(NamedTuple):
    """A row whose gripper has not been turned.

    :param begins_s: when the row's command begins.
    :param due_s: when the arm is where the row begins.
    """

    opening: float
    begins_s: float
    due_s: float
    valid_until_s: float


class Change(NamedTuple):
    """A moment at which the gripper got another state."""

    at_s: float
    opening: float


class GripperSwitch:
    """A gripper that is open or closed, with hysteresis.

    A policy whose values vary about the middle does not move the gripper.
    """

    def __init__(self) -> None:
        self.opening: float | None = None  # 0 closed, 1 open; None: unknown until the first row
        self._rows: deque[_Row] = deque()
        self._changes: deque[Change] = deque(maxlen=_CHANGES)

    def follow(
        self,
        openings: Sequence[float],
        begins_s: Sequence[float],
        valid_until_s: Sequence[float],
        lag_s: float,
        is_there: bool = False,
    ) -> None:
        """Plan the rows of a chunk.

        They replace the rows whose commands have not begun. An earlier row is still carried out by
        the arm, and so by its gripper.

        :param openings: opening of each row: 0 closed, 1 open; may be below or above.
        :param begins_s: when each row's command begins; rising.
        :param valid_until_s: time by which each row must be begun.
        :param lag_s: time by which the arm is behind the commands.
        :param is_there: whether the arm is known to be where row 0 begins: it has no lag then, and
            nothing of earlier rows is left.
        :raises ValueError: if an opening is not finite; nothing changes then.
        """
        for opening in openings:
            if not math.isfinite(opening):
                raise ValueError(f'gripper opening {opening} is not finite')
        first_s = -math.inf if is_there else begins_s[0]
        kept = [row for row in self._rows if row.begins_s < first_s]
        lags_s = [0.0 if is_there else lag_s] + [lag_s] * (len(openings) - 1)
        rows = zip(openings, begins_s, valid_until_s, lags_s, strict=True)
        new = [_Row(opening, at_s, at_s + late_s, end_s) for opening, at_s, end_s, late_s in rows]
        self._rows = deque(kept + new)

    def begin_rows(self, now_s: float) -> bool:
        """Begin the rows that are due, and return whether there were any.

        A row that is no longer valid is discarded. Of several rows only the last one's state is
        told, so the states between are no changes: the gripper never had them.
        """
        begun, before = False, self.opening
        while self._rows and self._rows[0].due_s <= now_s:
            row = self._rows.popleft()
            if now_s < row.valid_until_s:
                self.opening = turned(self.opening, row.opening)
                begun = True
        if self.opening is not None and self.opening != before:
            self._changes.append(Change(now_s, self.opening))
        return begun

    def stop(self) -> None:
        """Discard all rows. The gripper stays as it is."""
        self._rows.clear()

    def changes_since(self, at_s: float) -> list[Change]:
        """Return the changes after a moment, in order."""
        return [change for change in self._changes if change.at_s > at_s]

    def states(self, openings: Sequence[float], at_s: float) -> list[float | None]:
        """Return the state at a moment, and the state after each row of a chunk from then on."""
        before = [change.opening for change in self._changes if change.at_s <= at_s]
        states: list[float | None] = [before[-1] if before else None]
        for opening in openings:
            states.append(turned(states[-1], opening))
        return states


def turned(state: float | None, opening: float) -> float | None:
    """Return the gripper's state after a row, with hysteresis."""
    if opening > _OPEN_ABOVE:
        return 1.0
    return 0.0 if opening < _CLOSE_BELOW else state
