# SPDX-License-Identifier: Apache-2.0
"""What may move the robot, and what is said and counted where it may not."""

from __future__ import annotations

import numpy as np
import pytest

from support.fakes import BY_POLICY, a_prediction
from vla_ros.clock import ManualClock
from vla_ros.reasons import Cause, Reason
from vla_ros.scheduling import ActionGate, LatencyWindow, Outcome, Percentiles, Result
from vla_ros.types import Invalid, InvalidReason, Observation, Prediction


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def gate(clock: ManualClock) -> ActionGate:
    return ActionGate(max_action_age_s=1.5, clock=clock)


def a_result(
    clock: ManualClock,
    outcome: Outcome = Outcome.PREDICTED,
    prediction: Prediction | None = None,
    error: Exception | None = None,
) -> Result:
    observation = Observation.of_one(np.zeros((2, 2, 3), np.uint8), 'go', clock.now_ns())
    return Result(observation, outcome, prediction, error, inference_s=0.2)


def holds(gate: ActionGate, reason: Reason, part: str) -> bool:
    """Whether it keeps this reason, and a message with this part."""
    assert gate.cause is not None
    return gate.cause.reason is reason and part in gate.cause.message


def test_a_fresh_valid_action_is_admitted(gate: ActionGate, clock: ManualClock) -> None:
    gate.cause = Cause(Reason.IMAGE_STALE, 'something before')
    result = a_result(clock, prediction=a_prediction())
    clock.advance(1.5)
    assert gate.admit(result)
    assert gate.counters.published == gate.counters.total == 1
    assert gate.cause is None
    assert gate.latency.percentiles().p50_s == pytest.approx(1.5)
    assert gate.inference.percentiles().p50_s == 0.2


def test_an_image_of_a_clock_that_is_ahead_has_no_latency(
    gate: ActionGate, clock: ManualClock
) -> None:
    result = a_result(clock, prediction=a_prediction())
    clock.advance(-0.09)
    assert gate.admit(result)
    assert gate.latency.percentiles().p50_s == 0.0


def test_drafts_of_published_actions_are_counted(gate: ActionGate, clock: ManualClock) -> None:
    assert (gate.drafts.drafted, gate.drafts.accepted) == (0, 0)
    for accepted in (6, 3):
        prediction = a_prediction(drafted=6, accepted=accepted)
        assert gate.admit(a_result(clock, prediction=prediction))
    invalid = a_prediction(invalid=BY_POLICY, drafted=6)
    assert not gate.admit(a_result(clock, prediction=invalid))
    assert (gate.drafts.drafted, gate.drafts.accepted) == (12, 9)


def test_a_late_action_is_never_admitted(gate: ActionGate, clock: ManualClock) -> None:
    result = a_result(clock, prediction=a_prediction())
    clock.advance(1.501)
    assert not gate.admit(result)
    assert gate.counters.overrun == gate.counters.total == 1
    assert holds(gate, Reason.ACTION_TOO_OLD, '1.50 s old')
    assert holds(gate, Reason.ACTION_TOO_OLD, 'max_action_age_s is 1.5')
    assert gate.latency.percentiles() == Percentiles()


def test_an_action_from_the_future_is_never_admitted(gate: ActionGate, clock: ManualClock) -> None:
    result = a_result(clock, prediction=a_prediction())
    clock.advance(-60.0)  # the robot's clock was set back meanwhile
    assert not gate.admit(result)
    assert gate.counters.overrun == 1


def test_an_invalid_prediction_is_never_admitted(gate: ActionGate, clock: ManualClock) -> None:
    prediction = a_prediction(invalid=InvalidReason(Invalid.TOKEN, 2, 1234, '31744 to 31999'))
    assert not gate.admit(a_result(clock, prediction=prediction))
    assert gate.counters.invalid == gate.counters.total == 1
    assert holds(gate, Reason.ACTION_INVALID, 'token 1234 at step 2')


def test_a_policy_without_tokens_is_admitted(gate: ActionGate, clock: ManualClock) -> None:
    assert gate.admit(a_result(clock, prediction=a_prediction(tokens=None)))
    assert (gate.drafts.drafted, gate.drafts.accepted) == (0, 0)


@pytest.mark.parametrize(
    ('outcome', 'counter', 'reason', 'word'),
    [
        (Outcome.OVERRUN, 'overrun', Reason.INFERENCE_OVERRUN, 'overrun'),
        (Outcome.CANCELLED, 'cancelled', None, ''),
        (Outcome.FAILED, 'failed', Reason.POLICY_FAILED, 'out of memory'),
        (Outcome.STALE, None, Reason.IMAGE_STALE, 'stale'),
    ],
)
def test_other_outcomes(
    gate: ActionGate,
    clock: ManualClock,
    outcome: Outcome,
    counter: str | None,
    reason: Reason | None,
    word: str,
) -> None:
    assert not gate.admit(a_result(clock, outcome, error=RuntimeError('out of memory')))
    assert gate.counters.total == (0 if counter is None else 1)
    if counter is not None:
        assert getattr(gate.counters, counter) == 1
    assert holds(gate, reason, word) if reason else gate.cause is None


def test_percentiles_are_durations_that_occurred() -> None:
    window = LatencyWindow(size=100)
    assert window.percentiles() == Percentiles()
    for hundredth in range(200, 0, -1):
        window.add(hundredth / 100)
    assert window.percentiles() == Percentiles(0.5, 0.95, 0.99)
    single = LatencyWindow()
    single.add(3.0)
    assert single.percentiles() == Percentiles(3.0, 3.0, 3.0)
