# SPDX-License-Identifier: Apache-2.0
"""The result of an observation that came out of its slot. Independent of ROS and torch."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from enum import Enum

from vla_ros.types import Observation, PolicyError, Prediction


class Outcome(Enum):
    """The outcome of one observation that came out of its slot."""

    PREDICTED = 'predicted'
    STALE = 'stale'  # not taken: too old, or from the future
    OVERRUN = 'overrun'  # missed inference_timeout_s
    CANCELLED = 'cancelled'  # from before a reset, or the worker was closed
    FAILED = 'failed'  # the policy raised


@dataclass(frozen=True)
class Result:
    """The result of one observation.

    :param prediction: given if the outcome is PREDICTED; its ``invalid`` says whether it may move a
        robot.
    :param error: given if the outcome is FAILED.
    :param inference_s: the policy's own time, for the whole batch.
    :param source: number of the robot.
    """

    observation: Observation
    outcome: Outcome
    prediction: Prediction | None = None
    error: BaseException | None = None
    inference_s: float = 0.0
    source: int = 0

    def predicted(self) -> Prediction:
        """Return the prediction.

        :raises ValueError: if there is none.
        """
        if self.prediction is None:
            raise ValueError(f'an inference that is {self.outcome.value} has no prediction')
        return self.prediction


def failure_text(error: BaseException) -> str:
    """Return an error as text: a sentence for an expected one, a traceback for any other.

    Keep the text and not the error, whose traceback would keep the policy in memory.
    """
    if isinstance(error, PolicyError):
        return str(error)
    if isinstance(error, MemoryError):
        return f'out of memory: {error}'
    return ''.join(traceback.format_exception(error)).rstrip()
