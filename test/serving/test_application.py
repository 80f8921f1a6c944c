# SPDX-License-Identifier: Apache-2.0
"""Who may connect, what ends a connection, and frames from a hostile client."""

from __future__ import annotations

import ast
import asyncio
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.fakes import FakePolicy, Gate
from support.golden import CASES, picture
from support.places import GOLDEN, ROOT
from support.serving import (
    NOISE,
    OPENPI,
    Websocket,
    a_request,
    asked,
    connected,
    eventually,
    of_fake,
    of_model,
    running,
)
from vla_ros.policies import PolicyRequest, load_policy
from vla_ros.serving.access import Access
from vla_ros.serving.application import Application
from vla_ros.serving.connection import HarnessSpeaker, OpenpiSpeaker
from vla_ros.serving.replica import ServedSession
from vla_ros.serving.text import without_paths
from vla_ros.serving.vla_eval import Harness
from vla_ros.types import Observation, all_predicted, invalid_reason
from vla_ros.wire import Request, WireError, pack, pack_body, read_reply, request_map, unpack_body

TOKEN = 'a-token-of-some-length'


@pytest.mark.parametrize(
    ('token', 'headers', 'status'),
    [
        (TOKEN, {}, 401),
        (TOKEN, {'Authorization': 'Bearer another-token-here'}, 401),
        (TOKEN, {'Authorization': f'Basic {TOKEN}'}, 401),
        (TOKEN, {'Authorization': f'Bearer {TOKEN}'}, 200),
        (TOKEN, {'Authorization': f'Api-Key {TOKEN}'}, 200),  # openpi's client
        (TOKEN, {'Authorization': f'Bearer {TOKEN}', 'Origin': 'https://robot.example'}, 200),
        ('', {}, 200),
        ('', {'Origin': 'https://evil.example'}, 403),
    ],
)
def test_who_may_connect(token: str, headers: dict[str, str], status: int) -> None:
    async def run() -> None:
        async with running(of_model('scripted')) as replica:
            access = Access.with_token(token) if token else Access()
            application = Application(replica, access)
            assert TOKEN.encode() not in access.digest
            client = Websocket(application, headers=headers)
            event = await client.event()
            if status == 200:
                assert event['type'] == 'websocket.accept'
                await client.leave()
            else:  # before it is accepted
                assert event['type'] == 'websocket.http.response.start'
                assert event['status'] == status
            for method, path in (('POST', '/act'), ('GET', '/metadata'), ('GET', '/status')):
                assert (await asked(application, method, path, b'{}', headers))[0] == status
            for path in ('/healthz', '/health'):
                assert (await asked(application, 'GET', path, b'', headers))[0] == 200
            turned_away = 0 if status == 200 else 4
            assert replica.counters.unauthorized + replica.counters.foreign == turned_away

    asyncio.run(run())


def test_a_mistake_of_ours_ends_the_connection_and_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server's log has it then; without a word a client would only see that it is cut off."""
    monkeypatch.setattr(OpenpiSpeaker, 'hear', lambda *_: 1 / 0)

    async def run() -> None:
        async with running(of_model('scripted')) as replica:
            client = Websocket(Application(replica))
            await client.accepted()
            await client.told()
            client.send(OPENPI)
            with pytest.raises(ZeroDivisionError):
                await client.task
            assert replica.served().sessions_free == replica.limits.max_sessions

    asyncio.run(run())


def test_health_metadata_and_status() -> None:
    async def run() -> None:
        async with running(of_model('scripted:changed@1')) as replica:
            application = Application(replica)
            assert await asked(application, 'GET', '/healthz') == (200, b'OK\n')
            assert await asked(application, 'GET', '/health') == (200, b'{"status": "ok"}')
            _, metadata = await asked(application, 'GET', '/metadata')
            assert json.loads(metadata)['vla_ros']['self_checked'] is True
            assert (await asked(application, 'GET', '/nothing'))[0] == 404
            async with connected(application) as client:
                assert isinstance(await client.ask(OPENPI), str)
                await eventually(lambda: replica.phase == 'failed')
            status = json.loads((await asked(application, 'GET', '/status'))[1])
            assert status['phase'] == 'failed' and status['counters']['failed'] == 1
            assert (await asked(application, 'GET', '/healthz'))[0] == 503

    asyncio.run(run())


