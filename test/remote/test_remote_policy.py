# SPDX-License-Identifier: Apache-2.0
"""A server's policy under the real worker: each failure of server and network, and what follows."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.fakes import wait_until
from support.servers import CERTIFICATE, SERVED, FakeServer, answer, fake_server, reply
from vla_ros.clock import SystemClock
from vla_ros.policies import PolicyRequest, inspect, kind_of, load_policy, resolve
from vla_ros.reasons import Reason
from vla_ros.remote.kind import Remote
from vla_ros.scheduling import Deadline, InferenceWorker, Phase, Result, WorkerLimits
from vla_ros.scheduling.result import Outcome
from vla_ros.serving.ports import free_port
from vla_ros.types import (
    InferenceCancelled,
    Invalid,
    Observation,
    PolicyError,
    Progress,
    all_predicted,
)
from vla_ros.wire import ServerError, error_map, pack

TOKEN = '0123456789abcdef'
LIMITS = WorkerLimits(max_image_age_s=30.0, inference_timeout_s=20.0, hang_timeout_s=60.0)
IMAGE = np.zeros((8, 10, 3), np.uint8)
ROW = np.zeros((1, 7))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine an attempt to connect takes long, too; tests count the attempts."""
    monkeypatch.setattr('vla_ros.remote.server._PATIENCE_S', 60.0)


class Bench:
    """A worker that owns the policy of a server."""

    def __init__(self, model: str, robots: int = 1, **request: Any) -> None:
        self.clock = SystemClock()
        self.said: list[str] = []
        asked = PolicyRequest(model, unnorm_key='fake', **request)

        def build(progress: Any) -> Any:
            def report(step: Progress) -> None:
                self.said.append(step.text)
                progress(step)

            self.policy: Any = load_policy(asked, robots, report)
            return self.policy

        self.worker = InferenceWorker(build, LIMITS, self.clock, 'fake', sources=robots)
        self.worker.start()

    def wait_for(self, phase: Phase) -> None:
        def reached() -> bool:
            status = self.worker.status()
            assert status.failure is None or phase is Phase.FAILED, status.failure
            return status.phase is phase

        wait_until(reached, 20)

    def submit(self, source: int = 0) -> None:
        observation = Observation.of_one(IMAGE, 'push', self.clock.now_ns())
        self.worker.submit(observation, source)

    def infer(self, source: int = 0) -> Result:
        self.submit(source)
        return self.result()

    def result(self) -> Result:
        found: list[Result] = []

        def come() -> bool:
            found.extend(filter(None, [self.worker.next_result()]))
            return bool(found)

        wait_until(come, 20)
        return found[0]

    def wait_until_lost(self) -> None:
        """Until the client knows that its connections have ended."""
        wait_until(lambda: not any(one.is_open for one in self.policy._connections), 20)

    def failure(self, reason: Reason) -> str:
        """The message of the failure that ended it, which must have this reason."""
        self.wait_for(Phase.FAILED)
        cause = self.worker.status().failure
        assert cause is not None and cause.reason is reason
        return cause.message


@contextlib.contextmanager
def bench(model: str, **options: Any) -> Iterator[Bench]:
    one = Bench(model, **options)
    try:
        yield one
    finally:
        assert one.worker.close(10)
    wait_until(lambda: 'vla-remote' not in {one.name for one in threading.enumerate()})


@contextlib.contextmanager
def ready(**options: Any) -> Iterator[tuple[Bench, FakeServer]]:
    """A warm policy and its server."""
    with fake_server() as server, bench(server.url, **options) as one:
        one.wait_for(Phase.READY)
        server.requests.clear()
        yield one, server


async def silence(connection: Any, request: Any) -> None:
    """As of a process that is stopped: it reads nothing more."""
    connection.transport.pause_reading()
    await asyncio.sleep(60)


