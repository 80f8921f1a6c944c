"""The inference under way: whose observations it is for, and how it stands to its deadlines.

Knows neither ROS nor torch. Guarded by the worker's lock, but for the event.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from vla_ros.types import Observation


class Deadline(Enum):
    """How the inference under way stands to its deadlines."""

    MET = 'met'
    MISSED = 'missed'
    HUNG = 'hung'


@dataclass(frozen=True)
class WorkerLimits:
    """
    :param max_image_age_s: an older picture is not taken.
    :param inference_timeout_s: an inference that takes longer is cancelled.
    :param hang_timeout_s: how long it may then take to come back.
    """

    max_image_age_s: float
    inference_timeout_s: float
    hang_timeout_s: float


@dataclass(frozen=True)
class Submission:
    """
    :param source: whose observation it is.
    :param epoch: of the source when it was submitted; a reset starts a new one.
    """

    observation: Observation
    source: int
    epoch: int


@dataclass
class Inference:
    """
    :param members: what is predicted at once, at most one of each source.
    """

    started_s: float
    members: Sequence[Submission]
    cancel: threading.Event = field(default_factory=threading.Event)
    late_since_s: float | None = None  # when it was noticed, and cancelled

    def deadline(self, now_s: float, limits: WorkerLimits) -> Deadline:
        if self.late_since_s is None and now_s - self.started_s > limits.inference_timeout_s:
            self.late_since_s = now_s
            self.cancel.set()
        if self.late_since_s is None:
            return Deadline.MET
        # Counted from the cancel: whoever looks may have been late, too.
        hung = now_s - self.late_since_s > limits.hang_timeout_s
        return Deadline.HUNG if hung else Deadline.MISSED
