# SPDX-License-Identifier: Apache-2.0
"""Make docs/stop.gif: an operator stops an arm in the browser, and the twists that the arm gets.

Page, console, node, policy, messages and times are real, as is the browser, though without a
screen; the arm and its camera are simulated, and follow the system's clock. Run in the source tree:
`PYTHONPATH=.:test .venv/bin/python -m support.film_stop docs/stop.gif`.
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import io
import multiprocessing
import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from geometry_msgs.msg import TwistStamped
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from playwright.sync_api import Locator, Page, expect

from support.browser import browsing
from support.films import write_gif
from vla_ros.client.processes import running
from vla_ros.drawing import BACKGROUND, GREEN, MUTED, PANEL, RULE, SKY_BLUE, TEXT, VERMILLION, write
from vla_ros.evaluation.closed_loop import blocks_model, closed_loop
from vla_ros.policies import PolicyRequest, inspect
from vla_ros.serving.ports import free_port
from vla_ros.simulation.worlds import make_world

WORLD, SEED, INSTRUCTION = 'blocks4', 5, 'pick up the blue block'
ACTING_S = 1.6  # from the instruction to the stop
STILL_S = 2.5  # after the stop
START_S, END_S = 300.0, 60.0

TICK_S, IMAGE_TICKS, TWIST_AGE_S = 0.02, 5, 0.1
PAGE = {'width': 832, 'height': 672}
EVERY_S, FRAME_MS, COLOURS = 0.125, 125, 160  # as fast as it was
STRIP, MARGIN, FULL_MM_S = 108, 14, 250.0  # height of the strip; of its scale

Twists = list[tuple[float, float]]  # when each came to the arm, by the system's clock, and mm/s
_CURSOR = ((0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12))


class Take(NamedTuple):
    """What was recorded. All times are of the system's clock, seconds.

    :param shots: time and image of each change of the page, JPEG.
    :param cursor: time and place of the operator's cursor.
    :param clicked_s: time of the click, as the page's script saw it.
    :param twists: what the arm got.
    """

    shots: list[tuple[float, bytes]]
    cursor: list[tuple[float, float, float]]
    clicked_s: float
    twists: Twists


def main(path: Path) -> None:
    """Start everything, let the operator work, and write the film."""
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    port = free_port()
    with (
        running('vla_ros.cli.console', '--port', str(port)),
        moving_arm() as twists,
        browsing() as browser,
    ):
        page = browser.new_page(viewport=PAGE)
        shots, cursor, clicked_s = operate(page, f'http://127.0.0.1:{port}/')
    take = Take(shots, cursor, clicked_s, twists)
    begin_s, end_s = cursor[0][0], clicked_s + STILL_S
    count = int((end_s - begin_s) / EVERY_S) + 1
    frames = [draw(take, begin_s + index * EVERY_S) for index in range(count)]
    print(f'the first twist of zero came {1e3 * (first_zero_s(take) - clicked_s):.0f} ms after')
    write_gif(path, frames, FRAME_MS, COLOURS, (SKY_BLUE, GREEN, VERMILLION))


# -- the arm, in a process of its own --------------------------------------------------------------


@contextlib.contextmanager
def moving_arm() -> Iterator[Twists]:
    """Run the node and the arm; when they have ended, the list has the arm's twists."""
    context = multiprocessing.get_context('spawn')
    ended, told = context.Event(), context.Queue()
    domain = os.environ.get('ROS_DOMAIN_ID', '0')  # support gives each process one of its own
    process = context.Process(target=_arm, args=(domain, ended, told))
    process.start()
    twists: Twists = []
    try:
        yield twists
    finally:
        ended.set()
        twists += told.get(timeout=END_S)
        process.join()


def _arm(domain: str, ended: Event, told: Queue[Twists]) -> None:
    os.environ['ROS_DOMAIN_ID'] = domain
    heard: Twists = []
    newest: NDArray[np.float64] = np.zeros(6)

    def keep(message: TwistStamped) -> None:
        nonlocal newest
        linear, angular = message.twist.linear, message.twist.angular
        newest = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        heard.append((time.time(), 1e3 * float(np.linalg.norm(newest[:3]))))

    model = blocks_model(WORLD)
    policy: Any = inspect(PolicyRequest(model))  # loads torch, which must come before OpenGL
    with make_world(WORLD) as made:
        world: Any = made  # a FreeWorld
        spec = policy.spec(world.contract.unnorm_key)
        world.equip(spec)
        world.reset(SEED, INSTRUCTION)
        parameters = {
            'model': model,
            'dtype': 'float32',
            'unnorm_key': world.contract.unnorm_key,
            'motion': 'twist',
            'frame_id': 'base',
            'replan_rows': '4',
            'max_instruction_age_s': '2.0',
        }
        with closed_loop('/arm', parameters, print, spec=spec, stdout=2) as robot:
            robot.follow_twists()
            robot.node.create_subscription(TwistStamped, robot.topic('twist'), keep, 10)
            ticks, began_s = 0, robot.monotonic_s()
            while not ended.is_set():
                if ticks % IMAGE_TICKS == 0:
                    robot.send(world.look(), robot.now_ns())
                late = int((robot.monotonic_s() - began_s) / TICK_S) - ticks
                passed = max(1, late)
                ticks += passed
                robot.spin_until(began_s + ticks * TICK_S)
                is_fresh = bool(heard) and time.time() - heard[-1][0] < TWIST_AGE_S
                twist = newest if is_fresh else np.zeros(6)
                world.drive(twist, robot.gripper_is_open, passed * TICK_S)
                robot.tell_pose(world.pose)
    told.put(heard)


