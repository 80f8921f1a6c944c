# SPDX-License-Identifier: Apache-2.0
"""The worker: one thread, newest observation, named outcomes. Its time is a manual clock's."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

import pytest

from support.fakes import (
    BY_POLICY,
    IMAGE,
    LIMITS,
    FakePolicy,
    Gate,
    WorkerBench,
    a_prediction,
    started,
    wait_until,
)
from vla_ros.clock import ManualClock
from vla_ros.reasons import Cause, Reason
from vla_ros.scheduling import Deadline, InferenceWorker, Outcome, Phase, Result, SlotClosed
from vla_ros.types import (
    Cancel,
    InferenceCancelled,
    Invalid,
    Observation,
    Policy,
    PolicyError,
    Prediction,
    Progress,
    ProgressCallback,
    WarmupTimes,
)


class Bench(WorkerBench):
    """Of one robot."""

    def submit(self, instruction: str = 'go', age_s: float = 0.0) -> Observation:
        stamp_ns = self.clock.now_ns() - round(age_s * 1e9)
        observation = Observation.of_one(IMAGE, instruction, stamp_ns)
        self.worker.submit(observation)
        return observation

    def outcomes(self) -> list[Outcome]:
        return [result.outcome for result in self.results]


def running(policy: FakePolicy) -> AbstractContextManager[Bench]:
    return started(Bench(policy))


def test_the_policy_lives_in_its_own_thread() -> None:
    threads = []

    def build(progress: ProgressCallback) -> Policy:
        threads.append(threading.current_thread().name)
        return policy

    policy = FakePolicy()
    worker = InferenceWorker(build, LIMITS, ManualClock())
    worker.start()
    wait_until(lambda: worker.status().phase is Phase.READY)
    worker.submit(Observation.of_one(IMAGE, 'go', ManualClock().now_ns()))
    wait_until(lambda: len(policy.calls) == 1)
    assert worker.close(10)
    assert policy.threads == {'vla-inference'} == set(threads)


def test_a_prediction_comes_back_with_its_observation() -> None:
    with running(FakePolicy()) as bench:
        observation = bench.submit('pick up')
        [result] = bench.wait_for_results(1)
        assert result.outcome is Outcome.PREDICTED
        assert result.observation is observation
        assert result.prediction is not None
        image, instruction, unnorm_key = bench.policy.calls[0]
        assert image is IMAGE
        assert (instruction, unnorm_key) == ('pick up', 'fake')


def test_the_newest_observation_wins() -> None:
    gate = Gate()
    with running(FakePolicy(gate)) as bench:
        bench.submit('first')
        gate.entered.acquire(timeout=10)
        for number in range(5):
            bench.submit(f'waiting {number}')
        gate.open()
        gate.open()
        bench.wait_for_results(2)
        assert [call[1] for call in bench.policy.calls] == ['first', 'waiting 4']
        statistics = bench.worker.statistics()
        assert (statistics.observations, statistics.superseded, statistics.taken) == (6, 4, 2)


def test_a_reset_resets_the_session_before_the_next_prediction() -> None:
    with running(FakePolicy()) as bench:
        for count in (1, 2):
            bench.submit()
            bench.wait_for_results(count)
        bench.worker.reset()
        bench.worker.reset()
        assert [session.resets for session in bench.policy.sessions] == [0]
        for count in (3, 4):
            bench.submit()
            bench.wait_for_results(count)
    assert bench.policy.resets == [0, 0, 1, 1]


def test_a_session_that_can_not_be_reset_fails_the_inference_and_is_reset_later() -> None:
    with running(FakePolicy()) as bench:
        [session] = bench.policy.sessions
        reset, errors = session.reset, [RuntimeError('no connection')]

        def fail_once() -> None:
            if errors:
                raise errors.pop()
            reset()

        session.reset = fail_once
        bench.worker.reset()
        for count in (1, 2):
            bench.submit()
            bench.wait_for_results(count)
    assert bench.outcomes() == [Outcome.FAILED, Outcome.PREDICTED]
    assert bench.policy.resets == [1]


def test_a_prediction_that_must_not_move_a_robot_says_why() -> None:
    answers = [a_prediction(), a_prediction(float('nan')), a_prediction(invalid=BY_POLICY)]
    with running(FakePolicy(lambda cancel: answers.pop(0))) as bench:
        for count in (1, 2, 3):
            bench.submit()
            bench.wait_for_results(count)
    assert bench.outcomes() == [Outcome.PREDICTED] * 3
    reasons = [result.prediction.invalid for result in bench.results]
    assert reasons[0] is None
    assert [reason.kind for reason in reasons[1:]] == [Invalid.NOT_FINITE, Invalid.BY_POLICY]


def test_an_old_picture_is_not_taken() -> None:
    with running(FakePolicy()) as bench:
        bench.submit(age_s=0.501)
        [result] = bench.wait_for_results(1)
        assert result.outcome is Outcome.STALE
        assert not bench.policy.calls
        bench.submit(age_s=0.5)
        bench.wait_for_results(2)
        assert bench.outcomes() == [Outcome.STALE, Outcome.PREDICTED]
        assert bench.worker.statistics().stale == 1


def test_a_picture_from_the_future_is_not_taken() -> None:
    with running(FakePolicy()) as bench:
        bench.submit(age_s=-0.101)
        bench.wait_for_results(1)
        bench.submit(age_s=-0.099)
        bench.wait_for_results(2)
        assert bench.outcomes() == [Outcome.STALE, Outcome.PREDICTED]


def test_an_inference_that_misses_its_deadline_is_cancelled() -> None:
    gate = Gate()
    with running(FakePolicy(gate)) as bench:
        bench.submit()
        gate.entered.acquire(timeout=10)
        bench.clock.advance(1.0)
        assert bench.worker.enforce_deadline() is Deadline.MET
        bench.clock.advance(0.01)
        assert bench.worker.enforce_deadline() is Deadline.MISSED
        bench.wait_for_results(1)
        assert bench.outcomes() == [Outcome.OVERRUN]
        assert bench.worker.enforce_deadline() is Deadline.MET


def test_a_late_prediction_is_no_prediction_even_if_nobody_looked() -> None:
    def slow(cancel: Cancel) -> Prediction:
        bench.clock.advance(1.5)
        return a_prediction()

    with running(FakePolicy(slow)) as bench:
        bench.submit()
        [result] = bench.wait_for_results(1)
        assert result.outcome is Outcome.OVERRUN
        assert result.prediction is None
        assert result.inference_s == pytest.approx(1.5)


def test_a_hung_inference_is_told() -> None:
    gate = Gate(listens_to_cancel=False)
    with running(FakePolicy(gate)) as bench:
        bench.submit()
        gate.entered.acquire(timeout=10)
        bench.clock.advance(60.0)  # whoever looks was late, too: only now it is told to stop
        assert bench.worker.enforce_deadline() is Deadline.MISSED
        bench.clock.advance(5.0)
        assert bench.worker.enforce_deadline() is Deadline.MISSED
        bench.clock.advance(0.01)
        assert bench.worker.enforce_deadline() is Deadline.HUNG
        gate.open()


def test_reset_drops_what_waits_what_runs_and_what_is_done() -> None:
    gate = Gate()
    with running(FakePolicy(gate)) as bench:
        bench.submit('done')
        gate.entered.acquire(timeout=10)
        gate.open()
        wait_until(lambda: bench.worker.statistics().taken == 1)
        bench.submit('runs')
        gate.entered.acquire(timeout=10)
        bench.submit('waits')
        bench.worker.reset()
        bench.wait_for_results(2)
        wait_until(lambda: bench.worker.statistics().stale == 1)
        assert bench.outcomes() == [Outcome.CANCELLED, Outcome.CANCELLED]
        assert all(result.prediction is None for result in bench.results)
        bench.submit('after')
        gate.open()
        bench.wait_for_results(3)
        assert bench.results[-1].outcome is Outcome.PREDICTED


def test_one_failure_does_not_end_the_worker() -> None:
    failures = [RuntimeError('out of memory')]

    def act(cancel: Cancel) -> Prediction:
        if failures:
            raise failures.pop()
        return a_prediction()

    with running(FakePolicy(act)) as bench:
        bench.submit()
        [result] = bench.wait_for_results(1)
        assert result.outcome is Outcome.FAILED
        assert str(result.error) == 'out of memory'
        bench.submit()
        bench.wait_for_results(2)
        assert bench.outcomes()[-1] is Outcome.PREDICTED


def test_phases_and_progress() -> None:
    seen: list[Phase] = []
    proceed = threading.Event()

    def build(progress: ProgressCallback) -> Policy:
        progress(Progress('reading tensors', 3, 10))
        seen.append(worker.status().phase)
        assert worker.status().progress == Progress('reading tensors', 3, 10)
        assert worker.status().info is None
        proceed.wait(10)
        return FakePolicy()

    clock = ManualClock()
    worker = InferenceWorker(build, LIMITS, clock)
    worker.start()
    wait_until(lambda: bool(seen))
    clock.advance(7.0)
    assert worker.status().elapsed_s == 7.0
    proceed.set()
    wait_until(lambda: worker.status().phase is Phase.READY)
    assert seen == [Phase.LOADING]
    assert worker.status().load_s == 7.0
    assert worker.status().warmup_times == WarmupTimes(0.25, 0.2, 0.05)
    assert worker.status().elapsed_s == 0.0
    assert worker.status().info is not None
    assert worker.close(10)
    assert worker.status().phase is Phase.CLOSED


def test_a_policy_that_can_not_be_built() -> None:
    def build(progress: ProgressCallback) -> Policy:
        raise ValueError('no such model')

    worker = InferenceWorker(build, LIMITS, ManualClock())
    worker.start()
    wait_until(lambda: worker.status().phase is Phase.FAILED)
    failure = worker.status().failure
    assert failure is not None
    assert failure.reason is Reason.LOADING_FAILED
    assert failure.message.endswith('ValueError: no such model')
    assert worker.close(10)


def test_a_foreseen_failure_is_a_sentence() -> None:
    def build(progress: ProgressCallback) -> Policy:
        raise PolicyError('no such model')

    worker = InferenceWorker(build, LIMITS, ManualClock())
    worker.start()
    wait_until(lambda: worker.status().phase is Phase.FAILED)
    assert worker.status().failure == Cause(Reason.LOADING_FAILED, 'no such model')


@pytest.mark.parametrize('where', ['build', 'warmup', 'predict'])
def test_what_is_no_exception_is_not_lost(where: str) -> None:
    """A panic of a Rust library derives from BaseException."""

    class Panic(BaseException):
        pass

    def panic(*_: object) -> Prediction:
        raise Panic('at the disco')

    policy = FakePolicy(panic)
    if where == 'warmup':
        policy.warmup = panic
    build = panic if where == 'build' else lambda progress: policy
    worker = InferenceWorker(build, LIMITS, ManualClock())
    worker.start()
    if where == 'predict':
        wait_until(lambda: worker.status().phase is Phase.READY)
        worker.submit(Observation.of_one(IMAGE, 'go', ManualClock().now_ns()))
        results: list[Result | None] = []
        wait_until(lambda: results.append(worker.next_result()) or results[-1] is not None)
        assert results[-1] is not None
        assert results[-1].outcome is Outcome.FAILED
    else:
        wait_until(lambda: worker.status().phase is Phase.FAILED)
        failure = worker.status().failure
        assert failure is not None
        assert 'at the disco' in failure.message
    assert worker.close(10)
    assert policy.closed == (where != 'build')


def test_no_result_of_before_a_reset_speaks_for_now() -> None:
    """One that failed is only counted: its error is about what nobody asks for any more."""
    results = [RuntimeError('old')]

    def act(cancel: Cancel) -> Prediction:
        if results:
            raise results.pop()
        return a_prediction()

    with running(FakePolicy(act)) as bench:
        bench.submit('old')
        wait_until(lambda: not results)
        bench.worker.reset()
        bench.submit('new')
        bench.wait_for_results(2)
        assert bench.outcomes() == [Outcome.CANCELLED, Outcome.PREDICTED]
        assert bench.results[0].error is None


def test_a_reset_between_two_results_drops_the_second() -> None:
    with running(FakePolicy()) as bench:
        bench.submit('first')
        wait_until(lambda: len(bench.worker._results) == 1)
        bench.submit('second')
        wait_until(lambda: len(bench.worker._results) == 2)
        first = bench.worker.next_result()
        bench.worker.reset()
        second = bench.worker.next_result()
        assert first is not None and second is not None
        assert (first.outcome, second.outcome) == (Outcome.PREDICTED, Outcome.CANCELLED)
        assert second.prediction is None


def test_what_was_stale_before_a_reset_is_not_told_after_it() -> None:
    with running(FakePolicy()) as bench:
        bench.submit(age_s=9.0)
        wait_until(lambda: bench.worker.statistics().stale == 1)
        bench.submit()
        wait_until(lambda: len(bench.worker._results) == 2)
        bench.worker.reset()
        result = bench.worker.next_result()
        assert result is not None
        assert result.outcome is Outcome.CANCELLED  # the one that was taken
        assert bench.worker.next_result() is None


def test_close_stops_the_warmup() -> None:
    class Endless(FakePolicy):
        def warmup(
            self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
        ) -> WarmupTimes:
            assert cancel is not None
            while not cancel.is_set():
                threading.Event().wait(0.001)
            raise InferenceCancelled

    policy = Endless()
    worker = InferenceWorker(lambda progress: policy, LIMITS, ManualClock())
    worker.start()
    wait_until(lambda: worker.status().phase is Phase.WARMING_UP)
    assert worker.close(10)
    assert policy.closed


def test_close_stops_loading_at_the_next_report() -> None:
    reported = threading.Semaphore(0)

    def build(progress: ProgressCallback) -> Policy:
        for _ in range(100_000):
            progress(Progress('reading', 0, 1))
            reported.release()
            threading.Event().wait(0.001)
        raise AssertionError('was never stopped')

    worker = InferenceWorker(build, LIMITS, ManualClock())
    worker.start()
    reported.acquire(timeout=10)
    assert worker.close(10)
    assert worker.status().phase is Phase.CLOSED


def test_close_stops_an_inference_and_refuses_more() -> None:
    gate = Gate()
    with running(FakePolicy(gate)) as bench:
        bench.submit()
        gate.entered.acquire(timeout=10)
        assert bench.worker.close(10)
        with pytest.raises(SlotClosed):
            bench.submit()
        bench.wait_for_results(1)
        assert bench.outcomes() == [Outcome.CANCELLED]


def test_close_tells_when_the_policy_does_not_come_back() -> None:
    gate = Gate(listens_to_cancel=False)
    bench = Bench(FakePolicy(gate))
    bench.worker.start()
    wait_until(lambda: bench.worker.status().phase is Phase.READY)
    bench.submit()
    gate.entered.acquire(timeout=10)
    assert not bench.worker.close(0.05)
    gate.open()
    assert bench.worker.close(10)


def test_a_worker_that_was_never_started_closes() -> None:
    assert InferenceWorker(lambda progress: FakePolicy(), LIMITS, ManualClock()).close(1)


def test_results_and_phases_are_notified() -> None:
    with running(FakePolicy()) as bench:
        while bench.notified.acquire(blocking=False):
            pass
        bench.submit()
        assert bench.notified.acquire(timeout=10)
        wait_until(lambda: bench.worker.next_result() is not None)
