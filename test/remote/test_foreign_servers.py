# SPDX-License-Identifier: Apache-2.0
"""Servers of openpi, OpenVLA and OpenVLA-OFT, whose inputs a contract names."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from support.rest_servers import CONTRACT, rest_server
from support.servers import FakeServer, fake_server
from vla_ros.motion import load_contracts
from vla_ros.policies import PolicyRequest, inspect, load_policy
from vla_ros.types import (
    ActionSpace,
    InferenceCancelled,
    Observation,
    Policy,
    PolicyError,
    Prediction,
    SelfCheckError,
    invalid_reason,
)
from vla_ros.wire import pack, pack_body

OFT = CONTRACT.replace('observation/image', 'full_image').replace('[images, wrist]', 'wrist_image')
OFT = OFT.replace('observation/state', 'state').replace('prompt: prompt', 'prompt: instruction')
IMAGES = {
    'image': np.full((6, 8, 3), 7, np.uint8),
    'wrist': np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3),
}
OBSERVATION = Observation(IMAGES, 'push', dict.fromkeys(IMAGES, 0), np.array([1.0, 2.0]))


def chunk(request: dict[str, Any]) -> np.ndarray:
    """A different chunk for each image and instruction."""
    words = request.get('prompt', request.get('instruction'))
    image = request.get('observation/image', request.get('full_image', request.get('image')))
    return np.full((10, 7), 0.001 * len(words) + 1e-6 * image.mean())


async def openpi(connection: Any, request: dict[str, Any]) -> None:
    """As openpi's server packs it: keys of arrays are bytes, float32."""
    actions = chunk(request).astype(np.float32)
    array = {b'__ndarray__': True, b'data': actions.tobytes(), b'dtype': '<f4', b'shape': (10, 7)}
    await connection.send(msgpack.packb({'actions': array, 'server_timing': {'infer_ms': 1.5}}))


@pytest.fixture
def contracts(tmp_path: Path) -> str:
    file = tmp_path / 'contracts.yaml'
    file.write_text(CONTRACT)
    return str(file)


@contextlib.contextmanager
def loaded(url: str, contracts: str, key: str = 'pi0', **request: Any) -> Iterator[Policy]:
    asked = PolicyRequest(url, unnorm_key=key, contracts=contracts, **request)
    policy = load_policy(asked)
    try:
        yield policy
    finally:
        policy.close()


def ask(policy: Policy, observation: Observation = OBSERVATION) -> Prediction | PolicyError:
    [answer] = policy.predict([(policy.session('pi0'), observation)])
    return answer


@contextlib.contextmanager
def openpi_server(**metadata: Any) -> Iterator[FakeServer]:
    with fake_server() as server:
        server.metadata, server.act = metadata, openpi
        yield server


def test_a_server_of_openpi_by_a_contract(contracts: str) -> None:
    with openpi_server(model='pi0') as server, loaded(server.url, contracts) as policy:
        spec = policy.spec('pi0')
        assert spec.cameras == ('image', 'wrist') and spec.state_dim == 2
        assert spec.action_shape == (10, 7) and spec.names[0] == 'x' and not spec.emits_tokens
        assert spec.action_space is ActionSpace.UNKNOWN and not spec.deterministic
        assert policy.info.model == server.url and policy.info.device == 'server'
        times = policy.warmup()
        assert times.total_s >= times.first_inference_s > 0
        answer = ask(policy)
        assert isinstance(answer, Prediction) and answer.unnorm_key == 'pi0'
        assert answer.actions.dtype == np.float64 and answer.normalized_actions is None
        assert invalid_reason(answer, spec) is None
        request = server.requests[-1]
        assert set(request) == {'observation/image', 'images', 'observation/state', 'prompt'}
        assert np.array_equal(request['images']['wrist'], IMAGES['wrist'])
        assert request['observation/state'].tolist() == [1.0, 2.0] and request['prompt'] == 'push'

        server.metadata = {'model': 'pi1'}
        server.kill_all()
        assert isinstance(ask(policy), PolicyError)
        with pytest.raises(PolicyError, match='another policy than before'):
            policy.check_files()


