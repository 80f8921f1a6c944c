# SPDX-License-Identifier: Apache-2.0
"""Where a server may listen, and what can be the name of a machine."""

from __future__ import annotations

import pytest

from vla_ros.hosts import HostError, can_be_host, check_host


@pytest.mark.parametrize(
    ('host', 'token', 'allowed'),
    [
        ('127.0.0.1', False, True),
        ('localhost', False, True),
        ('::1', False, True),
        ('0.0.0.0', False, False),
        ('robot.example', False, False),
        ('192.0.2.1', True, True),
    ],
)
def test_beyond_loopback_a_token_is_required(host: str, token: bool, allowed: bool) -> None:
    if allowed:
        check_host(host, token)
    else:
        with pytest.raises(HostError, match=r'--token-file.*, or pray$'):
            check_host(host, token, ', or pray')


@pytest.mark.parametrize('text', ['', 'robot..lan', '.', f'{"a" * 70}.lan', 'a\ud800'])
def test_what_no_machine_can_be_named(text: str) -> None:
    assert not can_be_host(text) and can_be_host('robot.lan')
    with pytest.raises(HostError, match='no name of a machine'):
        check_host(text, True)
