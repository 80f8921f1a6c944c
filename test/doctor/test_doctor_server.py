# SPDX-License-Identifier: Apache-2.0
"""The doctor on the way to a policy's server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.doctor_setups import about, assert_sound
from support.servers import CERTIFICATE, fake_server
from vla_ros.doctor.checkpoint import check_checkpoint, check_unnorm_key
from vla_ros.doctor.devices import check_devices
from vla_ros.doctor.findings import Finding, Level
from vla_ros.doctor.measure import check_by_measuring
from vla_ros.doctor.memory import check_memory
from vla_ros.doctor.server import check_server
from vla_ros.serving.ports import free_port


def told(model: str, **assignments: str) -> list[Finding]:
    return list(check_server(about(model, **assignments)))


def test_a_sound_way(tmp_path: Path) -> None:
    token = tmp_path / 'token'
    token.write_text('0123456789abcdef')
    token.chmod(0o600)
    with fake_server(tls=True) as server:
        server.token = '0123456789abcdef'
        facts = about(
            server.url,
            unnorm_key='fake',
            remote_token_file=str(token),
            remote_ca_file=str(CERTIFICATE),
        )
        found = list(check_server(facts))
        assert_sound(found)
        texts = [one.text for one in found]
        assert f'port {server.port} is open' in texts[0]
        assert 'with a trusted certificate' in texts[1] and 'tiny on cpu' in texts[1]
        assert texts[2].startswith('3 inferences took ')
        assert facts.inference_s is not None and facts.inference_s > 0 and facts.is_whole
        assert len(server.requests) == 3
        for check in (check_devices, check_checkpoint, check_unnorm_key, check_memory):
            assert all(one.level is Level.OK for one in check(facts))
        assert facts.unnorm_key == 'fake'
        assert_sound(check_by_measuring(facts))


def test_each_step_that_fails(tmp_path: Path) -> None:
    assert told('scripted') == []
    [found] = told('ws://localhost:1', device='cpu')
    assert found.level is Level.FAIL and 'device' in found.text
    [found] = told('ws://localhost:1', remote_token_file=str(tmp_path / 'none'))
    assert found.level is Level.FAIL and 'does not exist' in found.text
    [found] = told(f'ws://localhost:{free_port()}')
    assert found.level is Level.FAIL and 'refused' in found.text and '--host' in found.advice
    with fake_server(tls=True) as server:
        *_, found = told(server.url)
        assert found.level is Level.FAIL and 'cannot be trusted' in found.text
    open_to_all = tmp_path / 'token'
    open_to_all.write_text('0123456789abcdef')
    open_to_all.chmod(0o644)
    with fake_server() as server:
        server.token = 'another token of it'
        first, _, found = told(server.url, remote_token_file=str(open_to_all))
        assert first.level is Level.WARN and 'chmod 600' in first.advice
        assert found.level is Level.FAIL and 'rejects the token' in found.text
        server.token = ''
        *_, found = told(server.url, unnorm_key='brige')
        assert found.level is Level.FAIL and 'it has fake' in found.text
        server.metadata = {}
        *_, found = told(server.url)
        assert found.level is Level.FAIL and 'section server' in found.advice


def test_a_name_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any, **options: Any) -> Any:
        raise OSError(-2, 'Name or service not known')

    monkeypatch.setattr('socket.getaddrinfo', unknown)
    warned, found = told('ws://gpu.invalid:8000')
    assert warned.level is Level.WARN and 'not encrypted' in warned.text
    assert found.level is Level.FAIL and 'gpu.invalid is not known' in found.text
