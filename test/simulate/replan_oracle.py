# SPDX-License-Identifier: Apache-2.0
"""What ``replan_rows`` promises: one inference at a time, and rows of its chunk before the next.

It knows the actions and the calls of one robot. Where the node may have ended the chunk, the next
inference may begin or not.
"""

from __future__ import annotations

from typing import Any

from simulate.parts_oracle import MARGIN_S
from simulate.policy import Call, is_sound


class ReplanOracle:
    """The rules for one robot."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.lift()

    @property
    def is_on(self) -> bool:
        return self._rows > 0

    def lift(self) -> None:
        """The node may have ended the chunk, or dropped the inference."""
        self._from_ns: int | None = None
        self._asked: Call | None = None

    def ask(self, call: Call, stamp_ns: int, limit_s: float) -> str:
        """Return why the policy may not be asked about an observation now; empty: it may.

        :param limit_s: an inference that took longer, or nearly so, may have been dropped.
        """
        asked, from_ns = self._asked, self._from_ns
        self._asked, self._from_ns = call, None
        if not self.is_on:
            return ''
        is_late = asked is not None and asked.duration_s > limit_s - MARGIN_S
        if asked is not None and is_sound(asked) and not is_late:
            return 'it is asked again, before the action of the last observation'
        if from_ns is not None and stamp_ns < from_ns:
            return f'it is asked {(from_ns - stamp_ns) / 1e9:.3f} s before the rows are played'
        return ''

    def act(self, action: Any, is_played: bool) -> None:
        """An action was published.

        :param is_played: whether it surely moves the robot, as far as the node is to move it.
        """
        self.lift()
        due_ns, period_ns = (one.sec * 10**9 + one.nanosec for one in (action.due, action.period))
        if period_ns and is_played:
            self._from_ns = due_ns + self._rows * period_ns
