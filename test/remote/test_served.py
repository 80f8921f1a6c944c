# SPDX-License-Identifier: Apache-2.0
"""Our client and our server together: the same actions as in process, and who gives way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from support.fakes import FakePolicy, Gate
from support.golden import CASES, picture
from support.places import GOLDEN
from support.served import served
from support.serving import of_fake, of_model
from vla_ros.policies import PolicyRequest, load_policy
from vla_ros.types import (
    InferenceCancelled,
    InstructionError,
    Observation,
    Policy,
    PolicyError,
    Prediction,
    all_predicted,
)

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
OBSERVATION = Observation.of_one(NOISE, 'pick up the cup', 1)


@contextlib.contextmanager
def loaded(url: str, **request: str) -> Iterator[Policy]:
    policy = load_policy(PolicyRequest(url, **request))
    try:
        yield policy
    finally:
        policy.close()


def test_golden_cases_over_the_wire() -> None:
    """Token ids and float64 actions equal those in process, bit for bit; so do drafts."""
    model = str(GOLDEN / 'openvla_tiny')
    here = load_policy(PolicyRequest(model, device='cpu', dtype='float32'))
    cases = [case for name, case in CASES.values() if name == 'openvla_tiny']
    load = of_model(model, 1, device='cpu', dtype='float32')
    with served(load, max_sessions=1) as server, loaded(server.url) as policy:
        assert policy.spec(cases[0]['unnorm_key']) == here.spec(cases[0]['unnorm_key'])
        for case in cases:
            key = case['unnorm_key']
            observation = Observation.of_one(picture(case), case['instruction'], 1)
            ours, theirs = policy.session(key), here.session(key)
            ours.reset()
            for _ in range(2):  # the second time with drafts
                [far] = all_predicted(policy.predict([(ours, observation)]))
                [near] = all_predicted(here.predict([(theirs, observation)]))
                assert far.actions.tobytes() == near.actions.tobytes()
                assert far.normalized_actions is not None and near.normalized_actions is not None
                assert far.normalized_actions.tobytes() == near.normalized_actions.tobytes()
                assert far.tokens is not None and near.tokens is not None
                assert far.tokens.ids.tolist() == near.tokens.ids.tolist()
                assert far.tokens.accepted == near.tokens.accepted
                assert far.invalid == near.invalid and far.unnorm_key == near.unnorm_key
            # The server has one session, so this client gives its connection back.
            _hand_over(policy, ours)
    here.close()


def _hand_over(policy: Policy, session: object) -> None:
    spares = policy._spares  # type: ignore[attr-defined]
    spares.append(session.connection)  # type: ignore[attr-defined]
    session.connection = None  # type: ignore[attr-defined]


def test_a_full_server_and_one_with_room_again() -> None:
    with served(of_model('scripted'), max_sessions=1) as server:
        with loaded(server.url) as policy:
            with pytest.raises(PolicyError, match='is full'):
                _ask_alone(server.url)
            assert isinstance(policy.predict([(policy.session(), OBSERVATION)])[0], Prediction)
        _until_free(server.url)


def _ask_alone(url: str) -> None:
    from vla_ros.policies import inspect

    inspect(PolicyRequest(url))


def _until_free(url: str) -> None:
    """The session of a client that has left is free within moments."""
    for _ in range(200):
        with contextlib.suppress(PolicyError):
            _ask_alone(url)
            return
        threading.Event().wait(0.05)
    raise AssertionError('the session is never free')


def test_a_cancelled_request_stops_the_model() -> None:
    gate, cancel = Gate(), threading.Event()
    with served(of_fake(policy := FakePolicy(gate))) as server, loaded(server.url) as far:

        def stop() -> None:
            assert gate.entered.acquire(timeout=20)
            cancel.set()

        threading.Thread(target=stop).start()
        with pytest.raises(InferenceCancelled):
            far.predict([(far.session(), OBSERVATION)], cancel)
        for _ in range(2000):
            if policy.cancels[-1].is_set():
                break
            threading.Event().wait(0.005)
        assert policy.cancels[-1].is_set()


def test_errors_of_the_server_are_errors_here() -> None:
    script = 'scripted:refuse@1,raise@2,nan@3,invalid@4'
    with served(of_model(script)) as server, loaded(server.url) as policy:
        session = policy.session()
        first, second, third, fourth = (
            policy.predict([(session, OBSERVATION)])[0] for _ in range(4)
        )
        assert isinstance(first, InstructionError) and 'refused' in str(first)
        assert isinstance(second, PolicyError) and not isinstance(second, InstructionError)
        assert isinstance(third, Prediction) and third.invalid is not None
        assert isinstance(fourth, Prediction) and fourth.invalid is not None
        policy.check_files()
