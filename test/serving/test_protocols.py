# SPDX-License-Identifier: Apache-2.0
"""What each protocol asks and is answered, through the application without a network."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from support.serving import NOISE, OPENPI, a_request, asked, connected, of_model, running
from vla_ros.motion import load_contracts
from vla_ros.policies import PolicyRequest, load_policy
from vla_ros.serving.application import Application
from vla_ros.serving.inputs import observation_of, read_keys
from vla_ros.serving.vla_eval import closing_positive
from vla_ros.types import ActionSpace, PolicySpec, Prediction, all_predicted, unknown_names
from vla_ros.wire import (
    ServedPolicy,
    WireError,
    encoded_image,
    is_ours,
    pack_body,
    read_reply,
    request_map,
    unpack_body,
)

OPENVLA = {'image': NOISE, 'instruction': 'pick up the cup'}
TWO = 'scripted:cameras=2,state=3,chunk=2'


async def spoken(path: str, *messages: Any, model: str = 'scripted', keys: str = '') -> list[Any]:
    """The replies to messages of one client."""
    async with running(of_model(model)) as replica:
        application = Application(replica, keys=read_keys(keys))
        async with connected(application, path) as client:
            return [await client.ask(message) for message in messages]


def first_actions(rows: int = 1) -> np.ndarray:
    """What the script gives to the first call, in process."""
    policy = load_policy(PolicyRequest(model=f'scripted:chunk={rows}'))
    (answer,) = all_predicted(policy.predict([(policy.session(), a_request().observation)]))
    return answer.actions


def test_openpi() -> None:
    async def run() -> None:
        async with running(of_model('scripted:nan@3')) as replica:
            async with connected(Application(replica)) as client:
                first, second = [await client.ask(OPENPI) for _ in range(2)]
                assert np.array_equal(first['actions'], first_actions())
                assert first['actions'].dtype == np.float64
                assert set(first['server_timing']) == {'infer_ms'}
                assert set(second['server_timing']) == {'infer_ms', 'prev_total_ms'}
                wrong = await client.ask(OPENPI)  # never an action that must not move a robot
                assert isinstance(wrong, str) and 'not finite' in wrong
                assert await client.closed() == 1011
            assert replica.counters.invalid == 1

    asyncio.run(run())


def test_ours_loses_nothing_and_stays_open_after_an_error() -> None:
    async def run() -> None:
        async with (
            running(of_model('scripted:refuse@1,invalid@3')) as replica,
            connected(Application(replica)) as client,
        ):
            served = ServedPolicy.from_metadata(client.metadata)
            assert served.self_checked and served.identity
            assert served.sessions_free == replica.limits.max_sessions - 1
            message = request_map(a_request())
            error, reply, invalid = [await client.ask(message) for _ in range(3)]
            assert error['vla_ros/error']['kind'] == 'instruction'
            prediction = read_reply(reply)
            assert prediction.tokens is not None and prediction.tokens.ids.size == 7
            assert read_reply(invalid).invalid is not None
            missing = await client.ask({'vla_ros/images': {}, 'prompt': 1})
            assert missing['vla_ros/error']['kind'] == 'request'

    asyncio.run(run())


def test_roboarena() -> None:
    obs = {**OPENPI, 'session_id': 'x'}
    reset, reply, wrong = asyncio.run(
        spoken('/', {'endpoint': 'reset'}, {**obs, 'endpoint': 'infer'}, {'endpoint': 'infer'})
    )
    assert reset == 'reset successful'
    assert np.array_equal(reply, first_actions())
    assert isinstance(wrong, str)


def test_vllm_omni() -> None:
    path = '/v1/realtime/robot/openpi'
    reset, wrong, reply = asyncio.run(
        spoken(path, {'endpoint': 'reset'}, {'prompt': 'no image'}, OPENPI)
    )
    assert reset == {'status': 'reset successful'}
    assert wrong['type'] == 'error' and 'image' in wrong['message']
    assert reply.dtype == np.float32
    assert np.array_equal(reply, first_actions().astype(np.float32))


def test_starvla() -> None:
    example = {'image': [NOISE, NOISE], 'lang': 'pick up', 'state': [1.0, 2.0, 3.0]}
    ping, flat, wrapped, wrong = asyncio.run(
        spoken(
            '/',
            {'type': 'ping', 'request_id': 'a'},
            {'examples': [example]},
            {'type': 'infer', 'request_id': 'b', 'payload': {'examples': [example]}},
            {'examples': [example, example]},
            model=TWO,
        )
    )
    assert ping == {'status': 'ok', 'ok': True, 'type': 'ping', 'request_id': 'a'}
    assert flat['data']['actions'].shape == (1, 2, 7)
    assert np.array_equal(flat['data']['actions'][0], first_actions(rows=2))
    assert wrapped['request_id'] == 'b' and wrapped['ok']
    assert not wrong['ok'] and 'one robot' in wrong['error']['message']


@pytest.mark.parametrize('double', [False, True])
def test_act_of_openvla(double: bool) -> None:
    body = pack_body(OPENVLA)
    body = json.dumps({'encoded': body.decode()}).encode() if double else body

    async def run() -> None:
        async with running(of_model('scripted:raise@2')) as replica:
            application = Application(replica)
            status, reply = await asked(application, 'POST', '/act', body)
            action, was_double = unpack_body(reply)
            assert (status, was_double) == (200, double)
            assert np.array_equal(action, first_actions()[0])
            for wrong in (body, b'{}', b'no JSON', pack_body({'instruction': 'no image'})):
                assert await asked(application, 'POST', '/act', wrong) == (200, b'"error"')
            assert replica.counters.malformed == 3
            assert replica.served().sessions_free == replica.limits.max_sessions

    asyncio.run(run())


def test_act_of_oft() -> None:
    wrist = {'left_wrist': NOISE, 'right_wrist': NOISE}
    body = {'full_image': NOISE, **wrist, 'state': np.zeros(3), 'instruction': 'fold'}

    async def run() -> None:
        async with running(of_model('scripted:chunk=2')) as replica:
            one = {key: body[key] for key in ('full_image', 'instruction')}
            _, reply = await asked(Application(replica), 'POST', '/act', pack_body(one))
            rows, _ = unpack_body(reply)
            assert isinstance(rows, list)
            assert np.array_equal(rows, first_actions(rows=2))

    asyncio.run(run())


def test_vla_eval() -> None:
    def message(kind: str, seq: int, **payload: Any) -> dict[str, Any]:
        return {'type': kind, 'payload': payload, 'seq': seq, 'timestamp': 0.0}

    observed = {'images': {'agentview': encoded_image(NOISE, 'png')}, 'task_description': 'lift'}

    async def run() -> None:
        async with (
            running(of_model('scripted:chunk=2')) as replica,
            connected(Application(replica), '/vla-eval') as client,
        ):
            hello = await client.ask(message('hello', 1, protocol_version=1))
            assert hello['type'] == 'hello' and hello['payload']['protocol_version'] == 1
            client.send(message('episode_start', 2, task={}, mode='sync'))
            replies = [
                await client.ask(message('observation', seq, **observed)) for seq in (3, 4, 5)
            ]
            assert [one['seq'] for one in replies] == [3, 4, 5]
            sent = [one['payload']['actions'] for one in replies]
            assert np.array_equal(sent[:2], first_actions(rows=2))  # one row a step
            assert replica.counters.requests == 2
            client.send(message('episode_end', 6, success=True))
            wrong = await client.ask(message('observation', 7, images={}))
            assert wrong['type'] == 'error' and wrong['seq'] == 7
            assert (await client.ask(message('observation', 8, **observed)))['type'] == 'action'

    asyncio.run(run())


def test_vla_eval_closes_a_gripper_with_one() -> None:
    contracts = load_contracts()
    for closed, expected in ((0.0, 1.0), (1.0, -1.0), (0.6, -1.0)):
        actions = np.full((2, 7), closed)
        turned = closing_positive(Prediction(actions, 'bridge_orig'), contracts)
        assert np.array_equal(turned[:, -1], [expected, expected])
        assert np.array_equal(turned[:, :-1], actions[:, :-1])
        assert np.array_equal(closing_positive(Prediction(actions, 'other'), contracts), actions)


def spec(*cameras: str, state_dim: int = 0) -> PolicySpec:
    space = ActionSpace.UNKNOWN
    return PolicySpec(cameras, state_dim, 7, 1, space, unknown_names(7), None, False, True)


def images(**named: int) -> dict[str, np.ndarray]:
    return {
        name.replace('__', '/'): np.full((2, 3, 3), value, np.uint8)
        for name, value in named.items()
    }


@pytest.mark.parametrize(
    ('cameras', 'keys', 'given', 'expected'),
    [
        (['image'], '', images(cam_high=1), [1]),
        (['image'], '', images(observation__image=1, observation__wrist_image=2), [1]),
        (['image', 'wrist_image'], '', images(observation__wrist_image=2, base=1), [1, 2]),
        (['image', 'left_wrist', 'right_wrist'], '', images(left_wrist=2, right_wrist=3, x=1), 0),
        (['image'], 'image=b', images(a=1, b=2), [2]),
        (['a', 'b'], '', images(b=2, a=1), [1, 2]),
        (['a', 'b'], 'a=x,b=y', images(x=1, y=2), [1, 2]),
    ],
)
def test_which_key_is_which_camera(
    cameras: list[str], keys: str, given: dict[str, Any], expected: Any
) -> None:
    found = observation_of({**given, 'prompt': 'x'}, spec(*cameras), read_keys(keys), 5)
    values = [int(found.images[camera][0, 0, 0]) for camera in cameras]
    assert values == (expected or [1, 2, 3])
    assert set(found.stamps_ns.values()) == {5}


@pytest.mark.parametrize(
    ('cameras', 'keys', 'given'),
    [
        (['image'], '', images(a=1, b=2)),
        (['image'], '', images(wrist=1)),
        (['image', 'wrist_image'], '', images(a=1)),
        (['image', 'left_wrist', 'right_wrist'], '', images(x=1, a_wrist=2, b_wrist=3)),
        (['image'], 'image=c', images(a=1)),
        (['image'], '', {'image': np.zeros((4, 4, 3), np.float32)}),
        (['image'], '', {'image': np.zeros((4, 4), np.uint8)}),
        (['image'], '', {'image': 'text'}),
    ],
)
def test_a_camera_is_not_guessed(cameras: list[str], keys: str, given: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        observation_of({**given, 'prompt': 'x'}, spec(*cameras), read_keys(keys), 0)


def test_state_and_instruction() -> None:
    needs = spec('image', state_dim=3)
    base = {'image': NOISE, 'prompt': 'x'}
    joints = {'observation/joint_position': np.ones(2), 'observation/gripper_position': 0.5}
    for given, keys in (
        ({'observation/state': np.array([1, 1, 0.5])}, ''),
        (joints, ''),
        ({'a': [1, 1], 'b': 0.5}, 'state=a+b'),
        ({'states': np.array([[1, 1, 0.5]])}, ''),
    ):
        state = observation_of({**base, **given}, needs, read_keys(keys), 0).state
        assert state is not None and state.tolist() == [1, 1, 0.5]
    for wrong in ({}, {'state': np.ones(4)}, {'state': np.array([1, np.nan, 1])}, {'state': 'x'}):
        with pytest.raises(WireError):
            observation_of({**base, **wrong}, needs, {}, 0)
    with pytest.raises(WireError, match='instruction'):
        observation_of({'image': NOISE}, spec('image'), {}, 0)
    chw = {**base, 'image': NOISE.transpose(2, 0, 1)}
    assert np.array_equal(observation_of(chw, spec('image'), {}, 0).image, NOISE)


@pytest.mark.parametrize('text', ['image', 'image=', '=x', 'image=a+b', 'a=b,c'])
def test_keys_that_say_nothing(text: str) -> None:
    with pytest.raises(WireError):
        read_keys(text)


def test_metadata_of_every_dialect() -> None:
    async def run() -> None:
        async with running(of_model(TWO)) as replica, connected(Application(replica)) as client:
            told = client.metadata
            assert is_ours(told)
            assert told['action_chunk_size'] == 2
            assert told['n_external_cameras'] == 2 and told['needs_wrist_camera'] is False

    asyncio.run(run())
