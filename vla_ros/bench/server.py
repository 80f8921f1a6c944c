# SPDX-License-Identifier: Apache-2.0
"""The time from a robot's image to its actions through a policy server, for 1, 4 and 8 robots.

``python -m vla_ros.bench.server ws://127.0.0.1:8000``. Each robot has a connection, as a node has,
and sends images of noise: with ``--rate`` that many a second, as a camera does, otherwise the next
one when the answer has come. ``--leave N`` measures N times how soon the model stops when a robot
leaves. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ros.measure.statistics import percentiles
from vla_ros.types import Observation, PolicySpec
from vla_ros.wire import Request, ServedPolicy, error_of, pack, request_map, unpack
from vla_ros.wire.token import HEADER, authorization, read_token

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

_INSTRUCTION = 'pick up the cup'
_UNCOUNTED = 3  # requests of each robot before the clock runs


async def measure(
    url: str, robots: int, requests: int, size: tuple[int, int], rate_hz: float, token: str
) -> dict[str, Any]:
    """Return the times of some robots, milliseconds.

    :param requests: of each robot, after those that do not count.
    :param size: width and height of an image.
    :param rate_hz: images a second of each robot; 0: as many as are answered.
    """
    came = await asyncio.gather(
        *(_robot(url, number, requests, size, rate_hz, token) for number in range(robots))
    )
    times_ms = [one for times, _, _ in came for one in times]
    elapsed_s = max(ended for _, _, ended in came) - min(began for _, began, _ in came)
    cuts = percentiles(times_ms)
    return {
        'robots': robots,
        'p50_ms': round(cuts['p50'], 2),
        'p99_ms': round(cuts['p99'], 2),
        'max_ms': round(max(times_ms), 2),
        'actions_per_s': round(len(times_ms) / elapsed_s, 1),
    }


async def _robot(
    url: str, number: int, requests: int, size: tuple[int, int], rate_hz: float, token: str
) -> tuple[list[float], float, float]:
    times_ms: list[float] = []
    began_s = time.perf_counter()
    async with _connected(url, size, token) as (connection, frames):
        for count in range(_UNCOUNTED + requests):
            if count == _UNCOUNTED:
                began_s = time.perf_counter()
            if rate_hz:
                due_s = began_s + (count - _UNCOUNTED + number / 8) / rate_hz
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            sent_s = time.perf_counter()
            await connection.send(frames[count % len(frames)])
            await _answer(connection)
            if count >= _UNCOUNTED:
                times_ms.append(1e3 * (time.perf_counter() - sent_s))
    return times_ms, began_s, time.perf_counter()


async def measure_leaving(
    url: str, times: int, size: tuple[int, int], token: str
) -> dict[str, Any]:
    """Return how soon the model stops when the robot that it works for leaves, milliseconds.

    Another robot's request waits for that inference. The duration of its own is subtracted from the
    time of its answer. The server must have one replica, and an inference last 0.1 s or more.

    :raises SystemExit: if the two robots have different replicas.
    """
    alone = await measure(url, 1, 5, size, 0.0, token)
    inference_s = 1e-3 * alone['p50_ms']
    stopped_ms = []
    for _ in range(times):
        async with (
            _connected(url, size, token) as (leaving, frames),
            _connected(url, size, token) as (waiting, _),
        ):
            await leaving.send(frames[0])
            await asyncio.sleep(0.3 * inference_s)
            await waiting.send(frames[1])
            await asyncio.sleep(0.3 * inference_s)
            left_s = time.perf_counter()
            leaving.transport.abort()
            await _answer(waiting)
            took_s = time.perf_counter() - left_s - inference_s
        if took_s < -0.15 * inference_s:
            raise SystemExit('the robot that waited had a replica of its own; serve one replica')
        stopped_ms.append(max(0.0, 1e3 * took_s))
    cuts = percentiles(stopped_ms)
    return {
        'times': times,
        'inference_ms': alone['p50_ms'],
        'stopped_p50_ms': round(cuts['p50'], 1),
        'stopped_max_ms': round(max(stopped_ms), 1),
    }


@contextlib.asynccontextmanager
async def _connected(
    url: str, size: tuple[int, int], token: str
) -> AsyncIterator[tuple[ClientConnection, list[bytes]]]:
    """Connect as a robot, and yield the connection with some frames for it."""
    from websockets.asyncio.client import connect

    headers = {HEADER: authorization(token)} if token else {}
    async with connect(
        url, compression=None, max_size=None, additional_headers=headers
    ) as connection:
        served = ServedPolicy.from_metadata(unpack(_binary(await connection.recv())))
        key, spec = next(iter(served.specs.items()))
        yield connection, [pack(request_map(_request(spec, key, size, seed))) for seed in range(4)]


async def _answer(connection: ClientConnection) -> None:
    """Await an answer that is no error."""
    answer = unpack(_binary(await connection.recv()))
    if (error := error_of(answer)) is not None:
        raise SystemExit(f'the server answers: {error.what}')


def _request(spec: PolicySpec, key: str, size: tuple[int, int], seed: int) -> Request:
    random = np.random.default_rng(seed)
    width, height = size
    images = {
        camera: random.integers(0, 256, (height, width, 3), np.uint8) for camera in spec.cameras
    }
    state = np.zeros(spec.state_dim) if spec.state_dim else None
    return Request(Observation(images, _INSTRUCTION, dict.fromkeys(images, 0), state), key)


def _binary(frame: str | bytes) -> bytes:
    if isinstance(frame, str):
        raise SystemExit(f'the server answers: {frame[:200]}')
    return frame


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog='python -m vla_ros.bench.server', description=__doc__)
    parser.add_argument('url')
    parser.add_argument('--robots', default='1,4,8')
    parser.add_argument('--requests', type=int, default=200, help='of each robot')
    parser.add_argument('--size', default='640x480')
    parser.add_argument('--rate', type=float, default=0.0, help='images a second of each robot')
    parser.add_argument('--token-file', type=Path)
    parser.add_argument('--leave', type=int, default=0, help='times that a robot leaves')
    asked = parser.parse_args(arguments)
    token = read_token(asked.token_file) if asked.token_file is not None else ''
    width, _, height = asked.size.partition('x')
    size = (int(width), int(height))
    print('| robots | p50 ms | p99 ms | max ms | actions/s |')
    print('|---|---|---|---|---|')
    rows = []
    for robots in map(int, asked.robots.split(',')):
        row = asyncio.run(measure(asked.url, robots, asked.requests, size, asked.rate, token))
        print('| ' + ' | '.join(str(value) for value in row.values()) + ' |', flush=True)
        rows.append(row)
    figures = {'url': asked.url, 'size': asked.size, 'rate_hz': asked.rate, 'rows': rows}
    if asked.leave:
        left = asyncio.run(measure_leaving(asked.url, asked.leave, size, token))
        print(f'a robot leaves: {left}')
        figures['leave'] = left
    print(json.dumps(figures))
    return 0


if __name__ == '__main__':
    sys.exit(main())
