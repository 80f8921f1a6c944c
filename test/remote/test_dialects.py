# SPDX-License-Identifier: Apache-2.0
"""What a hostile or broken server may send: an error of ours, and nothing else."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.rest_servers import CONTRACT
from support.servers import SERVED, reply
from vla_ros.errors import VlaError
from vla_ros.motion import load_contracts
from vla_ros.remote.dialects import Ours, foreign
from vla_ros.remote.failures import (
    ConnectionFailed,
    ServerFull,
    ServerRefused,
    ServerRestarts,
    of_close,
    of_exception,
    of_status,
)
from vla_ros.types import Prediction
from vla_ros.wire import ServedPolicy, pack, pack_body, unpack


def damaged(rng: random.Random, value: Any) -> Any:
    """The value with one part replaced by something else."""
    odd = [None, True, -1, 10**20, 0.5, float('nan'), '', 'x' * 5000, b'x', [], {}, [[1], [2, 3]]]
    odd += [np.zeros((0, 7)), np.zeros(3, np.uint8), np.full((2, 2, 2), np.inf), {'a': [None]}]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        changed = dict(value)
        if rng.random() < 0.2:
            del changed[key]
        else:
            changed[key] = damaged(rng, value[key])
        return changed
    return rng.choice(odd)


def test_damaged_answers_are_errors(tmp_path: Path) -> None:
    file = tmp_path / 'contracts.yaml'
    file.write_text(CONTRACT)
    contract = load_contracts(file)['pi0']
    ours = Ours('ws://h:1', SERVED, 'raw')
    openpi = foreign('ws://h:1', contract, False, 'raw', {})
    rest = foreign('http://h:1/act', contract, True, 'raw', None)
    of_ours, of_openpi = unpack(reply()), {'actions': np.zeros((10, 7)), 'server_timing': {'a': 1}}
    rng = random.Random(3)
    good = 0
    for _ in range(1500):
        for dialect, answer, write in (
            (ours, of_ours, pack),
            (openpi, of_openpi, pack),
            (rest, of_openpi['actions'].tolist(), pack_body),
        ):
            try:
                message = write(damaged(rng, answer))
            except VlaError:
                continue
            try:
                assert isinstance(dialect.decode(message, 'fake'), Prediction)
                good += 1
            except VlaError as error:
                assert error.what and len(str(error)) < 2500
    assert good > 50


def test_damaged_metadata_is_an_error() -> None:
    rng = random.Random(4)
    good = 0
    for _ in range(1500):
        try:
            ServedPolicy.from_metadata(unpack(pack(damaged(rng, SERVED.to_metadata()))))
            good += 1
        except VlaError as error:
            assert error.what and len(str(error)) < 2500
    assert good < 500


@pytest.mark.parametrize(
    ('failure', 'kind', 'text'),
    [
        (of_close('S', 1013, ''), ServerFull, 'full'),
        (of_close('S', 1012, 'x'), ServerRestarts, 'restarts (1012 x)'),
        (of_close('S', 1009, ''), ConnectionFailed, 'size'),
        (of_close('S', 1006, ''), ConnectionFailed, '1006'),
        (of_status('S', 401), ServerRefused, 'token'),
        (of_status('S', 403), ServerRefused, 'token'),
        (of_status('S', 307), ServerRefused, 'redirects'),
        (of_status('S', 503), ServerFull, '503'),
        (of_status('S', 404), ConnectionFailed, '404'),
        (of_exception('S', ssl.SSLError(1, '[SSL: WRONG_VERSION_NUMBER] x')), ServerRefused, 'TLS'),
        (of_exception('S', ssl.SSLEOFError(8, 'EOF')), ConnectionFailed, 'no connection'),
        (of_exception('S', ConnectionResetError(104, 'x')), ConnectionFailed, 'reset'),
        (of_exception('S', socket.gaierror(-2, 'unknown name')), ConnectionFailed, 'unknown name'),
        (of_exception('S', asyncio.TimeoutError()), ConnectionFailed, 'does not answer'),
        (of_exception('S', OSError('Multiple: [Errno 111] x')), ConnectionFailed, 'refused'),
    ],
    ids=range(15),
)
def test_what_no_repetition_repairs(failure: VlaError, kind: type, text: str) -> None:
    assert type(failure) is kind and text in failure.what and failure.advice
