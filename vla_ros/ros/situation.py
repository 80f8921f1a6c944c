"""What the node is doing for one robot, and why: what status, log and view show."""

from __future__ import annotations

from typing import NamedTuple

from vla_ros.reasons import Cause, Reason
from vla_ros.text import printable


class Situation(NamedTuple):
    """
    :param state: one of VlaStatus's.
    :param message: one sentence for a person: the progress, or why the robot does not act.
    """

    state: str
    reason: Reason = Reason.NONE
    message: str = ''

    @classmethod
    def of(cls, state: str, cause: Cause | None) -> Situation:
        return cls(state, cause.reason, printable(cause.message)) if cause else cls(state)
