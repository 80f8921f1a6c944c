# SPDX-License-Identifier: Apache-2.0
"""What ``replan_rows`` promises: one inference at a time, and rows of its chunk before the next.

It knows the actions and the calls of one robot. Where the node may have ended the chunk, the next
inference may begin or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulate.parts_oracle import MARGIN_S
from simulate.policy import Call, is_sound
from simulate.scheduler import NS

_UNSURE_NS = 4 * NS  # after another number of rows is in force: of a chunk and an inference by it


class ReplanOracle:
    """The rules for one robot."""

    def __init__(self, parameters: dict[str, Any], now_ns: Callable[[], int]) -> None:
        self._params, self._now_ns = parameters, now_ns
        self._changed_ns = -_UNSURE_NS
        self._asked_ns = 0  # stamp of the last observation
        self.lift()

    @property
    def is_on(self) -> bool:
        """Whether an observation may wait for rows of a chunk."""
        return self._params['replan_rows'] > 0 or self._is_unsure

    def change(self) -> None:
        """Another number of rows is in force; an inference, or a chunk, is still by the other."""
        self._changed_ns = self._now_ns()

    @property
    def _is_unsure(self) -> bool:
        return self._now_ns() - self._changed_ns < _UNSURE_NS

    def lift(self) -> None:
        """The node may have ended the chunk, or dropped the inference."""
        self._from_ns: int | None = None
        self._asked: Call | None = None

    def ask(self, call: Call, stamp_ns: int, node_ns: int) -> str:
        """Return why the policy may not be asked about an observation now; empty: it may.

        :param node_ns: the node's clock; what was too late by then may have been dropped.
        """
        asked, from_ns, asked_ns = self._asked, self._from_ns, self._asked_ns
        self._asked, self._from_ns, self._asked_ns = call, None, stamp_ns
        if not self.is_on or self._is_unsure:
            return ''
        limit_s, age_s = self._params['inference_timeout_s'], (node_ns - asked_ns) / NS
        is_late = asked is not None and asked.duration_s > limit_s - MARGIN_S
        is_late |= age_s > self._params['max_action_age_s'] - MARGIN_S
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
            self._from_ns = due_ns + self._params['replan_rows'] * period_ns