def test_images_may_have_their_channels_first(contracts: str) -> None:
    Path(contracts).write_text(f'{CONTRACT}    channels_first: true\n')
    with openpi_server() as server, loaded(server.url, contracts) as policy:
        assert isinstance(ask(policy), Prediction)
        found = server.requests[-1]['images']['wrist']
        assert np.array_equal(found, IMAGES['wrist'].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ('frame', 'text'),
    [
        (pack({'type': 'error', 'message': 'out of memory'}), 'out of memory'),
        (pack({'policy_timing': 1}), 'no actions'),
        (pack({'actions': 'none'}), 'actions of answer'),
        (pack({'actions': np.zeros((1, 2, 3))}), 'actions of answer'),
        (pack([[1.0], [1.0, 2.0]]), 'actions of answer'),
        ('Traceback\nKeyError: observation/image', 'KeyError: observation/image'),
    ],
    ids=range(6),
)
def test_errors_of_such_servers(contracts: str, frame: bytes | str, text: str) -> None:
    async def act(connection: Any, request: Any) -> None:
        await connection.send(frame)

    with openpi_server() as server, loaded(server.url, contracts) as policy:
        server.act = act
        answer = ask(policy)
        assert isinstance(answer, PolicyError) and text in str(answer)
        server.act = openpi
        assert isinstance(ask(policy), Prediction)


def test_what_the_contract_must_say(contracts: str) -> None:
    with openpi_server() as server:
        for key in ('', 'bridge_orig'):
            with pytest.raises(PolicyError, match='section server'):
                load_policy(PolicyRequest(server.url, unnorm_key=key, contracts=contracts))
        with pytest.raises(PolicyError, match='remote_image'):
            load_policy(
                PolicyRequest(
                    server.url, unnorm_key='pi0', contracts=contracts, remote_image='jpeg'
                )
            )
        inspection = inspect(PolicyRequest(server.url, unnorm_key='pi0', contracts=contracts))
        assert inspection is not None and not inspection.unnorm_keys
        assert inspection.key('') == 'pi0' and inspection.spec().horizon == 10
        no_state = CONTRACT.replace(CONTRACT[CONTRACT.index('  state:') : -1], '')
        no_state += CONTRACT[CONTRACT.index('  server:') :]
        Path(contracts).write_text(no_state)
        with pytest.raises(PolicyError, match='no section state'):
            load_policy(PolicyRequest(server.url, unnorm_key='pi0', contracts=contracts))


@pytest.mark.parametrize(
    ('old', 'new', 'named'),
    [
        ('rows: 10', 'rows: 0', 'rows is 0'),
        ('rows: 10', 'rows: x', "rows is 'x'"),
        ('rows: 10', 'columns: 10', "'columns' is unknown"),
        ('    prompt: prompt\n', '', 'missing: prompt'),
        ('    prompt: prompt\n', '    prompt: []\n', 'prompt is'),
        ('images: {image', 'images: {3', 'images has 3'),
        ('observation/image', '{a: b}', 'image is'),
        ('rows: 10', 'rows: 10\n    channels_first: 1', 'channels_first is 1'),
    ],
)
def test_a_section_that_is_not_usable(contracts: str, old: str, new: str, named: str) -> None:
    assert load_contracts(contracts)['pi0'].server is not None
    Path(contracts).write_text(CONTRACT.replace(old, new, 1))
    with pytest.raises(PolicyError) as caught:
        load_contracts(contracts)
    assert named in str(caught.value) and caught.value.advice


