# SPDX-License-Identifier: Apache-2.0
"""A robot's session: its last valid action is the next one's draft, until a reset."""

from __future__ import annotations

import threading
from functools import cache

import numpy as np
import pytest

from support.golden import CASES, picture
from support.places import GOLDEN
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.session import OpenVLASession
from vla_ros.scripted import ScriptedPolicy
from vla_ros.types import (
    InferenceCancelled,
    InstructionError,
    Observation,
    PolicyError,
    Prediction,
    all_predicted,
)

KEY = 'bridge_orig'
VALID = 'openvla_tiny-vga'
INVALID = next(key for key, (_, case) in CASES.items() if case['flags'])


@cache
def policy(name: str = 'openvla_tiny') -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(
        GOLDEN / name, device='cpu', dtype='float32', max_batch_size=2
    )


def observation(key: str = VALID) -> Observation:
    case = CASES[key][1]
    return Observation.of_one(picture(case), case['instruction'], 0)


def session_of(key: str = VALID) -> tuple[OpenVLAPolicy, OpenVLASession]:
    name, case = CASES[key]
    return policy(name), policy(name).session(case['unnorm_key'])


def counts(one: OpenVLAPolicy, session: OpenVLASession, key: str = VALID) -> tuple[int, int]:
    """Draft tokens that were verified, and accepted, of one more prediction."""
    [prediction] = all_predicted(one.predict([(session, observation(key))]))
    assert prediction.tokens is not None
    return prediction.tokens.drafted, prediction.tokens.accepted


def test_a_session_knows_its_spec() -> None:
    one, session = session_of()
    assert session.spec == one.spec(session.unnorm_key)
    assert session.spec.action_shape == (1, 7)
    assert (session.spec.cameras, session.spec.state_dim) == (('image',), 0)
    assert session.spec.emits_tokens and session.spec.deterministic
    with pytest.raises(PolicyError, match='kuka'):
        one.session('kuka')


def test_the_last_action_is_the_next_one_s_draft_until_a_reset() -> None:
    one, session = session_of()
    assert [counts(one, session) for _ in range(3)] == [(0, 0), (6, 6), (6, 6)]
    session.reset()
    assert counts(one, session) == (0, 0)


def test_an_invalid_action_leaves_the_draft_as_it_was() -> None:
    one, session = session_of(INVALID)
    assert [counts(one, session, INVALID) for _ in range(2)] == [(0, 0)] * 2
    session.draft = np.array([31800, 31801])
    drafted, _ = counts(one, session, INVALID)
    assert drafted == 2
    assert session.draft.tolist() == [31800, 31801]


def test_each_session_has_its_own_draft() -> None:
    one, first = session_of()
    second = one.session(KEY)
    counts(one, first)
    both = one.predict([(second, observation()), (first, observation())])
    drafted = [prediction.tokens.drafted for prediction in all_predicted(both)]
    assert drafted == [0, 6]
    second.reset()
    assert counts(one, first) == (6, 6)
    assert counts(one, second) == (0, 0)


def test_a_cancelled_inference_changes_no_session() -> None:
    one, session = session_of()
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(InferenceCancelled):
        one.predict([(session, observation())], cancel)
    assert counts(one, session) == (0, 0)


def test_an_unusable_instruction_is_an_error_of_its_own() -> None:
    one, session = session_of()
    other = one.session(KEY)
    empty = Observation.of_one(observation().image, ' ', 0)
    answers = one.predict([(other, empty), (session, observation())])
    assert isinstance(answers[0], InstructionError) and isinstance(answers[1], Prediction)
    assert [counts(one, each)[0] for each in (other, session)] == [0, 6]
    [alone] = one.predict([(other, empty)])
    assert isinstance(alone, InstructionError)
    with pytest.raises(InstructionError, match='instruction is empty'):
        all_predicted(answers)


def test_a_missing_image_is_named() -> None:
    one, session = session_of()
    image = observation().image
    [answer] = one.predict([(session, Observation({'wrist': image}, 'go', {'wrist': 0}))])
    assert isinstance(answer, PolicyError)
    assert str(answer) == "there is no image of the camera 'image'; there are images of wrist"


def test_a_prompt_is_tokenized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = OpenVLAPolicy.from_pretrained(GOLDEN / 'openvla_tiny', device='cpu', dtype='float32')
    tokenizer = type(one._prompt_tokenizer)
    asked: list[str] = []
    call = tokenizer.__call__

    def counted(self: object, instruction: str) -> object:
        asked.append(instruction)
        return call(self, instruction)

    monkeypatch.setattr(tokenizer, '__call__', counted)
    session = one.session(KEY)
    for instruction in ('go left', 'go left', 'go right', 'go left'):
        one.check_instruction(instruction)
        one.predict([(session, Observation.of_one(observation().image, instruction, 0))])
    assert asked == ['go left', 'go right']
    for _ in range(2):
        with pytest.raises(InstructionError):
            one.check_instruction(' ')


def test_a_session_of_another_policy_is_refused() -> None:
    stranger = ScriptedPolicy.from_script('scripted', lambda _: None).session()
    with pytest.raises(TypeError, match='not a session of an OpenVLA policy'):
        policy().predict([(stranger, observation())])
