# SPDX-License-Identifier: Apache-2.0
"""The state of a gripper, row by row of a chunk. Independent of ROS."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

_CLOSE_BELOW = 0.4
_OPEN_ABOVE = 0.6
_CHANGES = 100  # that are remembered


class _Row(NamedTuple):
    """A row that has not begun."""

    opening: float
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
        start_s: float,
        period_s: float,
        valid_until_s: float,
        later_s: float = 0.0,
    ) -> None:
        """Plan row 0 for ``start_s``, and each further row one period later.

        They replace the rows that have not begun.

        :param openings: opening of each row: 0 closed, 1 open; may be below or above.
        :param valid_until_s: time by which row 0 must begin; row k must begin at most k periods
            later.
        :param later_s: added to the time of each row but row 0.
        :raises ValueError: if an opening is not finite; nothing changes then.
        """
        for opening in openings:
            if not math.isfinite(opening):
                raise ValueError(f'gripper opening {opening} is not finite')
        self._rows = deque(
            _Row(
                opening,
                start_s + row * period_s + (later_s if row else 0.0),
                valid_until_s + row * period_s,
            )
            for row, opening in enumerate(openings)
        )

    def begin_rows(self, now_s: float) -> bool:
        """Begin the rows that are due, and return whether there were any.

        A row that is no longer valid is discarded.
        """
        begun = False
        while self._rows and self._rows[0].due_s <= now_s:
            row = self._rows.popleft()
            if now_s < row.valid_until_s:
                self._turn(row.opening, now_s)
                begun = True
        return begun

    def stop(self) -> None:
        """Discard the rows that have not begun. The gripper stays as it is."""
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

    def _turn(self, opening: float, now_s: float) -> None:
        state = turned(self.opening, opening)
        if state is not None and state != self.opening:
            self._changes.append(Change(now_s, state))
        self.opening = state


def turned(state: float | None, opening: float) -> float | None:
    """Return the gripper's state after a row, with hysteresis."""
    if opening > _OPEN_ABOVE:
        return 1.0
    return 0.0 if opening < _CLOSE_BELOW else state