def test_a_full_server() -> None:
    async def run() -> None:
        async with running(of_model('scripted'), max_sessions=1) as replica:
            application = Application(replica)
            async with connected(application):
                client = Websocket(application)
                await client.accepted()
                assert await client.closed() == 1013
                body = pack_body({'image': NOISE, 'instruction': 'x'})
                assert (await asked(application, 'POST', '/act', body))[0] == 503
            assert replica.counters.full == 2
            async with connected(application) as again:  # the session is free again
                assert 'actions' in await again.ask(OPENPI)

    asyncio.run(run())


def test_frames_are_answered_in_their_order_and_the_newest_wins() -> None:
    gate = Gate()

    async def run() -> None:
        async with (
            running(of_fake(policy := FakePolicy(gate))) as replica,
            connected(Application(replica)) as client,
        ):
            for text in ('one', 'two', 'three'):
                client.send(request_map(a_request(text)))
                await eventually(lambda: len(policy.batches) == 1)
            await eventually(lambda: replica.counters.requests == 3)
            gate.open()
            gate.open()
            replies = [await client.told() for _ in range(3)]
            assert [one.get('vla_ros/error', {}).get('kind') for one in replies] == [
                None,
                'superseded',
                None,
            ]
            assert policy.batches == [['one'], ['three']]

    asyncio.run(run())


def test_a_client_that_leaves_or_floods_stops_its_inference() -> None:
    gate = Gate()

    async def run() -> None:
        async with running(of_fake(policy := FakePolicy(gate))) as replica:
            application = Application(replica)
            for ends in ('leave', 'flood', 'cancel'):
                async with connected(application) as client:
                    client.send(OPENPI)
                    assert await asyncio.to_thread(gate.entered.acquire, timeout=20)
                    if ends == 'flood':
                        for _ in range(8):
                            client.send(OPENPI)
                        assert await client.closed() == 1008
                    elif ends == 'cancel':  # as Ray Serve does
                        client.task.cancel()
                        await asyncio.wait([client.task])
                        client.task = asyncio.ensure_future(asyncio.sleep(0))
                await eventually(policy.cancels[-1].is_set)
            assert replica.counters.flooding == 1
            assert replica.served().sessions_free == replica.limits.max_sessions

    asyncio.run(run())


@pytest.mark.parametrize('frame', [b'', b'\xc1', pack([1]), pack({'a': 1})[:-1], b'\x80' * 3])
def test_a_frame_of_no_dialect_ends_the_connection(frame: bytes) -> None:
    async def run() -> None:
        async with running(of_model('scripted')) as replica:
            async with connected(Application(replica)) as client:
                client.send(frame)
                assert 'Traceback' not in await client.told()
                assert await client.closed() == 1003
            assert replica.counters.malformed == 1

    asyncio.run(run())


