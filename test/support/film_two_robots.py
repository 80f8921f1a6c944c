# SPDX-License-Identifier: Apache-2.0
"""Make docs/two_robots.gif: two arms with a node each, and one vla_serve that answers both.

Server, nodes, messages and times are real, the arms and their cameras are simulated, and follow the
system's clock. Run in the source tree, with Ray:
`PYTHONPATH=.:test .venv/bin/python -m support.film_two_robots docs/two_robots.gif`.
"""

from __future__ import annotations

import bisect
import json
import multiprocessing
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from support.films import write_gif
from vla_ros.client.processes import running
from vla_ros.client.vla_client import ReceivedAction
from vla_ros.drawing import BACKGROUND, GREEN, MUTED, ORANGE, PANEL, RULE, SKY_BLUE, TEXT, write
from vla_ros.evaluation.closed_loop import blocks_model, closed_loop
from vla_ros.evaluation.pace import Pace
from vla_ros.evaluation.play import main_image, play
from vla_ros.graph.stamps import from_duration
from vla_ros.policies import PolicyRequest, inspect
from vla_ros.serving.ports import free_port
from vla_ros.simulation.worlds import make_world

# By name of the robot: its colour, and the seeds and instructions of its episodes.
ROBOTS = {
    'left': (SKY_BLUE, ((3, 'put the red block on the blue block'), (4, 'pick up the red block'))),
    'right': (ORANGE, ((5, 'pick up the blue block'), (6, 'push the blue block away'))),
}
WORLD = 'blocks4'
PACE = Pace('free', rate_hz=10.0, deltas_from='image', time_limit_s=15.0)

REST_S = 1.0  # after an episode
START_S = 300.0  # for the server, and for the policy in it
EVERY_S, FRAME_MS, COLOURS = 0.2, 200, 112  # as fast as it was
SIDE, HEADER, FOOTER, GAP, MARGIN = 272, 34, 30, 8, 12
SPAN_S, LANE = 4.0, 22  # of the server's strip: its duration, and the height of a robot's lane


@dataclass
class Record:
    """What one robot saw and got. All times are of the system's monotonic clock [s].

    :param looks: time and image of each observation.
    :param answers: begin and end of each request, and the time from image to action [s].
    :param tasks: begin, instruction and, at its end, the success of each episode.
    """

    looks: list[tuple[float, NDArray[np.uint8]]] = field(default_factory=list)
    answers: list[tuple[float, float, float]] = field(default_factory=list)
    tasks: list[tuple[float, str, bool | None]] = field(default_factory=list)


def main(path: Path) -> None:
    """Serve, let both robots work, and write the film."""
    port = free_port()
    url = f'http://127.0.0.1:{port}'
    options = ('--model', blocks_model(WORLD), '--dtype', 'float32', '--port', str(port))
    with running('vla_ros.cli.serve', *options, stdout=2):
        _wait_until_served(url)
        statuses: list[tuple[float, dict[str, Any]]] = []
        ended = threading.Event()
        asking = threading.Thread(target=_ask, args=(url, statuses, ended))
        asking.start()
        try:
            records = _work(url.replace('http', 'ws'))
        finally:
            ended.set()
            asking.join()
    begin_s = max(record.looks[0][0] for record in records.values())
    end_s = max(record.looks[-1][0] for record in records.values())
    count = int((end_s - begin_s) / EVERY_S) + 1
    frames = [draw(records, statuses, begin_s + index * EVERY_S) for index in range(count)]
    write_gif(path, frames, FRAME_MS, COLOURS)


def _wait_until_served(url: str) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        try:
            urllib.request.urlopen(f'{url}/healthz', timeout=1.0).close()
            return
        except OSError:
            time.sleep(0.5)
    sys.exit(f'vla_serve does not serve within {START_S:g} s')


def _ask(url: str, statuses: list[tuple[float, dict[str, Any]]], ended: threading.Event) -> None:
    """Ask the server for its status until the robots have ended."""
    while not ended.wait(EVERY_S / 2):
        with urllib.request.urlopen(f'{url}/status', timeout=10.0) as answer:
            statuses.append((time.monotonic(), json.load(answer)))


def _work(url: str) -> dict[str, Record]:
    """Run a process for each robot, and return what they recorded."""
    context = multiprocessing.get_context('spawn')
    barrier, told = context.Barrier(len(ROBOTS)), context.Queue()
    processes = [context.Process(target=_robot, args=(n, url, barrier, told)) for n in ROBOTS]
    for process in processes:
        process.start()
    records = dict(told.get(timeout=START_S) for _ in ROBOTS)
    for process in processes:
        process.join()
    return {name: records[name] for name in ROBOTS}


