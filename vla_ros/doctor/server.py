# SPDX-License-Identifier: Apache-2.0
"""Checks the way to the policy's server, step by step, and times three inferences on it."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, Level, fail, ok, refused, warn
from vla_ros.remote.address import Address
from vla_ros.types import InferenceCancelled, PolicyError

if TYPE_CHECKING:
    from vla_ros.remote.policy import RemotePolicy
    from vla_ros.remote.server import Server

_CONNECT_S = 5.0
_INFERENCE_S = 120.0  # the first one may compile
_REPEATS = 3
_INSTRUCTION = 'pick up the red cup'


def check_server(facts: Facts) -> Iterator[Finding]:
    """Check name, port, encryption, token and metadata, then infer; nothing without a server."""
    if not facts.is_remote:
        return
    from vla_ros.policies import resolve
    from vla_ros.remote.server import Server

    try:
        resolve(facts.request)
        server = Server(facts.request)
    except PolicyError as error:
        yield refused(error, 'correct the parameters')
        return
    yield from _token(facts.request.remote_token_file)
    if server.warning:
        yield warn(server.warning, 'use wss:// or https://, or a tunnel')
    found = [*_way(server.address)]
    yield from found
    if found[-1].level is Level.OK:
        yield from _policy(facts, server)


class _Limit:
    """A cancel by itself after some time."""

    def __init__(self) -> None:
        self._ends_s = time.monotonic() + _INFERENCE_S

    def is_set(self) -> bool:
        return time.monotonic() > self._ends_s


def _token(file: str) -> Iterator[Finding]:
    if file and Path(file).stat().st_mode & 0o077:
        yield warn(f'{file} can be read by other users of this machine', f'chmod 600 {file}')


def _way(address: Address) -> Iterator[Finding]:
    """Yield whether the name is known and the port is open."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield fail(
            f'the name {address.host} is not known ({error.strerror})',
            'check model, /etc/hosts and the DNS of this machine',
        )
        return
    numbers = ', '.join(dict.fromkeys(str(one[4][0]) for one in found))
    began_s = time.monotonic()
    try:
        socket.create_connection((address.host, address.port), _CONNECT_S).close()
    except OSError as error:
        yield fail(
            f'no connection to port {address.port} of {address.host} ({numbers}): '
            f'{error.strerror or error}',
            'start the server, let it listen there (--host), and open the port in firewalls',
        )
        return
    took_ms = 1000 * (time.monotonic() - began_s)
    yield ok(f'{address.host} is {numbers}; port {address.port} is open, {took_ms:.1f} ms away')


def _policy(facts: Facts, server: Server) -> Iterator[Finding]:
    """Connect as the node does, and time the policy."""
    from vla_ros.remote.kind import RemoteInspection
    from vla_ros.remote.network import Network
    from vla_ros.remote.policy import RemotePolicy

    network = Network()
    try:
        connection, dialect = network.run(server.open())
    except PolicyError as error:
        network.close()
        yield refused(error, 'see the log of the server')
        return
    policy = RemotePolicy(server, network, connection, dialect, 1)
    try:
        encrypted = 'with a trusted certificate, ' if server.address.has_tls else ''
        yield ok(f'{server.address} answers, {encrypted}and serves {dialect.told}')
        inspection = facts.inspection = RemoteInspection(dialect)
        key = facts.unnorm_key = inspection.key(facts.request.unnorm_key)
        facts.is_whole, facts.rows = True, inspection.spec(key).horizon
        yield _timed(facts, policy, key)
    except PolicyError as error:
        yield refused(error, 'see the log of the server')
    except InferenceCancelled:
        yield fail(f'no answer within {_INFERENCE_S:g} s', 'see the log of the server')
    finally:
        policy.close()


def _timed(facts: Facts, policy: RemotePolicy, key: str) -> Finding:
    """Return the durations of some inferences.

    :raises PolicyError: if the server can't predict.
    """
    from vla_ros.measure.images import noise_images
    from vla_ros.measure.observations import make_observations
    from vla_ros.types import all_predicted

    session = policy.session(key)
    images = noise_images(_REPEATS * len(session.spec.cameras))
    seconds = []
    for observation in make_observations(session.spec, images, _INSTRUCTION):
        began_s = time.monotonic()
        all_predicted(policy.predict([(session, observation)], _Limit()))
        seconds.append(time.monotonic() - began_s)
    facts.inference_s = statistics.median(seconds)
    facts.inference_source = f'measured through the network, the median of {_REPEATS}'
    times = ', '.join(f'{1000 * one:.1f}' for one in seconds)
    return ok(f'{_REPEATS} inferences took {times} ms, with the network')