def mutated(choose: random.Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(choose.randrange(1, 4)):
        place = choose.randrange(len(data) or 1)
        kind = choose.randrange(4)
        if kind == 0 and data:
            data[place] = choose.randrange(256)
        elif kind == 1:
            del data[place : place + choose.randrange(1, 30)]
        elif kind == 2:
            data[place:place] = bytes(choose.randrange(256) for _ in range(choose.randrange(1, 9)))
        else:
            data[place : place + 5] = b'\xdd\xff\xff\xff\xff'  # a list of four billion
    return bytes(data)


def test_hostile_frames() -> None:
    """10,000 of them: each is a request, an answer that is an error, or WireError."""
    small = {'observation/image': NOISE[:2, :2], 'prompt': 'x'}
    example = {'image': [NOISE[:2, :2]], 'lang': 'x'}
    observed = {'images': {'a': NOISE[:2, :2]}, 'task_description': 'x'}
    frames = {
        '/': [
            small,
            {**small, 'endpoint': 'infer'},
            {'examples': [example]},
            request_map(a_request('x', budget_s=1.0)),
        ],
        '/v1/realtime/robot/openpi': [small],
        '/vla-eval': [{'type': 'observation', 'payload': observed, 'seq': 1, 'timestamp': 0.0}],
    }
    choose = random.Random(0)

    class Taker(ServedSession):
        def __init__(self) -> None:
            self.requests = 0

        def ask(self, request: Request) -> Any:
            self.requests += 1
            return asyncio.get_running_loop().create_future()

        def reset(self) -> None:
            pass

    async def run() -> None:
        async with running(of_model('scripted')) as replica:
            taker, malformed = Taker(), 0
            speakers = {
                path: OpenpiSpeaker(replica, {}, path) for path in frames if path != '/vla-eval'
            }
            speakers['/vla-eval'] = HarnessSpeaker(replica, Harness(replica.served(), {}, {}))
            packed = [(path, pack(one)) for path, some in frames.items() for one in some]
            for path, frame in packed:
                speakers[path].hear(frame, taker)
            assert taker.requests == len(packed)
            for _ in range(10_000):
                path, frame = choose.choice(packed)
                try:
                    speakers[path].hear(mutated(choose, frame), taker)
                except WireError:
                    malformed += 1
            assert malformed > 5_000 and taker.requests > 500

    asyncio.run(run())


def test_bodies_that_are_too_large_or_hostile() -> None:
    async def run() -> None:
        async with running(of_model('scripted')) as replica:
            application = Application(replica)
            for body in (bytes(24_000_001), b'[' * 100_000, b'{"image": {"__numpy__": 1}}'):
                assert await asked(application, 'POST', '/act', body) == (200, b'"error"')
            assert replica.counters.malformed == 3

    asyncio.run(run())


def test_nothing_in_these_rooms_imports_pickle() -> None:
    for room in ('serving', 'wire'):
        for file in (ROOT / 'vla_ros' / room).rglob('*.py'):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in getattr(node, 'names', []) or []]
                names.append(getattr(node, 'module', '') or '')
                words = {word for name in names for word in name.split('.')}
                assert not words & {'pickle', 'cloudpickle', 'dill', 'marshal', 'shelve'}, file


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('/home/robot/models/x.safetensors has changed', '<path> has changed'),
        ("no file '~/a/b', see ./c", "no file '<path>', see <path>"),
        ('move and/or lift 1/2', 'move and/or lift 1/2'),
        (r'C:\models\x is gone', '<path> is gone'),
    ],
)
def test_clients_learn_no_paths(text: str, expected: str) -> None:
    assert without_paths(text) == expected


def test_served_equals_in_process_on_every_golden_case() -> None:
    """Token ids and float64 actions, by our dialect, openpi's and /act."""

    async def one_checkpoint(name: str) -> None:
        folder: Path = GOLDEN / name
        options = {'device': 'cpu', 'dtype': 'float32'}
        policy = load_policy(PolicyRequest(model=str(folder), **options))
        cases = [case for own, case in CASES.values() if own == name]
        async with running(of_model(str(folder), 1, **options), max_sessions=2) as replica:
            application = Application(replica)
            assert str(folder) not in json.dumps(replica.served().to_metadata())
            for case in cases:
                image, words, key = picture(case), case['instruction'], case['unnorm_key']
                observation = Observation.of_one(image, words, 0)
                (expected,) = all_predicted(policy.predict([(policy.session(key), observation)]))
                async with connected(application) as client:
                    ours = read_reply(await client.ask(request_map(Request(observation, key))))
                    theirs = await client.ask({'image': image, 'prompt': words, 'unnorm_key': key})
                assert ours.tokens is not None and expected.tokens is not None
                assert np.array_equal(ours.tokens.ids, expected.tokens.ids)
                assert ours.actions.dtype == np.float64
                assert np.array_equal(ours.actions, expected.actions, equal_nan=True)
                if invalid_reason(expected, policy.spec(key)) is not None:
                    assert ours.invalid is not None
                    assert isinstance(theirs, str)
                    continue
                assert np.array_equal(theirs['actions'], expected.actions)
            body = {'image': image, 'instruction': words, 'unnorm_key': key}
            _, reply = await asked(application, 'POST', '/act', pack_body(body))
            assert reply == b'"error"' or np.array_equal([unpack_body(reply)[0]], expected.actions)
        policy.close()

    for name in sorted({name for name, _ in CASES.values()}):
        asyncio.run(one_checkpoint(name))
