# SPDX-License-Identifier: Apache-2.0
"""The running inference: its batch and its deadlines.

Independent of ROS and torch. Guarded by the worker's lock, except for the event.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from vla_ros.clock import Clock
from vla_ros.types import Observation


class Deadline(Enum):
    """Whether the running inference has missed its deadlines."""

    MET = 'met'
    MISSED = 'missed'
    HUNG = 'hung'


@dataclass(frozen=True)
class WorkerLimits:
    """The limits of a worker.

    :param max_image_age_s: maximum age of an image when inference starts [s].
    :param inference_timeout_s: time after which an inference is cancelled [s].
    :param hang_timeout_s: time that a cancelled inference may take to return [s].
    :param replan_rows: rows of a chunk that are played before the next inference begins; 0: it
        begins from the next image.
    """

    max_image_age_s: float
    inference_timeout_s: float
    hang_timeout_s: float
    replan_rows: int = 0


@dataclass(frozen=True)
class Submission:
    """An observation that was submitted to the worker.

    :param source: number of the robot.
    :param epoch: epoch of the source at submission; a reset starts a new one.
    """

    observation: Observation
    source: int
    epoch: int


class InferenceCancel:
    """A flag that stops an inference, and the time until the inference is late."""

    def __init__(self, ends_s: float, clock: Clock) -> None:
        """Start without being set.

        :param ends_s: monotonic time at which the inference is late [s].
        """
        self._ends_s = ends_s
        self._clock = clock
        self._event = threading.Event()

    def set(self) -> None:
        """Stop the inference."""
        self._event.set()

    def is_set(self) -> bool:
        """Return whether the inference must stop."""
        return self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the inference must stop; return whether it must."""
        return self._event.wait(timeout_s)

    def left_s(self) -> float:
        """Return the time until the inference is late [s]; may be below 0."""
        return self._ends_s - self._clock.monotonic_s()


@dataclass
class Inference:
    """A running inference.

    :param members: the batch, at most one submission for each source.
    """

    started_s: float
    members: Sequence[Submission]
    cancel: InferenceCancel
    late_since_s: float | None = None  # when its lateness was noticed, and it was cancelled

    def deadline(self, now_s: float, limits: WorkerLimits) -> Deadline:
        """Return whether it has missed its deadlines; cancel it when it misses the first."""
        if self.late_since_s is None and now_s - self.started_s > limits.inference_timeout_s:
            self.late_since_s = now_s
            self.cancel.set()
        if self.late_since_s is None:
            return Deadline.MET
        # Counted from the cancellation, since this call may have come late, too.
        hung = now_s - self.late_since_s > limits.hang_timeout_s
        return Deadline.HUNG if hung else Deadline.MISSED
