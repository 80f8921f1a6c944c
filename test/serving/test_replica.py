# SPDX-License-Identifier: Apache-2.0
"""A replica: sessions, batches, what becomes of each request, and how a replica ends."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from support.fakes import FakePolicy, Gate, a_prediction
from support.serving import a_request, eventually, of_fake, of_model, running
from vla_ros.serving.errors import ServerFull, ServingError
from vla_ros.serving.replica import Answer, Replica, ReplicaLimits, ServedSession
from vla_ros.types import InferenceCancelled, Prediction
from vla_ros.wire import ServerError


def kinds(answers: list[Answer]) -> list[str]:
    return [one.kind if isinstance(one, ServerError) else 'actions' for one in answers]


async def entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.acquire, timeout=20)


def test_all_that_wait_form_one_batch_and_the_newest_of_a_session_wins() -> None:
    gate = Gate()

    async def run() -> None:
        async with running(of_fake(policy := FakePolicy(gate))) as replica:
            first, second, third = (replica.open() for _ in range(3))
            begun = first.ask(a_request('begun'))
            await entered(gate)
            old = second.ask(a_request('old'))
            new, other, third_ = (
                one.ask(a_request(text))
                for one, text in ((second, 'new'), (first, 'next'), (third, 'other'))
            )
            assert kinds([await old]) == ['superseded']  # at once, not after the inference
            gate.open()
            gate.open()
            answers = await asyncio.gather(begun, new, other, third_)
            assert kinds(answers) == ['actions'] * 4
            assert policy.batches == [['begun'], ['next', 'new', 'other']]
            assert replica.counters.answered == 4
            assert replica.counters.superseded == 1

    asyncio.run(run())


def test_the_inference_of_a_client_that_leaves_is_cancelled() -> None:
    gate = Gate()

    async def run() -> None:
        async with running(of_fake(policy := FakePolicy(gate)), max_sessions=2) as replica:
            gone, stays = replica.open(), replica.open()
            left = gone.ask(a_request('gone'))
            await entered(gate)
            gone.close()
            await eventually(policy.cancels[0].is_set)
            assert kinds([await left]) == ['cancelled']
            # With another member the inference goes on, and only that one is answered.
            anew = replica.open()
            held = stays.ask(a_request('held'))
            await entered(gate)
            pair = [stays.ask(a_request('stays')), anew.ask(a_request('leaves'))]
            gate.open()
            await entered(gate)
            anew.close()
            gate.open()
            assert kinds(await asyncio.gather(held, *pair)) == ['actions', 'actions', 'cancelled']
            assert not policy.cancels[2].is_set()

    asyncio.run(run())


def test_a_session_that_is_used_again_has_forgotten() -> None:
    async def run() -> None:
        async with running(of_fake(policy := FakePolicy()), max_sessions=1) as replica:
            for _ in range(2):
                session = replica.open()
                await session.ask(a_request())
                await session.ask(a_request())
                session.close()
            session = replica.open()
            await session.ask(a_request(reset=True))
            assert policy.resets == [0, 0, 1, 1, 2]
            with pytest.raises(ServerFull, match='all 1 sessions'):
                replica.open()
            assert replica.counters.full == 1

    asyncio.run(run())


def test_time_that_is_over() -> None:
    """A request that was not begun in its time is stale, one that runs over it is cancelled."""
    gate = Gate(listens_to_cancel=True)

    async def run() -> None:
        async with running(of_fake(policy := FakePolicy(gate))) as replica:
            one, other = replica.open(), replica.open()
            runs = one.ask(a_request(budget_s=None))
            await entered(gate)
            waits = other.ask(a_request('late', budget_s=0.02))
            assert kinds([await waits]) == ['stale']
            gate.open()
            assert kinds([await runs]) == ['actions']
            over = one.ask(a_request(budget_s=0.05))
            assert kinds([await over]) == ['overrun']
            await eventually(policy.cancels[-1].is_set)
            assert policy.batches == [['pick up the cup']] * 2  # the stale one never ran

    asyncio.run(run())


def test_an_inference_that_is_late_or_hangs() -> None:
    ended: list[int] = []

    async def late() -> None:
        limits = {'inference_timeout_s': 0.05, 'hang_timeout_s': 0.05}
        load = of_model('scripted:hung=3@1')
        async with running(load, end_process=lambda: ended.append(1), **limits) as replica:
            session = replica.open()
            answer = await session.ask(a_request())
            assert kinds([answer]) == ['overrun']
            waits = session.ask(a_request())  # behind an inference that hangs
            assert kinds([await waits]) == ['overrun']
            await eventually(lambda: ended)
            await eventually(lambda: replica.phase == 'ready')

    asyncio.run(late())


@pytest.mark.parametrize(
    ('script', 'kind'),
    [
        ('raise@1', 'failed'),
        ('oom@1', 'failed'),
        ('refuse@1', 'instruction'),
        ('nan@1', 'actions'),
    ],
)
def test_an_error_is_of_one_request(script: str, kind: str) -> None:
    async def run() -> None:
        async with running(of_model(f'scripted:{script}')) as replica:
            session = replica.open()
            answers = [await session.ask(a_request()) for _ in range(2)]
            assert kinds(answers) == [kind, 'actions']
            if script == 'nan@1':
                assert isinstance(answers[0], Prediction) and answers[0].invalid is not None
                assert replica.counters.invalid == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ('script', 'limits', 'told'),
    [
        ('raise@load', {}, 'failed'),
        ('self_check@warmup', {}, 'self-check'),
        ('stuck@load', {'load_timeout_s': 0.05}, 'longer than'),
        ('stuck@warmup', {'warmup_timeout_s': 0.05}, 'longer than'),
    ],
)
def test_a_policy_that_is_not_sound_is_not_served(
    script: str, limits: dict[str, float], told: str
) -> None:
    async def run() -> None:
        replica = Replica(of_model(f'scripted:{script}'), ReplicaLimits(**limits))
        with pytest.raises(ServingError, match=told):
            await replica.start()
        await replica.close()

    asyncio.run(run())


def test_files_that_change_end_the_replica() -> None:
    async def run() -> None:
        async with running(of_model('scripted:changed@2')) as replica:
            session = replica.open()
            assert kinds([await session.ask(a_request())]) == ['actions']
            assert kinds([await session.ask(a_request())]) == ['failed']
            await eventually(lambda: replica.phase == 'failed')
            with pytest.raises(ServingError, match='has changed'):
                replica.check()
            assert kinds([await session.ask(a_request())]) == ['failed']

    asyncio.run(run())


def test_every_request_is_counted_once_in_a_storm() -> None:
    """Eight clients come, ask, supersede, run out of time and leave, in a random order."""

    async def client(number: int, replica: Replica, asked: list[Answer]) -> None:
        choose = random.Random(number)
        for _ in range(6):
            session: ServedSession = replica.open()
            answers = [
                session.ask(a_request(budget_s=choose.choice((None, 0.003, 1.0))))
                for _ in range(choose.randrange(1, 6))
            ]
            if choose.random() < 0.5:
                await asyncio.sleep(0.004 * choose.random())
            else:
                await asyncio.wait(answers)
            session.close()
            asked += await asyncio.gather(*answers)

    async def run() -> None:
        asked: list[Answer] = []
        script = 'scripted:slow=0.002,raise@5%,nan@5%,refuse@5%,seed=3'
        async with running(of_model(script), max_sessions=8) as replica:
            await asyncio.gather(*(client(number, replica, asked) for number in range(8)))
            counters: Any = replica.counters
            assert counters.requests == len(asked)
            given = kinds(asked)
            for kind in ('superseded', 'stale', 'overrun', 'cancelled'):
                assert getattr(counters, kind) == given.count(kind)
            assert counters.answered + counters.invalid == given.count('actions')
            assert replica.served().sessions_free == 8

    asyncio.run(run())


def test_a_data_set_is_chosen_by_each_request() -> None:
    """An unknown one fails alone. More wait than the policy takes: several batches."""
    gate = Gate()

    async def run() -> None:
        policy = FakePolicy(gate)
        policy.max_batch_size = 2
        async with running(of_fake(policy, 'usual'), max_sessions=4) as replica:
            sessions = [replica.open() for _ in range(4)]
            held = sessions[0].ask(a_request())
            await entered(gate)
            keys = ('a', 'b', '', 'a')
            asked = [
                one.ask(a_request(unnorm_key=key)) for one, key in zip(sessions, keys, strict=True)
            ]
            for _ in range(3):
                gate.open()
            await asyncio.gather(held, *asked)
            assert [key for _, _, key in policy.calls] == ['usual', 'a', 'b', 'usual', 'a']
            assert [len(batch) for batch in policy.batches] == [1, 2, 2]
            assert replica.batches == 3

    asyncio.run(run())


def test_a_cancelled_inference_is_no_error_of_the_policy() -> None:
    def cancelled(_: object) -> Prediction:
        raise InferenceCancelled

    async def run() -> None:
        async with running(of_fake(FakePolicy(cancelled))) as replica:
            assert kinds([await replica.open().ask(a_request())]) == ['cancelled']
        async with running(of_fake(FakePolicy(lambda _: a_prediction()))) as replica:
            assert kinds([await replica.open().ask(a_request())]) == ['actions']

    asyncio.run(run())