def test_a_policy_that_does_not_see_or_hear_fails_its_self_check(contracts: str) -> None:
    def blind(request: Any) -> Any:
        return {'actions': np.full((10, 7), 0.001 * len(request['prompt']))}

    def deaf(request: Any) -> Any:
        return {'actions': np.full((10, 7), 1e-6 * request['observation/image'].mean())}

    def short(request: Any) -> Any:
        return {'actions': np.zeros((9, 7))}

    def broken(request: Any) -> Any:
        return {'actions': np.full((10, 7), np.nan)}

    with openpi_server() as server:
        for act, named in (
            (blind, 'black, white and noise'),
            (deaf, 'other words'),
            (short, '10 rows of 7'),
            (broken, 'not finite'),
        ):

            async def send(connection: Any, request: Any, act: Any = act) -> None:
                await connection.send(pack(act(request)))

            server.act = send
            with (
                loaded(server.url, contracts) as policy,
                pytest.raises(SelfCheckError, match=named),
            ):
                policy.warmup()


def test_a_warm_up_waits_for_a_server_that_restarts(contracts: str) -> None:
    with openpi_server() as server, loaded(server.url, contracts) as policy:
        said: list[str] = []

        async def die_once(connection: Any, request: Any) -> None:
            connection.transport.abort()
            server.act = openpi

        server.act = die_once
        policy.warmup(lambda step: said.append(step.text))
        assert any(text.startswith(f'waits for {server.url}: ') for text in said)


# -- REST ------------------------------------------------------------------------------------------


def oft(request: Any, handler: Any) -> bytes:
    return pack_body(list(chunk(request)))


def test_a_server_of_oft(contracts: str) -> None:
    Path(contracts).write_text(OFT)
    with rest_server(oft) as server, loaded(server.url, contracts) as policy:
        policy.warmup()
        answer = ask(policy)
        assert isinstance(answer, Prediction) and answer.actions.shape == (10, 7)
        request = server.requests[-1]
        assert set(request) == {'full_image', 'wrist_image', 'state', 'instruction'}
        assert np.array_equal(request['full_image'], IMAGES['image'])
        assert server.connections <= 2  # that of the warm-up, and this session's


def test_a_server_of_openvla_needs_no_section(tmp_path: Path) -> None:
    def act(request: Any, handler: Any) -> bytes:
        return pack_body(chunk(request)[0])

    token = tmp_path / 'token'
    token.write_text('0123456789abcdef')
    with (
        rest_server(act) as server,
        loaded(server.url, '', 'bridge_orig', remote_token_file=str(token)) as policy,
    ):
        policy.warmup()
        image = {'image': IMAGES['image']}
        answer = policy.predict(
            [(policy.session(), Observation(image, 'push', {'image': 0}))],
        )[0]
        assert isinstance(answer, Prediction) and answer.actions.shape == (1, 7)
        request = server.requests[-1]
        assert request['unnorm_key'] == 'bridge_orig' and request['instruction'] == 'push'
        assert server.headers[-1]['Authorization'] == 'Bearer 0123456789abcdef'


def raw(text: bytes) -> Any:
    def act(request: Any, handler: Any) -> None:
        handler.wfile.write(text)
        handler.close_connection = True

    return act


