# SPDX-License-Identifier: Apache-2.0
"""Our dialect: metadata, requests and replies arrive as they were sent, or are errors."""

from __future__ import annotations

import random
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ros.files import FileError
from vla_ros.types import (
    ActionSpace,
    Invalid,
    InvalidReason,
    Observation,
    PolicyError,
    PolicyInfo,
    PolicySpec,
    Prediction,
    TokenTrace,
    WarmupTimes,
    unknown_names,
)
from vla_ros.wire import (
    Request,
    ServedPolicy,
    ServerError,
    WireError,
    error_map,
    error_of,
    is_ours,
    pack,
    read_reply,
    read_request,
    reply_map,
    request_map,
    unpack,
)
from vla_ros.wire.token import authorization, digest_of, is_authorized, read_token

SPEC = PolicySpec(
    ('front', 'wrist'), 8, 7, 5, ActionSpace.POSE_DELTA, unknown_names(7), 0.05, True, True, 2.0
)
UNSET = ('takes_any_key', 'rotate_180', 'center_crop', 'preprocessing')
SERVED = ServedPolicy(
    PolicyInfo('openvla/openvla-7b', 'main', 'cuda:0', 'bfloat16', 'int8', True, 0.5),
    {'bridge_orig': SPEC, 'other': replace(SPEC, period_s=None)},
    warmup=WarmupTimes(10.0, 1.0, 0.1, '3 graphs'),
    self_checked=True,
    identity='abc',
    sessions_free=3,
    version='1.0.0',
)


def over_the_wire(value: Any) -> Any:
    return unpack(pack(value))


def test_metadata_arrives_as_it_was_sent() -> None:
    for one in (SERVED, SERVED.info, SERVED.warmup):  # else a new field might be lost
        for each in fields(one):
            if each.default is not MISSING and each.name not in UNSET:
                assert getattr(one, each.name) != each.default, each.name
    metadata = {**SERVED.to_metadata(), 'action_horizon': 5}
    assert is_ours(metadata) and not is_ours({}) and not is_ours(None)
    assert ServedPolicy.from_metadata(over_the_wire(metadata)) == SERVED
    assert SERVED.spec('other') == ('other', SERVED.specs['other'])
    for key in (None, '', 'none'):
        with pytest.raises(PolicyError, match='bridge_orig, other'):
            SERVED.spec(key)
    one = replace(SERVED, specs={'': SPEC}, takes_any_key=True)
    assert one.spec(None) == ('', SPEC) and one.spec('any') == ('any', SPEC)


def test_what_differs_after_a_reconnection_is_named() -> None:
    assert not SERVED.difference(replace(SERVED, sessions_free=0, warmup=WarmupTimes(1, 1, 1)))
    other_card = replace(SERVED, info=replace(SERVED.info, device='cuda:1'))
    assert not SERVED.difference(other_card)
    assert SERVED.difference(replace(SERVED, identity='abd')) == 'identity was abc and is abd'
    assert 'specs' in SERVED.difference(replace(SERVED, specs={'other': SPEC}))


@pytest.mark.parametrize('seed', range(20))
def test_damaged_metadata_is_an_error(seed: int) -> None:
    """Each value, replaced by one of another type or beyond its bounds."""
    rng = random.Random(seed)
    for _ in range(20):
        metadata = over_the_wire(SERVED.to_metadata())
        at = metadata
        while True:
            key = rng.choice(sorted(at))
            if not isinstance(at[key], dict) or rng.random() < 0.2:
                break
            at = at[key]
        if key in ('period_s', 'bridge_orig', 'other'):
            continue
        at[key] = rng.choice([object(), b'x', -5.5, 'x' * 9999, [1], None, {1: 2}])
        if at[key] == -5.5 and key == 'sessions_free':
            continue
        with pytest.raises(WireError):
            ServedPolicy.from_metadata(metadata)


