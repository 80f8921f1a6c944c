# SPDX-License-Identifier: Apache-2.0
"""The gate that decides whether a result may move the robot.

It counts each outcome, and keeps the cause of a hold. Belongs to the thread that publishes.
Independent of ROS and torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vla_ros.clock import Clock, age_s, is_fresh, latency_s
from vla_ros.reasons import Cause, Reason
from vla_ros.scheduling.latency import LatencyWindow
from vla_ros.scheduling.result import Outcome, Result
from vla_ros.scheduling.stamps import clock_advice


@dataclass
class OutcomeCounters:
    """Outcomes of the observations that were taken. The five sum to the finished inferences."""

    published: int = 0
    overrun: int = 0
    invalid: int = 0
    cancelled: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


@dataclass
class DraftCounters:
    """Counters of the drafts of all published actions.

    :param drafted: number of draft tokens that were verified.
    :param accepted: number of these that were right.
    """

    drafted: int = 0
    accepted: int = 0


class ActionGate:
    """The gate of one robot, which keeps the ``cause`` of a hold until an action is admitted."""

    def __init__(self, max_action_age_s: float, clock: Clock) -> None:
        """Start without a cause.

        :param max_action_age_s: maximum age of an action's image when it is published [s].
        """
        self._max_action_age_s = max_action_age_s
        self._clock = clock
        self.cause: Cause | None = None
        self.counters = OutcomeCounters()
        self.drafts = DraftCounters()
        self.latency = LatencyWindow()  # capture to publishing
        self.inference = LatencyWindow()

    def adjust(self, max_action_age_s: float) -> None:
        """Apply another maximum age from now on."""
        self._max_action_age_s = max_action_age_s

    def admit(self, result: Result) -> bool:
        """Count the result, and return whether its action must be published now.

        Call it once for each result. If the answer is no, ``cause`` says why.
        """
        if result.outcome is Outcome.PREDICTED:
            return self._admit_prediction(result)
        if result.outcome is Outcome.STALE:
            self._refuse_stale(result)
        elif result.outcome is Outcome.CANCELLED:
            self.counters.cancelled += 1
        elif result.outcome is Outcome.FAILED:
            self.counters.failed += 1
            self.cause = Cause(Reason.POLICY_FAILED, f'the policy failed: {result.error}')
        else:
            self.counters.overrun += 1
            self.cause = Cause(
                Reason.INFERENCE_OVERRUN,
                f'overrun: the inference was late ({result.inference_s:.2f} s); if this is its '
                'usual duration here, raise inference_timeout_s and max_action_age_s',
            )
        return False

    def _refuse_stale(self, result: Result) -> None:
        # Not counted here: it was never taken, so the slot counts it.
        stamp_ns = result.observation.stamp_ns
        image_age_s = age_s(stamp_ns, self._clock.now_ns())
        advice = clock_advice(
            stamp_ns, self._clock, "the camera's clock must agree with this machine's"
        )
        when = f'{image_age_s:.2f} s old' if image_age_s >= 0 else f'{-image_age_s:.2f} s early'
        self.cause = Cause(
            Reason.IMAGE_STALE,
            f'stale: the image was {when} when its inference was due; max_image_age_s is the '
            f'limit, and {advice}',
        )

    def _admit_prediction(self, result: Result) -> bool:
        prediction = result.predicted()
        if prediction.invalid is not None:
            self.counters.invalid += 1
            self.cause = Cause(Reason.ACTION_INVALID, f'invalid action: {prediction.invalid}')
            return False
        now_ns = self._clock.now_ns()
        action_age_s = age_s(result.observation.stamp_ns, now_ns)
        if not is_fresh(result.observation.stamp_ns, now_ns, self._max_action_age_s):
            self.counters.overrun += 1
            self.cause = Cause(
                Reason.ACTION_TOO_OLD,
                f'overrun: the image was {action_age_s:.2f} s old when its action was ready, '
                f'max_action_age_s is {self._max_action_age_s:g}',
            )
            return False
        self.counters.published += 1
        if prediction.tokens is not None:
            self.drafts.drafted += prediction.tokens.drafted
            self.drafts.accepted += prediction.tokens.accepted
        self.cause = None
        self.latency.add(latency_s(result.observation.stamp_ns, now_ns))
        self.inference.add(result.inference_s)
        return True