@pytest.mark.parametrize(
    ('act', 'text'),
    [
        (lambda *_: b'"error"', "'error' in place of an action"),
        (lambda *_: b'{"detail": "no such key"}', 'no such key'),
        (lambda *_: b'{', 'not JSON'),
        (raw(b''), 'closed the connection'),
        (raw(b'SSH-2.0-x\r\n\r\n'), 'does not speak HTTP'),
        (raw(b'HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n'), 'at most 16000000'),
        (raw(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf'), 'closed the connection'),
        (raw(b'HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n'), 'at most 16000000'),
        (raw(b'HTTP/1.1 200 OK\r\n' + b'a: b\r\n' * 300), 'more than 200 headers'),
        (raw(b'HTTP/1.1 200 ' + b'x' * 200_000), 'failed'),
        (raw(b'HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n'), 'status 500'),
        (raw(b'HTTP/1.1 503 Full\r\nContent-Length: 0\r\n\r\n'), 'is full'),
    ],
    ids=range(12),
)
def test_answers_of_rest_that_are_no_actions(contracts: str, act: Any, text: str) -> None:
    Path(contracts).write_text(OFT)
    with rest_server(oft) as server, loaded(server.url, contracts) as policy:
        server.act = act
        answer = ask(policy)
        assert isinstance(answer, PolicyError) and text in str(answer)
        server.act = oft
        policy._not_before_s = 0.0  # type: ignore[attr-defined]
        assert isinstance(ask(policy), Prediction)
        policy.check_files()


@pytest.mark.parametrize(
    'text',
    [
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n',
        b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%.0s%s',
    ],
    ids=['chunked', 'up to the end'],
)
def test_other_forms_of_a_body(contracts: str, text: bytes) -> None:
    Path(contracts).write_text(OFT)
    with rest_server(oft) as server, loaded(server.url, contracts) as policy:

        def act(request: Any, handler: Any) -> None:
            body = oft(request, handler)
            size = len(body) if b'%x' in text else b''
            handler.wfile.write(text % (size, body))
            handler.close_connection = True

        server.act = act
        for _ in range(2):
            assert isinstance(ask(policy), Prediction)


def test_an_answer_that_nobody_asked_for_is_never_read(contracts: str) -> None:
    Path(contracts).write_text(OFT)
    answers = itertools.count()

    def twice(request: Any, handler: Any) -> None:
        for _ in range(2):
            body = pack_body([[float(next(answers))] * 7] * 10)
            head = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % len(body)
            handler.wfile.write(head + body)

    with rest_server(oft) as server, loaded(server.url, contracts) as policy:
        server.act = twice
        session = policy.session()
        for first in (0.0, 2.0):
            [answer] = policy.predict([(session, OBSERVATION)])
            assert isinstance(answer, Prediction) and answer.action[0] == first
            while not session.connection._reader._buffer:  # type: ignore[attr-defined]
                time.sleep(0.001)
            [answer] = policy.predict([(session, OBSERVATION)])
            assert isinstance(answer, PolicyError) and 'was not asked for' in str(answer)


def test_a_rest_server_that_refuses_ends_the_policy(contracts: str) -> None:
    Path(contracts).write_text(OFT)
    for status in (b'401', b'302'):
        with rest_server(oft) as server, loaded(server.url, contracts) as policy:
            server.act = raw(b'HTTP/1.1 %s No\r\nContent-Length: 0\r\n\r\n' % status)
            assert isinstance(ask(policy), PolicyError)
            with pytest.raises(PolicyError, match=status.decode()):
                policy.check_files()


def test_a_request_that_is_cancelled_ends_its_connection(contracts: str) -> None:
    Path(contracts).write_text(OFT)
    entered, cancel = threading.Event(), threading.Event()
    gone = threading.Event()

    def act(request: Any, handler: Any) -> None:
        entered.set()
        handler.connection.settimeout(20)
        with contextlib.suppress(OSError):
            assert handler.connection.recv(1) == b''
        gone.set()

    with rest_server(oft) as server, loaded(server.url, contracts) as policy:
        session = policy.session('pi0')
        server.act = act
        threading.Thread(target=lambda: (entered.wait(20), cancel.set())).start()
        with pytest.raises(InferenceCancelled):
            policy.predict([(session, OBSERVATION)], cancel)
        assert gone.wait(20)
        server.act = oft
        [answer] = policy.predict([(session, OBSERVATION)])
        assert isinstance(answer, Prediction)


def test_an_address_that_answers_nobody() -> None:
    with socket.socket() as closed:
        closed.bind(('127.0.0.1', 0))
        port = closed.getsockname()[1]
        with pytest.raises(PolicyError, match='Connection refused'):
            inspect(PolicyRequest(f'http://127.0.0.1:{port}/act', unnorm_key='bridge_orig'))