def test_a_request_arrives_as_it_was_sent() -> None:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (4, 6, 3), np.uint8) for name in SPEC.cameras}
    stamps = dict.fromkeys(images, 7)
    observation = Observation(images, 'put it down', stamps, np.arange(8.0))
    request = Request(observation, 'bridge_orig', 0.25, True)
    found = read_request(over_the_wire(request_map(request)), stamp_ns=7)
    assert found.observation.instruction == 'put it down' and found.observation.stamps_ns == stamps
    for name, image in images.items():
        assert np.array_equal(found.observation.images[name], image)
    assert np.array_equal(found.observation.state, np.arange(8.0))
    assert (found.unnorm_key, found.budget_s, found.reset) == ('bridge_orig', 0.25, True)
    bare = read_request(over_the_wire(request_map(Request(replace(observation, state=None)))))
    assert bare.observation.state is None and bare.budget_s is None

    message = over_the_wire(request_map(request))
    for key, value in (
        ('prompt', None),
        ('prompt', 'x' * 3000),
        ('vla_ros/images', []),
        ('vla_ros/images', {'front': np.zeros((4, 6, 3))}),
        ('vla_ros/images', {'front': np.zeros((4, 6), np.uint8)}),
        ('vla_ros/budget_ms', float('nan')),
        ('vla_ros/budget_ms', -1),
        ('vla_ros/state', 'x'),
    ):
        with pytest.raises(WireError):
            read_request({**message, key: value})


@pytest.mark.parametrize('tokens', [True, False])
@pytest.mark.parametrize(
    'invalid',
    [None, InvalidReason(Invalid.TOKEN, 3, 17, '5 to 9'), InvalidReason(Invalid.BY_POLICY)],
)
def test_a_reply_arrives_as_it_was_sent(tokens: bool, invalid: InvalidReason | None) -> None:
    rng = np.random.default_rng(1)
    sent = Prediction(
        rng.standard_normal((5, 7)),
        'bridge_orig',
        rng.uniform(-1, 1, (5, 7)) if tokens else None,
        invalid,
        tokens=TokenTrace(np.arange(35), np.ones(35, np.float32), None, 4, 2) if tokens else None,
        timings={'vision': 0.1},
    )
    message = over_the_wire(reply_map(sent))
    assert error_of(message) is None
    found = read_reply(message)
    assert found.actions.tobytes() == sent.actions.tobytes() and found.invalid == invalid
    assert found.unnorm_key == 'bridge_orig' and found.timings == sent.timings
    if tokens:
        assert np.array_equal(found.tokens.ids, sent.tokens.ids)
        assert (found.tokens.drafted, found.tokens.accepted) == (4, 2)
        assert found.normalized_actions.tobytes() == sent.normalized_actions.tobytes()
    else:
        assert found.tokens is None and found.normalized_actions is None
    for key, value in (('actions', np.zeros(7)), ('actions', None), ('valid', 1), ('valid', None)):
        with pytest.raises(WireError):
            read_reply({**message, key: value})


def test_chunks_and_tokens_are_as_many_as_a_node_can_publish_in_a_moment() -> None:
    """A message of millions of numbers keeps the node's executor for seconds."""
    large = replace(SERVED, specs={'': replace(SPEC, horizon=1000, names=unknown_names(7))})
    assert ServedPolicy.from_metadata(large.to_metadata()).specs[''].horizon == 1000
    names = unknown_names(1000)
    huge = replace(SPEC, horizon=1000, names=names, action_dim=len(names))
    with pytest.raises(WireError, match='1000 rows of 1000'):
        ServedPolicy.from_metadata(replace(SERVED, specs={'': huge}).to_metadata())
    for ids, probabilities in ((1, 10_001), (10_001, 1)):
        tokens = TokenTrace(np.zeros(ids, np.int64), np.zeros(probabilities, np.float32))
        reply = reply_map(Prediction(np.zeros((5, 7)), 'bridge_orig', tokens=tokens))
        with pytest.raises(WireError, match='10001 tokens'):
            read_reply(reply)


def test_an_error_arrives_as_it_was_sent() -> None:
    error = ServerError('stale', 'the request was not begun in 0.2 s', 'connect fewer robots')
    assert error_of(over_the_wire(error_map(error))) == error
    assert '\\x1b' in error_of(error_map(ServerError('failed', '\x1b[2J'))).what
    with pytest.raises(WireError):
        error_of({'vla_ros/error': 5})


def test_a_token_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / 'token'
    with pytest.raises(FileError):
        read_token(path)
    for text in ('', 'short', 'two lines of it\nwith more than sixteen', 'ü' * 20):
        path.write_text(text)
        with pytest.raises(WireError) as caught:
            read_token(path)
        assert not text or text not in str(caught.value)
    path.write_text('0123456789abcdef\n')
    token = read_token(path)
    digest = digest_of(token)
    assert is_authorized(authorization(token), digest)
    assert is_authorized('api-key 0123456789abcdef', digest)
    for header in (None, '', token, 'Bearer', f'Bearer {token}x', f'Basic {token}', 'Bearer é'):
        assert not is_authorized(header, digest)
