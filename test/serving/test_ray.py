# SPDX-License-Identifier: Apache-2.0
"""vla_serve on Ray: unchanged clients, a replica that is killed, updates, ports, TLS, and the end.

One server with two replicas is the subject of all tests but the first and the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from vla_eval import connection
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from support.servers import CERTIFICATE, KEY
from support.serving import NOISE, OPENPI, a_request
from support.vla_serve import HEADERS, PATIENCE_S, TOKEN, Server
from vla_ros.cli.serve import main
from vla_ros.policies import PolicyRequest, load_policy
from vla_ros.serving.ports import listening
from vla_ros.types import PolicyError, all_predicted
from vla_ros.wire import pack, pack_body, unpack, unpack_body


@pytest.fixture(scope='module')
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp('home')
    one = Server(home, '--model', 'scripted', '--replicas', '2', '--max-sessions', '8')
    yield one
    assert one.end() == 0


class Robot:
    """A client that asks all the time in a thread, and connects again when its connection ends."""

    def __init__(self, port: int) -> None:
        self._url = f'ws://127.0.0.1:{port}/'
        self._ends = threading.Event()
        self.answers: list[Any] = []
        self.ends: list[int | None] = []  # code of each end of a connection
        self.errors: list[Any] = []  # other than an end
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Robot:
        self._thread.start()
        self.wait_for(1)
        return self

    def __exit__(self, *exception: object) -> None:
        self._ends.set()
        self._thread.join(PATIENCE_S)
        assert not self.errors

    def wait_for(self, count: int) -> None:
        """Until there are so many more answers."""
        wanted, until_s = len(self.answers) + count, time.monotonic() + PATIENCE_S
        while len(self.answers) < wanted:
            assert time.monotonic() < until_s, (self.ends, self.errors)
            time.sleep(0.01)

    def _run(self) -> None:
        from websockets.exceptions import InvalidHandshake

        while not self._ends.is_set():
            try:
                with connect(self._url, compression=None, additional_headers=HEADERS) as socket:
                    socket.recv(timeout=PATIENCE_S)
                    while not self._ends.is_set():
                        socket.send(pack(OPENPI))
                        answer = socket.recv(timeout=PATIENCE_S)
                        if isinstance(answer, str):
                            self.errors.append(answer)
                            return
                        self.answers.append(unpack(answer))
                        self._ends.wait(0.02)
            except ConnectionClosed as closed:
                self.ends.append(closed.rcvd.code if closed.rcvd is not None else None)
            except (OSError, InvalidHandshake):
                self._ends.wait(0.05)


def test_it_does_not_start_without_a_token_beyond_loopback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(['--model', 'scripted', '--host', '0.0.0.0']) == 1
    assert '--token-file' in capfd.readouterr().err


def test_nothing_but_the_loopback_listens(server: Server) -> None:
    ports = listening(server.process.pid)
    assert server.port in {one.port for one in ports}
    assert len(ports) > 5  # those of Ray
    assert not [str(one) for one in ports if one.is_exposed]


def test_no_other_user_reaches_its_files(server: Server) -> None:
    """HAProxy's wrapper, which is run, and its administration's socket among them."""
    haproxy = [one for one in server.commands().values() if one[0].endswith(b'/haproxy')]
    (folder,) = {Path(*Path(os.fsdecode(one[one.index(b'-f') + 1])).parts[:3]) for one in haproxy}
    assert {'haproxy', 'admin.sock'} <= {one.name for one in folder.rglob('*')}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_unchanged_clients(server: Server) -> None:
    """openpi-client 0.1.2, the connection of vla-eval 0.8.0, and a body of OpenVLA."""
    client = WebsocketClientPolicy('127.0.0.1', server.port, api_key=TOKEN)
    assert client.get_server_metadata()['vla_ros']['self_checked']
    for _ in range(2):
        reply = client.infer({**OPENPI, 'observation/state': np.zeros(8)})
        assert reply['actions'].shape == (1, 7) and reply['actions'].dtype == np.float64
        assert 'infer_ms' in reply['server_timing']
    client._ws.close()

    url = f'http://127.0.0.1:{server.port}/act'
    body = pack_body({'image': NOISE, 'instruction': 'pick up the cup'})
    request = urllib.request.Request(url, body, HEADERS)
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as replied:
        assert unpack_body(replied.read())[0].shape == (7,)
    with pytest.raises(urllib.error.HTTPError, match='401'):
        urllib.request.urlopen(urllib.request.Request(url, body), timeout=PATIENCE_S)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_the_connection_of_vla_eval_unchanged(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It has no way to send a token: the rest of the connection is as it is.
    monkeypatch.setattr(
        connection.websockets,
        'connect',
        lambda url, _connect=connection.websockets.connect, **options: _connect(
            url, additional_headers=HEADERS, **options
        ),
    )

    async def episode() -> Any:
        url = f'ws://127.0.0.1:{server.port}/vla-eval'
        async with connection.Connection(url, timeout=PATIENCE_S) as client:
            await client.start_episode({'task': {'name': 'lift'}, 'mode': 'sync'})
            observation = {'images': {'agentview': NOISE}, 'task_description': 'lift the cup'}
            actions = [await client.act(observation) for _ in range(2)]
            await client.end_episode({'success': True})
            return client.server_info, actions

    info, actions = asyncio.run(episode())
    assert info['model_server'].startswith('vla_ros')
    assert [one['actions'].shape for one in actions] == [(7,), (7,)]


def test_our_own_node_as_a_client(server: Server) -> None:
    """The remote policy of a node, and what it is told when no session is free."""
    url = f'ws://127.0.0.1:{server.port}'
    request = PolicyRequest(model=url, remote_token_file=str(server.token))
    policy = load_policy(request)
    try:
        policy.warmup()
        asked = [(policy.session(), a_request().observation)]
        (prediction,) = all_predicted(policy.predict(asked))
        assert prediction.actions.shape == (1, 7) and prediction.invalid is None
        assert prediction.tokens is not None
    finally:
        policy.close()
    with contextlib.ExitStack() as stack:
        taken, until_s = 0, time.monotonic() + PATIENCE_S
        while taken < 16:  # the sessions of both replicas
            one = stack.enter_context(connect(url, compression=None, additional_headers=HEADERS))
            try:
                one.recv()
                taken += 1
            except ConnectionClosed as full:  # HAProxy still counts a client that has left
                assert full.rcvd is not None and full.rcvd.code == 1013
                assert time.monotonic() < until_s
                time.sleep(0.05)
        with connect(url, additional_headers=HEADERS) as late, pytest.raises(Exception) as ended:
            late.recv(timeout=PATIENCE_S)
        assert ended.value.rcvd.code == 1013


def test_a_replica_that_is_killed(server: Server) -> None:
    """Its robots connect again and act; no robot gets an error; another replica is started."""
    with contextlib.ExitStack() as stack:
        robots = [stack.enter_context(Robot(server.port)) for _ in range(4)]
        before = server.replicas()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        for robot in robots:
            robot.wait_for(5)
        assert sum(len(robot.ends) for robot in robots) <= len(robots)
        until_s = time.monotonic() + PATIENCE_S
        while len(server.replicas()) < 2:
            assert time.monotonic() < until_s
            time.sleep(0.1)


class Asking:
    """Our own client, which asks all the time in a thread, and counts."""

    def __init__(self, url: str, **request: str) -> None:
        self.policy = load_policy(PolicyRequest(model=url, **request))
        self.policy.warmup()
        self._ends = threading.Event()
        self.asked, self.answered = 0, 0
        self.failures: list[PolicyError] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ends.set()
        self._thread.join(PATIENCE_S)
        self.policy.close()

    def _run(self) -> None:
        session, observation = self.policy.session(), a_request().observation
        while not self._ends.wait(0.005):
            self.asked += 1
            (answer,) = self.policy.predict([(session, observation)])
            if isinstance(answer, PolicyError):
                self.failures.append(answer)
            else:
                self.answered += 1


def test_an_update_loses_no_request(server: Server) -> None:
    """Counted on both sides, under a load that never stops.

    A version whose self-check fails is refused, and not even a connection ends. In a sound one's
    place, a request that an old replica did not answer was asked of a new one.
    """
    before = set(server.replicas())
    with contextlib.ExitStack() as stack:
        token = {'remote_token_file': str(server.token)}
        robots = [stack.enter_context(Asking(server.url, **token)) for _ in range(4)]
        with Robot(server.port) as foreign:
            refused = server.deploy('--model', 'scripted:self_check@warmup', '--replicas', '2')
            assert refused.returncode == 1
            assert 'self-check' in refused.stderr
            foreign.wait_for(5)
            assert not foreign.ends
        assert set(server.replicas()) == before
        taken = server.deploy('--model', 'scripted', '--replicas', '2', '--max-sessions', '9')
        assert taken.returncode == 0, taken.stderr
        until_s = time.monotonic() + PATIENCE_S
        while before & set(server.replicas()) or len(_ended(server, before)) < 2:
            assert time.monotonic() < until_s
            time.sleep(0.1)
    assert not [str(one) for robot in robots for one in robot.failures]
    assert sum(one.asked for one in robots) == sum(one.answered for one in robots)
    ended = _ended(server, before).values()
    assert sum(counters['answered'] for counters in ended) > 0  # one of them may have had no robot
    for counters in ended:
        # What it did not answer, it cancelled: its clients had left when it closed.
        assert not counters['waiting']
        assert counters['requests'] == counters['answered'] + counters['cancelled']


def _ended(server: Server, replicas: set[int]) -> dict[int, dict[str, int]]:
    """The counters of those of these replicas that have ended, from the server's log."""
    found = re.findall(r'pid=(\d+)\).*this replica ends: (\{.*\})', server.log.read_text())
    return {int(one): json.loads(text) for one, text in found if int(one) in replicas}


