# SPDX-License-Identifier: Apache-2.0
"""Rows that are played before the next inference begins: its rules, and the worker that follows."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest

from support.fakes import IMAGE, LIMITS, FakePolicy, Gate, WorkerBench, started, wait_until
from vla_ros.scheduling import LatestSlots, Outcome, Result, rows_played_ns
from vla_ros.scheduling.replanning import Replanning
from vla_ros.types import Observation

MS = 10**6


def test_rows_are_played_when_the_next_one_would_begin() -> None:
    assert rows_played_ns(5 * MS, rows=3, period_s=0.02) == 65 * MS
    assert rows_played_ns(5 * MS, rows=8, period_s=1 / 3) == 2_671_666_667


def test_one_inference_at_a_time_and_none_before_the_rows_of_the_last_one_are_played() -> None:
    """Against a plain model, over random orders of all that can happen."""
    chosen = random.Random(0)
    for _ in range(300):
        one, asked, from_ns, now_ns = Replanning(), None, 0, 0
        running: list[Observation] = []  # oldest first
        for _ in range(40):
            now_ns += chosen.randrange(3)
            may = asked is None and now_ns >= from_ns
            assert one.may_begin(now_ns) == may
            event = chosen.choice(('ask', 'judge', 'judge', 'end', 'over'))
            if event == 'ask' and may:
                asked = Observation.of_one(IMAGE, 'go', now_ns)
                running.append(asked)
                one.ask(asked)
                from_ns = 0
            elif event == 'judge' and running:
                judged = running.pop(0)
                played_ns = chosen.choice((None, now_ns + 5))
                one.judge(judged, played_ns)
                if judged is asked:
                    asked, from_ns = None, played_ns or 0
            elif event == 'end':
                one.end_chunk()
                from_ns = 0
            elif event == 'over':
                one.start_over()
                asked, from_ns = None, 0


def test_an_item_that_is_not_due_waits_in_its_slot_until_a_newer_one_comes() -> None:
    slots: LatestSlots[int] = LatestSlots(2)
    slots.put(1)
    slots.put(20, 1)

    def is_due(item: int) -> bool:
        return item >= 10

    assert slots.waiting(is_due) == {1}
    assert slots.take(lambda item: True, 0, is_due) == [(20, True)]
    assert slots.take(lambda item: True, 0, is_due) == []
    assert slots.statistics().waiting == 1
    slots.put(30)
    assert slots.take(lambda item: True, 0, is_due) == [(30, True)]
    statistics = slots.statistics()
    assert (statistics.observations, statistics.superseded, statistics.taken) == (2, 1, 1)


class Bench(WorkerBench):
    """Two robots whose chunks are played before the next inference."""

    def __init__(self, policy: FakePolicy) -> None:
        super().__init__(policy, 2)
        self.worker.adjust(replace(LIMITS, replan_rows=1))

    def submit(self, name: str, source: int = 0, later_ms: int = 0) -> None:
        stamp_ns = self.clock.now_ns() + later_ms * MS
        self.worker.submit(Observation.of_one(IMAGE, name, stamp_ns), source)

    def judged(self, count: int, rest_ms: int | None) -> Result:
        """Judge the last of so many results: its rows last that long from now; None: no chunk."""
        result = self.wait_for_results(count)[-1]
        from_ns = None if rest_ms is None else self.clock.now_ns() + rest_ms * MS
        self.worker.judge(result, from_ns)
        return result

    @property
    def inferred(self) -> list[str]:
        return [name for batch in self.policy.batches for name in batch]


def running(policy: FakePolicy) -> AbstractContextManager[Bench]:
    return started(Bench(policy))


def test_the_next_inference_waits_for_the_rows_and_takes_the_newest_image() -> None:
    with running(FakePolicy()) as bench:
        bench.submit('first')
        bench.wait_for_results(1)
        bench.submit('not judged yet')
        bench.submit('other', source=1)  # it has a chunk of its own
        bench.wait_for_results(2)
        assert bench.inferred == ['first', 'other']
        bench.worker.judge(bench.results[0], bench.clock.now_ns() + 50 * MS)
        bench.submit('too early', later_ms=49)
        bench.submit('in time', later_ms=50)
        bench.judged(3, rest_ms=50)
        assert bench.inferred == ['first', 'other', 'in time']
        statistics = bench.worker.statistics()
        assert (statistics.superseded, statistics.taken, statistics.waiting) == (2, 2, 0)


@pytest.mark.parametrize('lift', ['end_chunk', 'reset', 'adjust', 'no chunk'])
def test_a_chunk_that_is_not_played_is_not_waited_for(lift: str) -> None:
    with running(FakePolicy()) as bench:
        bench.submit('first')
        bench.judged(1, None if lift == 'no chunk' else 1000)
        if lift == 'end_chunk':
            bench.submit('second')
            bench.worker.end_chunk(0)
        elif lift == 'reset':
            bench.submit('before the reset')
            bench.worker.reset(0)
            wait_until(lambda: bench.worker.statistics().stale == 1)
            bench.submit('second')
        elif lift == 'adjust':
            bench.submit('second')
            bench.worker.adjust(LIMITS)
        else:
            bench.submit('second')
        bench.wait_for_results(2)
        assert bench.inferred == ['first', 'second']


def test_what_is_judged_late_does_not_hinder_what_began_after_a_reset() -> None:
    gate = Gate()
    with running(FakePolicy(gate)) as bench:
        bench.submit('before')
        gate.entered.acquire(timeout=10)
        bench.worker.reset(0)
        bench.submit('after')
        gate.entered.acquire(timeout=10)  # the one before was cancelled
        cancelled = bench.wait_for_results(1)[0]
        assert cancelled.outcome is Outcome.CANCELLED
        bench.worker.judge(cancelled, bench.clock.now_ns() + 10**12)
        bench.submit('next')
        gate.open()
        bench.judged(2, rest_ms=0)
        gate.open()
        bench.wait_for_results(3)
        assert bench.inferred == ['before', 'after', 'next']


def test_a_robot_that_plays_its_chunk_does_not_wait_for_a_late_inference() -> None:
    gate = Gate()
    with running(FakePolicy(gate)) as bench:
        bench.submit('played')
        gate.entered.acquire(timeout=10)
        gate.open()
        bench.judged(1, rest_ms=1000)
        bench.submit('early')
        bench.submit('late', source=1)
        gate.entered.acquire(timeout=10)
        bench.clock.advance(1.01)
        bench.worker.enforce_deadline()
        assert bench.worker.overdue() == {1}
        gate.open()
