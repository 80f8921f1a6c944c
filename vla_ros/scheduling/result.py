"""What becomes of an observation that came out of the slot. Knows neither ROS nor torch."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from enum import Enum

from vla_ros.types import Observation, PolicyError, Prediction


class Outcome(Enum):
    """What became of one observation that came out of the slot."""

    PREDICTED = 'predicted'
    STALE = 'stale'  # not taken: too old, or from the future
    OVERRUN = 'overrun'  # missed inference_timeout_s
    CANCELLED = 'cancelled'  # from before a reset, or the worker was closed
    FAILED = 'failed'  # the policy raised


@dataclass(frozen=True)
class Result:
    """
    :param prediction: there if the outcome is PREDICTED; its ``invalid`` says whether it may move
        a robot.
    :param error: there if the outcome is FAILED.
    :param inference_s: the policy's own time, of the whole batch.
    :param source: whose observation it is: which of the worker's robots.
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
    """A sentence for an error that was foreseen, all there is for another.

    Not the error itself: its traceback would keep the policy in memory.
    """
    if isinstance(error, PolicyError):
        return str(error)
    if isinstance(error, MemoryError):
        return f'out of memory: {error}'
    return ''.join(traceback.format_exception(error)).rstrip()
