# SPDX-License-Identifier: Apache-2.0
"""Several robots at one worker: one batch of all that wait, and each robot's fate its own."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from support.fakes import IMAGE, FakePolicy, Gate, WorkerBench, a_prediction, started, wait_until
from vla_ros.scheduling import (
    Deadline,
    Outcome,
    SlotStatistics,
)
from vla_ros.types import (
    Cancel,
    InferenceCancelled,
    InstructionError,
    Observation,
    PolicyError,
    Prediction,
)

ROBOTS = 3
PICTURES = 400  # of each robot in a storm


class Bench(WorkerBench):
    """Of several robots."""

    def __init__(self, policy: FakePolicy) -> None:
        super().__init__(policy, ROBOTS)

    def submit(self, *sources: int, instruction: str = '', age_s: float = 0.0) -> None:
        """A picture of each of these robots now, whose instruction is the robot's number."""
        stamp_ns = self.clock.now_ns() - round(age_s * 1e9)
        for source in sources:
            observation = Observation.of_one(IMAGE, instruction or str(source), stamp_ns)
            self.worker.submit(observation, source)

    def results_of(self, count: int) -> dict[int, list[Outcome]]:
        """Wait until there are so many in all; the outcomes by robot."""
        self.wait_for_results(count)
        outcomes: dict[int, list[Outcome]] = {}
        for result in self.results:
            outcomes.setdefault(result.source, []).append(result.outcome)
        return outcomes


def running(policy: FakePolicy) -> AbstractContextManager[Bench]:
    return started(Bench(policy))


@contextmanager
def with_a_batch_of(*sources: int, listens: bool = True) -> Iterator[tuple[Bench, Gate]]:
    """A batch of these robots is held in the policy; opening the gate lets it end."""
    gate = Gate(listens_to_cancel=listens)
    with running(FakePolicy(gate)) as bench:
        bench.submit(2)  # while this one runs the others come together
        gate.entered.acquire(timeout=10)
        bench.submit(*sources)
        gate.open()
        gate.entered.acquire(timeout=10)
        bench.results_of(1)
        bench.results.clear()
        assert bench.policy.batches[-1] == [str(source) for source in sorted(sources)]
        yield bench, gate


def test_all_that_wait_are_one_batch_and_each_has_its_own_result() -> None:
    with with_a_batch_of(2, 0, 1) as (bench, gate):
        gate.open()
        outcomes = bench.results_of(3)
        assert outcomes == {source: [Outcome.PREDICTED] for source in range(ROBOTS)}
        assert all(r.observation.instruction == str(r.source) for r in bench.results)


def test_the_newest_of_each_robot_wins() -> None:
    gate = Gate()
    with running(FakePolicy(gate)) as bench:
        bench.submit(0)
        gate.entered.acquire(timeout=10)
        for number in range(4):
            bench.submit(0, 1, instruction=f'waiting {number}')
        bench.submit(1, instruction='the last')
        gate.open()
        gate.open()
        bench.results_of(3)
        assert bench.policy.batches == [['0'], ['waiting 3', 'the last']]
        of_each = [bench.worker.statistics(source) for source in range(ROBOTS)]
        assert of_each == [
            SlotStatistics(observations=5, superseded=3, taken=2),
            SlotStatistics(observations=5, superseded=4, taken=1),
            SlotStatistics(),
        ]


def test_nobody_waits_for_a_silent_robot() -> None:
    with running(FakePolicy()) as bench:
        for count in range(1, 6):
            bench.submit(1)
            assert bench.results_of(count) == {1: [Outcome.PREDICTED] * count}
        assert bench.policy.batches == [['1']] * 5


def test_who_comes_while_a_batch_runs_is_in_the_next_one() -> None:
    with with_a_batch_of(0) as (bench, gate):
        for number in range(5):  # robot 0 has always a newer picture: nobody is passed over for it
            bench.submit(0, instruction=f'newer {number}')
        bench.submit(1)
        gate.open()
        gate.open()
        bench.results_of(3)
        assert bench.policy.batches[-1] == ['newer 4', '1']


