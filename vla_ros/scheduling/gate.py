"""Decides whether a result may move the robot, counts what became of each, and keeps why not.

Belongs to the thread that publishes. Knows neither ROS nor torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vla_ros.clock import Clock, age_s, is_fresh
from vla_ros.reasons import Cause, Reason
from vla_ros.scheduling.latency import LatencyWindow
from vla_ros.scheduling.result import Outcome, Result


@dataclass
class OutcomeCounters:
    """What became of the pictures that were taken: each of these adds up to those that are over."""

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
    """Of the published actions.

    :param drafted: tokens that the action before had offered.
    :param accepted: of these, how many were right.
    """

    drafted: int = 0
    accepted: int = 0


class ActionGate:
    """Keeps the cause why no action is published (``cause``) until one is."""

    def __init__(self, max_action_age_s: float, clock: Clock) -> None:
        """
        :param max_action_age_s: an action whose picture is older is not published.
        """
        self._max_action_age_s = max_action_age_s
        self._clock = clock
        self.cause: Cause | None = None
        self.counters = OutcomeCounters()
        self.drafts = DraftCounters()
        self.latency = LatencyWindow()  # capture to publishing
        self.inference = LatencyWindow()

    def admit(self, result: Result) -> bool:
        """Whether the result's action is to be published, now.

        A result is asked about once: this counts it, and keeps the reason if the answer is no.
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
                f'overrun: the inference was late ({result.inference_s:.2f} s); if that is its '
                'usual time here, raise inference_timeout_s and max_action_age_s',
            )
        return False

    def _refuse_stale(self, result: Result) -> None:
        # Not one of the counters here: it was never taken, the slot counts it.
        image_age_s = age_s(result.observation.stamp_ns, self._clock.now_ns())
        when = f'{image_age_s:.2f} s old' if image_age_s >= 0 else f'{-image_age_s:.2f} s early'
        self.cause = Cause(
            Reason.IMAGE_STALE,
            f'stale: the picture was {when} when its turn came; max_image_age_s bounds that, and '
            "the camera's clock has to be this machine's",
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
                f'overrun: the picture was {action_age_s:.2f} s old when its action was ready, '
                f'max_action_age_s is {self._max_action_age_s:g}',
            )
            return False
        self.counters.published += 1
        if prediction.tokens is not None:
            self.drafts.drafted += prediction.tokens.drafted
            self.drafts.accepted += prediction.tokens.accepted
        self.cause = None
        self.latency.add(action_age_s)
        self.inference.add(result.inference_s)
        return True
