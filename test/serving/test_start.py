# SPDX-License-Identifier: Apache-2.0
"""What a start checks and prepares, without Ray: options, ports, the environment, secrets."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from support.servers import KEY
from vla_ros.cli.serve import main
from vla_ros.errors import VlaError
from vla_ros.policy_request import PolicyRequest
from vla_ros.serving import ray_environment
from vla_ros.serving.errors import ServingError
from vla_ros.serving.loading import identity
from vla_ros.serving.options import ServeOptions
from vla_ros.serving.ports import check_ports, listening

SCRIPTED = {'': PolicyRequest(model='scripted')}


@pytest.mark.parametrize('host', ['0.0.0.0', '::'])
def test_a_port_that_others_reach_is_named(host: str) -> None:
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(family) as opened, socket.socket() as local:
        for one, where in ((opened, host), (local, '127.0.0.1')):
            one.bind((where, 0))
            one.listen()
        port = opened.getsockname()[1]
        found = {one.port: one.is_exposed for one in listening(os.getpid())}
        assert found[port] and not found[local.getsockname()[1]]
        with pytest.raises(ServingError, match=rf'port {port} \(.+\)'):
            check_ports(os.getpid(), set())
        mine = {one.port for one in listening(os.getpid())}
        check_ports(os.getpid(), mine)  # the server's own


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        ({'policies': {'a/b': PolicyRequest()}}, 'prefix'),
        ({'tls_cert': Path('x')}, '--tls-key'),
        ({'tls_cert': Path('/nowhere/x'), 'tls_key': Path('/nowhere/y')}, '/nowhere/x'),
        ({'tls_cert': KEY, 'tls_key': KEY}, 'PEM files of a pair'),
        ({'host': '192.0.2.1'}, '--token-file'),
        ({'port': 70000}, '1 to 65535'),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, object], told: str) -> None:
    with pytest.raises(VlaError, match=told):
        ServeOptions(**{'policies': SCRIPTED, **options}).check()


def test_where_it_runs() -> None:
    for address, here, starts in (
        ('', True, True),
        ('127.0.0.1:6379', True, False),
        ('auto', False, False),
        ('192.0.2.1:6379', False, False),
    ):
        options = ServeOptions(SCRIPTED, address=address)
        assert (options.is_here, options.starts_ray) == (here, starts)


def test_the_command_names_what_it_cannot_use(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / 'token').write_text('short')
    for arguments, told in (
        (['--token-file', str(tmp_path / 'token')], 'holds no token'),
        (['--keys', 'image'], 'CAMERA=KEY'),
        (['--tls-cert', str(tmp_path / 'token')], '--tls-key'),
    ):
        assert main(['--model', 'scripted', *arguments]) == 1
        assert told in capsys.readouterr().err


def test_the_environment_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here all is on the loopback; a cluster gets none of that; TLS goes without HAProxy."""
    haproxy = tmp_path / 'real'
    monkeypatch.setattr(ray_environment, '_haproxy', lambda: haproxy)
    here = ray_environment.environment(ServeOptions(SCRIPTED), tmp_path)
    assert here['RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'] == '0'
    assert here['RAY_AUTH_MODE'] == 'token'
    assert here['RAY_SERVE_ENABLE_HA_PROXY'] == '1'
    assert here['RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER'] == '500ms'  # as docs/serving.md says
    away = ray_environment.environment(ServeOptions(SCRIPTED, address='auto'), tmp_path)
    assert 'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER' not in away
    with_tls = ServeOptions(SCRIPTED, tls_cert=tmp_path, tls_key=tmp_path)
    assert ray_environment.environment(with_tls, tmp_path)['RAY_SERVE_ENABLE_HA_PROXY'] == '0'

    # The wrapper moves HAProxy's two other ports to files, leaves ours alone, and shortens a wait.
    haproxy.write_text('#!/bin/sh\necho "$@"\ncat "$3"\n')
    haproxy.chmod(0o700)
    configuration = tmp_path / 'haproxy.cfg'
    configuration.write_text(
        '    bind :9101\n    bind *:8404\n    bind 127.0.0.1:8000\n    timeout connect 5s\n'
    )
    command = [here['RAY_SERVE_HAPROXY_BINARY_PATH'], '-db', '-f', str(configuration), '-sf', '1']
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    arguments, *lines = printed.splitlines()
    assert arguments == f'-db -f {configuration}.local -sf 1'
    assert lines == [
        f'    bind unix@{tmp_path}/9101.sock',
        f'    bind unix@{tmp_path}/8404.sock',
        '    bind 127.0.0.1:8000',
        '    timeout connect 250ms',
    ]


@pytest.mark.parametrize('exists', [True, False])
def test_only_its_owner_reads_the_token_of_ray(tmp_path: Path, exists: bool) -> None:
    token = tmp_path / '.ray' / 'auth_token'
    if exists:
        token.parent.mkdir()
        token.write_text('as it was')
        token.chmod(0o644)
    ray_environment.protect_token(tmp_path)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() == 'as it was' if exists else len(token.read_text()) == 64


def test_the_identity_tells_checkpoints_apart(tmp_path: Path) -> None:
    weights = tmp_path / 'model.safetensors'
    weights.write_bytes(bytes(1_000_000))
    (tmp_path / 'config.json').write_text('{}')
    facts = {'dtype': 'float32'}
    before = identity(tmp_path, facts)
    assert identity(tmp_path, facts) == before
    assert identity(tmp_path, {'dtype': 'bfloat16'}) != before
    (tmp_path / 'notes.txt').write_text('x')
    assert identity(tmp_path, facts) == before
    weights.write_bytes(bytes(999_999) + b'\1')  # the last block is a sample
    assert identity(tmp_path, facts) != before