def test_an_old_picture_of_one_is_told_before_the_others_inference() -> None:
    gate = Gate()
    with running(FakePolicy(gate)) as bench:
        bench.submit(2)
        gate.entered.acquire(timeout=10)
        bench.submit(0, age_s=0.6)
        bench.submit(1)
        gate.open()
        gate.entered.acquire(timeout=10)
        # The batch of robot 1 runs, and robot 0 holds already.
        assert bench.results_of(2) == {2: [Outcome.PREDICTED], 0: [Outcome.STALE]}
        gate.open()
        assert bench.results_of(3)[1] == [Outcome.PREDICTED]


def test_a_reset_of_one_drops_only_what_it_has_under_way() -> None:
    with with_a_batch_of(0, 1) as (bench, gate):
        bench.submit(0, 1)
        bench.worker.reset(0)
        assert not bench.policy.cancels[-1].is_set()
        gate.open()
        outcomes = bench.results_of(2)
        assert outcomes == {0: [Outcome.CANCELLED], 1: [Outcome.PREDICTED]}
        assert [r.prediction is None for r in bench.results] == [True, False]
        gate.open()
        bench.results_of(3)
        # What waited of robot 0 was from before the reset, too.
        assert bench.policy.batches[-1] == ['1']
        assert bench.worker.statistics(0).stale == 1


def test_a_batch_that_nobody_needs_any_more_is_cancelled() -> None:
    with with_a_batch_of(0, 1) as (bench, _):
        bench.worker.reset(0)
        bench.worker.reset(1)  # the gate stays shut: only a cancel ends this
        assert bench.results_of(2) == {0: [Outcome.CANCELLED], 1: [Outcome.CANCELLED]}


def test_a_reset_of_who_is_no_member_leaves_the_batch_alone() -> None:
    with with_a_batch_of(0, 1) as (bench, gate):
        bench.worker.reset(2)
        assert not bench.policy.cancels[-1].is_set()
        gate.open()
        assert bench.results_of(2) == {0: [Outcome.PREDICTED], 1: [Outcome.PREDICTED]}


def test_a_reset_of_all_cancels() -> None:
    with with_a_batch_of(0, 1, 2) as (bench, _):
        bench.worker.reset()
        assert bench.results_of(3) == {source: [Outcome.CANCELLED] for source in range(ROBOTS)}


def test_a_missed_deadline_is_an_overrun_of_each_member() -> None:
    with with_a_batch_of(0, 1) as (bench, _):
        bench.clock.advance(1.01)
        assert bench.worker.overdue() == set()  # nobody has looked
        assert bench.worker.enforce_deadline() is Deadline.MISSED
        assert bench.results_of(2) == {0: [Outcome.OVERRUN], 1: [Outcome.OVERRUN]}
        wait_until(lambda: bench.worker.overdue() == set())


def test_who_waits_behind_a_late_inference_is_overdue_with_its_members() -> None:
    with with_a_batch_of(0, listens=False) as (bench, gate):
        bench.clock.advance(1.01)
        assert bench.worker.enforce_deadline() is Deadline.MISSED
        assert bench.worker.overdue() == {0}
        bench.submit(2)
        assert bench.worker.overdue() == {0, 2}
        bench.clock.advance(5.01)
        assert bench.worker.enforce_deadline() is Deadline.HUNG
        gate.open()
        gate.open()
        assert bench.results_of(1)[0] == [Outcome.OVERRUN]


def test_an_instruction_that_is_not_usable_fails_alone_and_at_once() -> None:
    gate = Gate()
    with running(FakePolicy(gate, refused='nonsense')) as bench:
        bench.submit(2)
        gate.entered.acquire(timeout=10)
        bench.submit(0, instruction='nonsense')
        bench.submit(1)
        gate.open()
        gate.entered.acquire(timeout=10)
        # The batch of robot 1 runs, and robot 0 knows already.
        assert bench.results_of(2)[0] == [Outcome.FAILED]
        assert isinstance(bench.results[-1].error, InstructionError)
        gate.open()
        assert bench.results_of(3)[1] == [Outcome.PREDICTED]
        assert bench.policy.batches == [['2'], ['1']]