# -- the operator ----------------------------------------------------------------------------------


def operate(
    page: Page, url: str
) -> tuple[list[tuple[float, bytes]], list[tuple[float, float, float]], float]:
    """Instruct and stop, and return what :class:`Take` has of it."""
    _wait_until_open(url)
    page.goto(url)
    instruct = page.get_by_role('button', name='Instruct', exact=True)
    expect(instruct).to_be_enabled(timeout=1e3 * START_S)
    page.get_by_role('button', name='/arm/image').click()  # the camera, also while the robot holds
    expect(page.locator('vla-image')).not_to_have_attribute('data-old', 'true', timeout=30e3)
    stop = page.locator('button.stop')
    stop.evaluate("e => e.addEventListener('click', () => (e.dataset.at = Date.now()), true)")
    shots = _filmed(page)
    cursor = [(time.time(), 600.0, 400.0)]
    page.wait_for_timeout(500)
    text = page.get_by_role('textbox', name='Instruction')
    _point(page, cursor, text)
    text.click()
    text.press_sequentially(INSTRUCTION, delay=45)
    _point(page, cursor, instruct)
    instruct.click()
    expect(page.locator('vla-state .mood')).to_have_text('Acting', timeout=10e3)
    page.wait_for_timeout(1e3 * ACTING_S)
    _point(page, cursor, stop)
    stop.click()
    expect(page.locator('vla-stop .result')).to_have_text('Stopped, confirmed')
    page.wait_for_timeout(1e3 * STILL_S)
    return shots, cursor, int(stop.get_attribute('data-at') or 0) / 1e3


def _wait_until_open(url: str) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=1.0).close()
            return
        time.sleep(0.5)
    sys.exit(f'vla_console does not serve within {START_S:g} s')


def _filmed(page: Page) -> list[tuple[float, bytes]]:
    """Return a list that each change of the page is added to."""
    shots: list[tuple[float, bytes]] = []
    session = page.context.new_cdp_session(page)

    def take(event: dict[str, Any]) -> None:
        shots.append((event['metadata']['timestamp'], base64.b64decode(event['data'])))
        session.send('Page.screencastFrameAck', {'sessionId': event['sessionId']})

    session.on('Page.screencastFrame', take)
    session.send('Page.startScreencast', {'format': 'png', 'everyNthFrame': 2})
    return shots


def _point(page: Page, cursor: list[tuple[float, float, float]], target: Locator) -> None:
    """Move the cursor to the middle of an element as a hand does: not in one jump."""
    box = target.bounding_box()
    assert box is not None
    end = np.array([box['x'] + box['width'] / 2, box['y'] + box['height'] / 2])
    begin = np.array(cursor[-1][1:])
    for share in np.linspace(0.0, 1.0, 9)[1:]:
        x, y = begin + (end - begin) * (3 - 2 * share) * share**2
        page.mouse.move(x, y)
        cursor.append((time.time(), float(x), float(y)))
        page.wait_for_timeout(40)


# -- the film --------------------------------------------------------------------------------------


def first_zero_s(take: Take) -> float:
    """Return when the first twist of zero came to the arm after the click."""
    return next(at_s for at_s, mm_s in take.twists if at_s >= take.clicked_s and mm_s == 0)


def draw(take: Take, now_s: float) -> Image.Image:
    """Return the frame of a moment: the page, and below it the speed of the arm's twists."""
    canvas = Image.new('RGB', (PAGE['width'], PAGE['height'] + STRIP), BACKGROUND)
    shot = max(0, bisect.bisect_right(take.shots, now_s, key=lambda one: one[0]) - 1)
    canvas.paste(Image.open(io.BytesIO(take.shots[shot][1])).convert('RGB'), (0, 0))
    pen = ImageDraw.Draw(canvas)
    place = max(0, bisect.bisect_right(take.cursor, now_s, key=lambda one: one[0]) - 1)
    _, x, y = take.cursor[place]
    pen.polygon([(x + dx, y + dy) for dx, dy in _CURSOR], 'black', 'white')
    _draw_speed(pen, take, now_s)
    return canvas


def _draw_speed(pen: ImageDraw.ImageDraw, take: Take, now_s: float) -> None:
    begin_s, end_s = take.cursor[0][0], take.clicked_s + STILL_S
    left, right = MARGIN, PAGE['width'] - MARGIN
    top, bottom = PAGE['height'] + 34, PAGE['height'] + STRIP - 10

    def x_of(at_s: float) -> float:
        return left + (right - left) * (at_s - begin_s) / (end_s - begin_s)

    pen.rectangle((left, top, right, bottom), PANEL, RULE)
    points = [
        (x_of(at_s), bottom - (bottom - top) * min(1.0, mm_s / FULL_MM_S))
        for at_s, mm_s in take.twists
        if begin_s <= at_s <= now_s
    ]
    if len(points) > 1:
        pen.line(points, SKY_BLUE, 2)
    current = [mm_s for at_s, mm_s in take.twists if at_s <= now_s][-1:] or [0.0]
    words = f'speed of the twists to the arm: {current[0]:.0f} mm/s'
    write(pen, (left, PAGE['height'] + 18), words, TEXT, 15, 'lm')
    if now_s >= take.clicked_s:
        x = x_of(take.clicked_s)
        pen.line((x, top, x, bottom), VERMILLION, 2)
        took_ms = 1e3 * (first_zero_s(take) - take.clicked_s)
        told = f'first twist of zero {took_ms:.0f} ms after the click'
        write(pen, (right, PAGE['height'] + 18), told, GREEN, 15, 'rm')
    else:
        write(pen, (right, PAGE['height'] + 18), 'real time', MUTED, 15, 'rm')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