def test_another_policy_takes_the_place_of_the_first(server: Server) -> None:
    """Foreign clients connect again; our own refuses to follow a policy that it was not told of."""
    token = {'remote_token_file': str(server.token)}
    with Robot(server.port) as foreign, Asking(server.url, **token) as ours:
        taken = server.deploy('--model', 'scripted:chunk=2', '--replicas', '1')
        assert taken.returncode == 0, taken.stderr
        until_s = time.monotonic() + PATIENCE_S
        while foreign.answers[-1]['actions'].shape != (2, 7) or not ours.failures:
            assert time.monotonic() < until_s
            foreign.wait_for(1)
        assert set(foreign.ends) <= {1012}
        assert 'another policy than before' in str(ours.failures[-1])


def test_tls(tmp_path: Path) -> None:
    """The node's policy reaches a server by wss, if it trusts its certificate with that name."""
    certificate = ['--tls-cert', str(CERTIFICATE), '--tls-key', str(KEY)]
    server = Server(tmp_path, '--model', 'scripted', *certificate)
    try:
        assert server.url.startswith('wss://127.0.0.1:')
        token = {'remote_token_file': str(server.token)}
        trusted = {**token, 'remote_ca_file': str(CERTIFICATE)}
        other_name = server.url.replace('127.0.0.1', '127.1')
        for url, files in ((server.url, token), (other_name, trusted)):
            with pytest.raises(PolicyError, match='cannot be trusted'):
                load_policy(PolicyRequest(model=url, **files))
        with Asking(server.url, **trusted) as robot:
            until_s = time.monotonic() + PATIENCE_S
            while robot.answered < 3:
                assert time.monotonic() < until_s and not robot.failures
                time.sleep(0.01)
    finally:
        assert server.end() == 0