def test_a_batch_of_unusable_instructions_asks_for_nothing() -> None:
    with running(FakePolicy(refused='nonsense')) as bench:
        bench.submit(0, 1, instruction='nonsense')
        assert bench.results_of(2) == {0: [Outcome.FAILED], 1: [Outcome.FAILED]}
        bench.submit(0)
        bench.results_of(3)
        assert bench.policy.batches == [['0']]


def test_who_is_left_without_the_unusable_and_was_reset_needs_no_inference() -> None:
    class Slow(FakePolicy):
        def check_instruction(self, instruction: str) -> None:
            if instruction == 'nonsense':
                bench.worker.reset(1)
            super().check_instruction(instruction)

    gate = Gate()
    with running(Slow(gate, refused='nonsense')) as bench:
        bench.submit(2)
        gate.entered.acquire(timeout=10)
        bench.submit(0, instruction='nonsense')
        bench.submit(1)
        gate.open()  # for robot 2; only a cancel ends the inference for robot 1
        outcomes = bench.results_of(3)
        assert (outcomes[0], outcomes[1]) == ([Outcome.FAILED], [Outcome.CANCELLED])


def test_any_other_error_is_a_failure_of_all_members() -> None:
    failures = []

    def act(cancel: Cancel) -> Prediction:
        prediction = gate(cancel)
        if failures:
            raise failures.pop()
        return prediction

    gate = Gate()
    with running(FakePolicy(act)) as bench:
        bench.submit(2)
        gate.entered.acquire(timeout=10)
        bench.submit(0, 1)
        gate.open()
        gate.entered.acquire(timeout=10)
        failures.append(RuntimeError('out of memory'))
        gate.open()
        outcomes = bench.results_of(3)
        assert (outcomes[0], outcomes[1]) == ([Outcome.FAILED], [Outcome.FAILED])
        assert {str(result.error) for result in bench.results[1:]} == {'out of memory'}


def test_too_few_predictions_are_a_failure_of_all_members() -> None:
    class Forgetful(FakePolicy):
        def predict(self, *arguments: object) -> list[Prediction | PolicyError]:
            return super().predict(*arguments)[1:]

    with running(Forgetful()) as bench:
        bench.submit(0)
        assert bench.results_of(1) == {0: [Outcome.FAILED]}


@pytest.mark.parametrize('late', [False, True])
def test_an_error_in_the_answer_is_a_failure_of_one_member(late: bool) -> None:
    refused = PolicyError('not this one')

    class Choosy(FakePolicy):
        """Predicts for all but robot 1."""

        def predict(self, batch: list, cancel: Cancel) -> list[Prediction | PolicyError]:
            answers = super().predict(batch, cancel)
            if late and len(batch) > 1:
                bench.clock.advance(1.1)
            told = [observation.instruction for _, observation in batch]
            return [refused if one == '1' else a for one, a in zip(told, answers, strict=True)]

    gate = Gate()
    with running(Choosy(gate)) as bench:
        bench.submit(2)
        gate.entered.acquire(timeout=10)
        bench.submit(0, 1)
        gate.open()
        gate.open()
        outcomes = bench.results_of(3)
    assert outcomes[0] == [Outcome.OVERRUN if late else Outcome.PREDICTED]
    assert outcomes[1] == [Outcome.FAILED]
    [failed] = [result for result in bench.results if result.source == 1]
    assert failed.error is refused and failed.prediction is None


def test_each_robot_has_a_session_until_its_own_reset() -> None:
    with running(FakePolicy()) as bench:
        for count in range(1, 5):
            bench.submit(count % 2)
            bench.results_of(count)
        bench.worker.reset(1)
        for count in (5, 6):
            bench.submit(count % 2)
            bench.results_of(count)
    asked = [call[1] for call in bench.policy.calls]
    assert list(zip(asked, bench.policy.resets, strict=True)) == [
        *(('1', 0), ('0', 0)),
        *(('1', 0), ('0', 0)),
        *(('1', 1), ('0', 0)),  # after the reset of robot 1
    ]
    assert [session.resets for session in bench.policy.sessions] == [0, 1, 0]


