# SPDX-License-Identifier: Apache-2.0
"""The state of the node for one robot, and its reason: what status, log and view show."""

from __future__ import annotations

from typing import NamedTuple

from vla_ros.reasons import Cause, Reason, State
from vla_ros.text import printable


class Situation(NamedTuple):
    """The state of the node for one robot, and its reason.

    :param message: the progress, or why the robot does not act; empty if there is nothing to say.
    """

    state: State
    reason: Reason = Reason.NONE
    message: str = ''

    @classmethod
    def of(cls, state: State, cause: Cause | None) -> Situation:
        """Return the state with the cause, if there is one."""
        return cls(state, cause.reason, printable(cause.message)) if cause else cls(state)

    @property
    def text(self) -> str:
        """One line that begins with the state: ``HOLDING: no instruction on /instruction``."""
        return f'{self.state.name}: {self.message}' if self.message else self.state.name