def test_a_servers_policy_answers() -> None:
    with ready() as (one, server):
        status = one.worker.status()
        assert status.info is not None and status.info.model == f'{server.url} (tiny)'
        assert status.spec == SERVED.specs['fake'] and status.unnorm_key == 'fake'
        result = one.infer()
        prediction = result.predicted()
        assert prediction.actions.tolist() == [[0.5] * 7] and prediction.unnorm_key == 'fake'
        assert prediction.tokens is not None and prediction.timings['round_trip'] > 0
        [request] = server.requests
        assert request['prompt'] == 'push' and request['unnorm_key'] == 'fake'
        assert np.array_equal(request['vla_ros/images']['image'], IMAGE)
        assert 0 < request['vla_ros/budget_ms'] <= 20_000
        assert len(server.connections) == 1  # the one of the warm-up
        one.worker.reset()
        one.infer()
        one.infer()
        assert [each.get('vla_ros/reset', False) for each in server.requests] == [True, True, False]


def test_each_robot_has_a_connection() -> None:
    with ready(robots=3) as (one, server):
        assert len(server.connections) == 3
        release, all_here = asyncio.Event(), asyncio.Event()

        async def hold(connection: Any, request: Any) -> None:
            await release.wait()
            server.act = together
            await answer(connection, request)

        async def together(connection: Any, request: Any) -> None:
            if len(server.requests) == 4:
                all_here.set()
            await all_here.wait()
            await answer(connection, request)

        server.act = hold
        one.submit()
        wait_until(lambda: len(server.requests) == 1, 20)
        for source in range(3):  # they wait together, and so are one batch
            one.submit(source)
        server.call(release.set)
        results = [one.result() for _ in range(4)]
        assert {result.outcome for result in results} == {Outcome.PREDICTED}


def test_the_error_of_one_robot_is_its_own() -> None:
    with ready(robots=2) as (one, server):
        bad: list[Any] = []

        async def one_fails(connection: Any, request: Any) -> None:
            if not bad:
                bad.append(connection)
            if connection is bad[0]:
                await connection.close(1011)
            else:
                await answer(connection, request)

        server.act = one_fails
        one.submit(0)
        one.submit(1)
        outcomes = {one.result().outcome, one.result().outcome}
        assert outcomes == {Outcome.FAILED, Outcome.PREDICTED}


def test_no_server_at_the_start() -> None:
    port = free_port()
    with bench(f'ws://localhost:{port}') as one:
        wait_until(lambda: any('refused' in text.lower() for text in one.said), 20)
        assert one.worker.status().phase is Phase.LOADING
        progress = one.worker.status().progress
        assert progress is not None and progress.total == 0
        assert progress.text.startswith(f'waits for ws://localhost:{port}: ')
        with fake_server(port=port):
            one.wait_for(Phase.READY)
            assert one.infer().outcome is Outcome.PREDICTED


def test_a_wait_for_a_server_can_be_ended() -> None:
    with bench(f'ws://localhost:{free_port()}') as one:
        wait_until(lambda: bool(one.said), 20)
    assert one.worker.status().phase is Phase.CLOSED


def test_a_full_server_is_waited_for_and_named() -> None:
    with fake_server() as server:
        server.close_first = (1013, 'no session free')
        with bench(server.url) as one:
            wait_until(lambda: any('is full (1013' in text for text in one.said), 20)
            server.close_first = None
            one.wait_for(Phase.READY)
            server.close_first = (1013, '')
            server.kill_all()
            one.wait_until_lost()
            server.handshakes, began_s = 0, time.monotonic()
            results = [one.infer() for _ in range(30)]
            assert all('is full' in str(result.error) for result in results)
            assert server.handshakes <= 1 + (time.monotonic() - began_s)  # no storm


def test_a_killed_server_costs_one_inference() -> None:
    with ready() as (one, server):

        async def die(connection: Any, request: Any) -> None:
            connection.transport.abort()

        server.act = die
        result = one.infer()
        assert result.outcome is Outcome.FAILED and 'is lost' in str(result.error)
        server.act = answer
        assert one.infer().outcome is Outcome.PREDICTED
        assert len(server.connections) == 2
        server.kill_all()  # while it is idle: noticed, so that it costs nothing
        one.wait_until_lost()
        assert one.infer().outcome is Outcome.PREDICTED
    with ready() as (one, server):
        port = server.port
        server.stop()
        result = one.infer()
        assert result.outcome is Outcome.FAILED
        with fake_server(port=port):
            wait_until(lambda: one.infer().outcome is Outcome.PREDICTED, 20)