def _robot(name: str, url: str, barrier: Barrier, told: Queue[tuple[str, Record]]) -> None:
    """Play the episodes of one robot through a node of its own."""

    record = Record()
    policy: Any = inspect(PolicyRequest(blocks_model(WORLD)))  # torch must come before OpenGL
    with make_world(WORLD) as made:
        world: Any = made  # a FreeWorld
        key = world.contract.unnorm_key
        spec = policy.spec(key)
        world.equip(spec)
        parameters = {'model': url, 'unnorm_key': key}
        with closed_loop(f'/{name}', parameters, print, spec=spec, stdout=2) as robot:
            look = world.look

            def look_and_film() -> Any:
                seen = look()
                record.looks.append((time.monotonic(), main_image(seen).copy()))
                return seen

            def note(received: ReceivedAction) -> None:
                took_s = from_duration(received.message.inference_time)
                latency_s = from_duration(received.message.latency)
                end_s = received.arrived_s
                record.answers.append((end_s - took_s, end_s, latency_s))

            world.look, robot.on_action = look_and_film, note
            barrier.wait(START_S)
            for seed, instruction in ROBOTS[name][1]:
                record.tasks.append((time.monotonic(), instruction, None))
                episode = play(
                    *(robot, world, seed, instruction, instruction, PACE),
                    lambda observation, action: None,
                )
                record.tasks.append((time.monotonic(), instruction, episode.success))
                look_and_film()
                robot.spin_until(robot.monotonic_s() + REST_S)
                look_and_film()
    told.put((name, record))


def draw(
    records: dict[str, Record], statuses: list[tuple[float, dict[str, Any]]], now_s: float
) -> Image.Image:
    """Return the frame of a moment: the robots at the sides, the server in the middle."""
    columns = len(records) + 1
    canvas = Image.new('RGB', (columns * (SIDE + GAP) - GAP, HEADER + SIDE + FOOTER), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for place, (name, record) in zip((0, 2), records.items(), strict=True):
        _draw_robot(canvas, pen, place * (SIDE + GAP), record, name, now_s)
    _draw_server(pen, SIDE + GAP, records, statuses, now_s)
    return canvas


def _draw_robot(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    left: int,
    record: Record,
    name: str,
    now_s: float,
) -> None:
    """Draw a robot's instruction, its image of that moment, and the outcome."""
    index = bisect.bisect_right(record.looks, now_s, key=lambda look: look[0])
    _, image = record.looks[max(0, index - 1)]
    canvas.paste(Image.fromarray(image).resize((SIDE, SIDE)), (left, HEADER))
    begun = [task for task in record.tasks if task[0] <= now_s] or record.tasks[:1]
    _, instruction, success = begun[-1]
    write(pen, (left + 8, HEADER / 2), instruction, TEXT, 15, 'lm')
    middle = HEADER + SIDE + FOOTER / 2
    pen.rectangle((left + 8, middle - 6, left + 20, middle + 6), ROBOTS[name][0])
    write(pen, (left + 28, middle), name, MUTED, 15, 'lm')
    if success is not None:
        word, colour = ('success', GREEN) if success else ('failed', MUTED)
        write(pen, (left + SIDE - 8, middle), word, colour, 15, 'rm')


def _draw_server(
    pen: ImageDraw.ImageDraw,
    left: int,
    records: dict[str, Record],
    statuses: list[tuple[float, dict[str, Any]]],
    now_s: float,
) -> None:
    """Draw what the server said of itself by then, and the robots' requests."""
    right, middle = left + SIDE - MARGIN, HEADER + SIDE + FOOTER / 2
    begin_s = max(record.looks[0][0] for record in records.values())
    write(pen, (left + MARGIN, HEADER / 2), 'vla_serve: one policy', TEXT, 15, 'lm')
    pen.rectangle((left, HEADER, left + SIDE - 1, HEADER + SIDE - 1), PANEL)
    index = bisect.bisect_right(statuses, now_s, key=lambda one: one[0])
    status = statuses[max(0, index - 1)][1]
    counters = status['counters']
    rows = [
        ('requests', str(counters['requests'])),
        ('answered', str(counters['answered'])),
        ('batches', str(status['batches'])),
    ]
    for name, record in records.items():
        latencies = [one[2] for one in record.answers if one[1] <= now_s]
        told = f'{1e3 * latencies[-1]:.0f} ms' if latencies else ''
        rows.append((f'{name}: image to action', told))
    for row, (words, value) in enumerate(rows):
        y = HEADER + 24 + 27 * row
        write(pen, (left + MARGIN, y), words, MUTED, 15, 'lm')
        write(pen, (right, y), value, TEXT, 15, 'rm')
    _draw_strip(pen, (left + MARGIN, HEADER + SIDE - 92, right), records, now_s)
    write(pen, (left + MARGIN, middle), f'{max(0.0, now_s - begin_s):.1f} s', MUTED, 15, 'lm')
    write(pen, (right, middle), 'real time', MUTED, 15, 'rm')


def _draw_strip(
    pen: ImageDraw.ImageDraw, box: tuple[int, int, int], records: dict[str, Record], now_s: float
) -> None:
    """Draw each robot's requests of the last seconds, from asking to the answer."""
    left, top, right = box
    write(pen, (left, top), f'requests of the last {SPAN_S:g} s', MUTED, 13, 'lm')
    for lane, (name, record) in enumerate(records.items()):
        y = top + 16 + lane * (LANE + 8)
        pen.rectangle((left, y, right, y + LANE), BACKGROUND, RULE)
        for begin_s, end_s, _ in record.answers:
            if end_s > now_s - SPAN_S and begin_s < now_s:
                edges = [
                    right
                    - (right - left) * (now_s - max(min(at_s, now_s), now_s - SPAN_S)) / SPAN_S
                    for at_s in (begin_s, end_s)
                ]
                pen.rectangle((edges[0], y + 3, max(edges), y + LANE - 3), ROBOTS[name][0])


if __name__ == '__main__':
    main(Path(sys.argv[1]))