@pytest.mark.parametrize('seed', range(3))
def test_every_picture_is_accounted_for_in_a_storm(seed: int) -> None:
    """Pictures, resets, late and failing inferences at random: one name for each picture."""
    of_policy = random.Random(seed)

    def act(cancel: Cancel) -> Prediction:
        fate = of_policy.random()
        if fate < 0.1:
            raise RuntimeError('by chance')
        if fate < 0.2:
            bench.clock.advance(1.1)  # late, and perhaps nobody looks
        if cancel.is_set() and fate < 0.6:
            raise InferenceCancelled
        return a_prediction()

    def shoot(source: int) -> None:
        chosen = random.Random(f'{seed} {source}')
        for _ in range(PICTURES):
            instruction = 'go' if chosen.random() < 0.9 else 'nonsense'
            age_s = 0.6 if chosen.random() < 0.1 else 0.0
            bench.submit(source, instruction=instruction, age_s=age_s)
            if chosen.random() < 0.5:  # otherwise the next one supersedes it, most likely
                wait_until(lambda: check_slot(source).waiting == 0)

    def check_slot(source: int) -> SlotStatistics:
        s = bench.worker.statistics(source)
        balanced.append(s.observations == s.superseded + s.stale + s.taken + s.waiting)
        return s

    def settle() -> None:
        while (result := bench.worker.next_result()) is not None:
            told[result.source, result.outcome] = told.get((result.source, result.outcome), 0) + 1

    def over(source: int) -> int:
        """Inferences of which it is known how they ended."""
        return sum(n for (s, o), n in told.items() if s == source and o is not Outcome.STALE)

    balanced: list[bool] = []
    told: dict[tuple[int, Outcome], int] = {}
    of_main = random.Random(seed)
    with running(FakePolicy(act, refused='nonsense')) as bench:
        threads = [threading.Thread(target=shoot, args=(source,)) for source in range(ROBOTS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            bench.worker.enforce_deadline()
            if of_main.random() < 0.05:
                bench.worker.reset(of_main.choice([0, 1, 2, None]))
            settle()
            for source in range(ROBOTS):
                in_flight = check_slot(source).taken - over(source)
                balanced.append(in_flight >= 0)
        for thread in threads:
            thread.join()

        def all_is_over() -> bool:
            settle()
            statistics = [check_slot(source) for source in range(ROBOTS)]
            return all(s.waiting == 0 and s.taken == over(n) for n, s in enumerate(statistics))

        wait_until(all_is_over)
    assert all(balanced)
    assert [bench.worker.statistics(source).observations for source in range(ROBOTS)] == [
        PICTURES
    ] * ROBOTS
    for source in range(ROBOTS):
        assert told[source, Outcome.PREDICTED] and told[source, Outcome.FAILED]
    assert any(len(batch) > 1 for batch in bench.policy.batches)


def test_no_action_is_from_before_its_own_robots_reset() -> None:
    """Each robot's instruction is how often it was reset; an action must be of the last one."""
    resets = [0] * ROBOTS
    chosen = random.Random(0)
    predicted = 0
    with running(FakePolicy()) as bench:
        for _ in range(1000):
            source = chosen.randrange(ROBOTS)
            if chosen.random() < 0.2:
                bench.worker.reset(source)
                resets[source] += 1
            else:
                bench.submit(source, instruction=str(resets[source]))
            if chosen.random() < 0.5:
                wait_until(lambda: not bench.worker._slots.waiting())
            while (result := bench.worker.next_result()) is not None:
                if result.outcome is Outcome.PREDICTED:
                    predicted += 1
                    assert result.observation.instruction == str(resets[result.source])
    assert predicted