def test_a_restart_while_idle_costs_nothing() -> None:
    with ready() as (one, server):
        server.close_all(1012, 'update')
        one.wait_until_lost()
        assert one.infer().outcome is Outcome.PREDICTED
        assert len(server.connections) == 2


def test_a_restart_during_an_inference_costs_nothing_once() -> None:
    """The request is asked again, with the time that is left; if that fails as well, it fails."""
    with ready() as (one, server):
        restarts = 1

        async def restart(connection: Any, request: Any) -> None:
            nonlocal restarts
            restarts -= 1
            if restarts >= 0:
                await connection.close(1012, 'update')
            else:
                await answer(connection, request)

        server.act = restart
        assert one.infer().outcome is Outcome.PREDICTED
        first, second = server.requests
        assert second['vla_ros/budget_ms'] < first['vla_ros/budget_ms']
        restarts = 2
        assert 'restarts (1012 update)' in str(one.infer().error)
        assert one.infer().outcome is Outcome.PREDICTED


def test_a_stopped_replica_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that is accepted and not answered has others beside it; the first one is taken."""
    monkeypatch.setattr('vla_ros.remote.server._PATIENCE_S', 0.05)
    with ready() as (one, server):
        server.ignored = 2
        server.kill_all()
        one.wait_until_lost()
        known = len(server.connections)
        assert one.infer().outcome is Outcome.PREDICTED
        assert len(server.connections) == known + 3
        wait_until(lambda: server.open_connections == 1, 20)
        assert one.infer().outcome is Outcome.PREDICTED
        assert len(server.connections) == known + 3


def test_a_stopped_server_is_late_and_its_answer_is_never_read() -> None:
    with ready() as (one, server):
        late: list[Any] = []

        async def later(connection: Any, request: Any) -> None:
            late.append(connection)
            connection.transport.pause_reading()
            await asyncio.sleep(0.5)
            await connection.send(reply(0.25))

        server.act = later
        one.worker.adjust(replace(LIMITS, inference_timeout_s=0.1))
        one.submit()
        deadlines = set()

        def watched() -> bool:
            deadlines.add(one.worker.enforce_deadline())
            return Deadline.MISSED in deadlines

        wait_until(watched, 20)
        assert one.result().outcome is Outcome.OVERRUN
        server.act = answer
        one.worker.adjust(LIMITS)
        for _ in range(3):
            assert one.infer().predicted().action[0] == 0.5
            time.sleep(0.2)
        assert Deadline.HUNG not in deadlines and len(server.connections) == 2


def test_an_idle_connection_that_is_half_open_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('vla_ros.remote.websocket._PING_S', 0.1)
    with ready() as (one, server):
        server.pause_all()
        one.wait_until_lost()
        known = len(server.connections)
        # On a slow machine pings of a sound connection are late, too.
        wait_until(lambda: one.infer().outcome is Outcome.PREDICTED, 20)
        assert len(server.connections) > known


def test_a_policy_is_closed_while_the_server_is_stopped() -> None:
    with ready() as (one, server):
        server.act = silence
        one.submit()
        wait_until(lambda: bool(server.requests), 20)  # and the exit of ready() is bounded


def test_frames_that_nobody_asked_for_are_never_read_as_an_answer() -> None:
    with ready() as (one, server):

        async def twice(connection: Any, request: Any) -> None:
            await connection.send(reply(0.5))
            await connection.send(reply(0.25))

        server.act = twice
        for _ in range(3):
            result = one.infer()
            one.wait_until_lost()
            assert result.predicted().action[0] == 0.5
        assert len(server.connections) == 3


def test_a_wrong_token_ends_the_loading_without_a_storm(tmp_path: Path) -> None:
    file = tmp_path / 'token'
    file.write_text(TOKEN)
    with fake_server() as server:
        server.token = 'another token of it'
        with bench(server.url, remote_token_file=str(file)) as one:
            assert 'rejects the token (401)' in one.failure(Reason.SERVER_REFUSED)
        assert TOKEN not in one.failure(Reason.SERVER_REFUSED) and server.handshakes == 1
        server.token = TOKEN
        with bench(server.url, remote_token_file=str(file)) as one:
            one.wait_for(Phase.READY)
            server.token = 'another token of it'
            server.kill_all()
            one.wait_until_lost()
            assert one.infer().outcome is Outcome.FAILED
            assert 'rejects the token (401)' in one.failure(Reason.SERVER_REFUSED)
        assert server.handshakes == 3
    with bench('ws://localhost:1', remote_token_file=str(tmp_path / 'none')) as one:
        assert 'does not exist' in one.failure(Reason.LOADING_FAILED)


def test_another_model_after_a_reconnection_is_an_error() -> None:
    with ready() as (one, server):
        server.metadata = replace(SERVED, identity='2').to_metadata()
        server.kill_all()
        one.wait_until_lost()
        assert one.infer().outcome is Outcome.FAILED
        assert 'another policy than before: identity was 1 and is 2' in one.failure(
            Reason.CHECKPOINT_CHANGED
        )


def test_certificates_are_checked(caplog: pytest.LogCaptureFixture) -> None:
    with fake_server(tls=True) as server:
        with bench(server.url) as one:
            message = one.failure(Reason.SERVER_REFUSED)
            assert 'remote_ca_file' in message and 'cannot be trusted' in message
        trusted = {'remote_ca_file': str(CERTIFICATE)}
        with bench(server.url, **trusted) as one:
            one.wait_for(Phase.READY)
            assert one.infer().outcome is Outcome.PREDICTED
        assert not caplog.text
        with bench(server.url.replace('wss', 'ws')) as one:
            wait_until(lambda: len(one.said) > 2, 20)
            assert one.worker.status().phase is Phase.LOADING
        with bench(server.url, remote_ca_file=__file__) as one:
            assert 'has no certificates' in one.failure(Reason.LOADING_FAILED)


@pytest.mark.parametrize(
    ('frame', 'kind'),
    [
        (reply(float('nan')), Invalid.NOT_FINITE),
        (reply(3.0), Invalid.OUT_OF_BOUNDS),
        (pack({'actions': np.zeros((1, 6)), 'unnorm_key': 'fake', 'valid': True}), Invalid.SHAPE),
        (pack({'actions': np.zeros((2, 7)), 'unnorm_key': 'fake', 'valid': True}), Invalid.SHAPE),
        (pack({'actions': ROW, 'unnorm_key': 'fake', 'valid': False}), Invalid.BY_POLICY),
    ],
    ids=['nan', 'bounds', 'columns', 'rows', 'said'],
)
def test_actions_that_are_not_valid_are_for_the_gate(frame: bytes, kind: Invalid) -> None:
    with ready() as (one, server):

        async def act(connection: Any, request: Any) -> None:
            await connection.send(frame)

        server.act = act
        invalid = one.infer().predicted().invalid
        assert invalid is not None and invalid.kind is kind


@pytest.mark.parametrize(
    ('frame', 'text'),
    [
        (bytes(20_000_000), 'more than 16000000 bytes'),
        (b'\xc1', 'not msgpack'),
        (pack({'valid': True}), 'has no actions'),
        ('Traceback of it\n  File "/home/secret"\nValueError: shapes', 'ValueError: shapes'),
        (pack({'actions': ROW, 'unnorm_key': 'other', 'valid': True}), "data set 'other'"),
        (pack(error_map(ServerError('failed', 'out of memory'))), 'out of memory'),
        (pack(error_map(ServerError('instruction', 'too long'))), 'too long'),
    ],
    ids=['large', 'no msgpack', 'no actions', 'text', 'of others', 'error', 'instruction'],
)
def test_answers_that_are_no_actions_fail(frame: bytes | str, text: str) -> None:
    with ready() as (one, server):

        async def act(connection: Any, request: Any) -> None:
            await connection.send(frame)

        server.act = act
        result = one.infer()
        assert result.outcome is Outcome.FAILED and isinstance(result.error, PolicyError)
        assert text in str(result.error) and 'secret' not in str(result.error)
        server.act = answer
        assert one.infer().outcome is Outcome.PREDICTED


@pytest.mark.parametrize(
    'setting',
    [
        {'revision': 'main'},
        {'device': 'cpu'},
        {'dtype': 'float32'},
        {'quantization': 'int8'},
        {'compile': True},
        {'preprocessing': 'training'},
        {'rotate_180': True},
        {'recomputed_patches': 0.5},
    ],
    ids=str,
)
def test_what_is_the_servers_is_refused_by_name(setting: dict[str, Any]) -> None:
    request = PolicyRequest('ws://localhost:1', unnorm_key='libero_spatial', **setting)
    for act in (resolve, load_policy):
        with pytest.raises(PolicyError, match=next(iter(setting))):
            act(request)


def test_addresses() -> None:
    for model in ('ws://h', 'WSS://h:1', 'http://h/act', 'https://[::1]:8/x'):
        assert isinstance(kind_of(model), Remote)
        request = resolve(PolicyRequest(model))
        assert request.device == 'server' and resolve(request) == request
    for model in ('ws:/h', 'wss', 'openvla/ws', 'grpc://h'):
        assert not Remote().owns(model)
    wrong = (
        'ws://',
        'ws://h:0',
        'ws://h:99999',
        'ws://h/ü',
        'ws://h/?a=b',
        'ws://h/#x',
        'ws://h..h',
    )
    for model in wrong:
        with pytest.raises(PolicyError, match='address of a server'):
            resolve(PolicyRequest(model))
    with pytest.raises(PolicyError) as caught:
        resolve(PolicyRequest('ws://user:secret@h'))
    assert 'secret' not in str(caught.value)


def test_packages_that_only_servers_need(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('websockets.asyncio.client', 'vla_ros.remote.websocket'):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ('policy', 'server', 'rest'):
        monkeypatch.delitem(sys.modules, f'vla_ros.remote.{name}', raising=False)
    for act in (inspect, load_policy):
        with pytest.raises(PolicyError, match='pip install websockets'):
            act(PolicyRequest('ws://localhost:1'))
    assert load_policy(PolicyRequest('scripted')).info.model == 'scripted'


def test_a_server_is_inspected() -> None:
    with fake_server() as server:
        inspection = inspect(PolicyRequest(server.url))
        assert inspection is not None and inspection.folder is None
        assert inspection.unnorm_keys == ('fake',) and inspection.key('') == 'fake'
        assert inspection.spec('fake') == SERVED.specs['fake']
        assert server.url in inspection.check()
        assert inspection.needed_bytes(PolicyRequest()) is None
        with pytest.raises(PolicyError, match='fake'):
            inspection.key('other')
    with pytest.raises(PolicyError, match='no connection'):
        inspect(PolicyRequest(server.url))


def test_images_are_encoded_by_choice() -> None:
    for image in ('png', 'jpeg'):
        with ready(remote_image=image) as (one, server):
            one.infer()
            assert np.array_equal(server.requests[0]['vla_ros/images']['image'], IMAGE)


def test_an_unencrypted_connection_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def end(step: Progress) -> None:
        raise InferenceCancelled

    for host, warned in (('127.0.0.1', False), ('localhost', False), ('192.0.2.1', True)):
        caplog.clear()
        with pytest.raises(InferenceCancelled):
            load_policy(PolicyRequest(f'ws://{host}:1'), progress=end)
        assert ('is not encrypted' in caplog.text) is warned


def test_the_python_api() -> None:
    with fake_server() as server:
        policy = load_policy(PolicyRequest(server.url))
        try:
            session = policy.session()
            observation = Observation.of_one(IMAGE, 'push', 0)
            [prediction] = all_predicted(policy.predict([(session, observation)]))
            assert prediction.action[0] == 0.5
            assert 'vla_ros/budget_ms' not in server.requests[0]
            large = {'image': np.zeros((2400, 2400, 3), np.uint8)}
            with pytest.raises(PolicyError, match='send smaller images'):
                all_predicted(policy.predict([(session, replace(observation, images=large))]))
            with pytest.raises(PolicyError, match='camera'):
                empty = replace(observation, images={})
                all_predicted(policy.predict([(session, empty)]))
        finally:
            policy.close()
