# SPDX-License-Identifier: Apache-2.0
"""The operator's page in a browser: what the operator sees and does.

Most robots are fake (``support/fake_robots.py``); one has a real node.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from threading import Event

import pytest
from playwright.sync_api import Browser, Page, WebSocketRoute, expect

from support.browser import FakeServer, browsing, fake_server, frozen_browser
from support.forked import Forked
from support.graph import CameraThread, running_node
from support.nodes import PATIENT
from support.servo import Servo, written
from vla_ros.reasons import Reason, State
from vla_ros.serving.ports import free_port

expect.set_options(timeout=15_000)  # of the machine, not of the page
LAPTOP = {'viewport': {'width': 1280, 'height': 800}}
PHONE = {'viewport': {'width': 390, 'height': 844}, 'is_mobile': True, 'has_touch': True}
AXE = (resources.files('axe_playwright_python') / 'axe.min.js').read_text()
Open = Callable[..., Page]


@pytest.fixture(scope='module')
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope='module')
def server_of_two() -> Iterator[FakeServer]:
    with fake_server('left,right') as server:
        yield server


@pytest.fixture
def robots(server_of_two: FakeServer) -> FakeServer:
    """Robots left and right are ready, whatever the last test did."""

    def ready(robot: str) -> None:
        for command in ('hold', 'reset', 'enable'):
            server_of_two.command(robot, command)

    with ThreadPoolExecutor() as threads:
        for _ in threads.map(ready, ('left', 'right')):
            pass
    return server_of_two


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Open the page of a server; any error in it fails the test."""
    contexts, errors = [], []

    def visit(
        server: FakeServer | str,
        robot: str = '',
        delay: Callable[[WebSocketRoute], None] | None = None,
        **options: object,
    ) -> Page:
        context = browser.new_context(**{**LAPTOP, **options})
        contexts.append(context)
        page = context.new_page()
        if delay is not None:
            page.route_web_socket(re.compile('/api/messages'), delay)
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.goto(server if isinstance(server, str) else server.url)
        expect(page.locator('vla-link')).to_contain_text('Connected')
        if robot:
            page.locator(f'[data-robot={robot}]').click()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not errors


def mood(page: Page) -> object:
    return expect(page.locator('vla-state .mood'))


def stop_result(page: Page) -> object:
    return expect(page.locator('vla-stop .result'))


def instruct(page: Page, text: str) -> None:
    page.get_by_role('textbox', name='Instruction').fill(text)
    page.get_by_role('button', name='Instruct', exact=True).click()


def walk_away(page: Page, ago_ms: float, notice: str) -> None:
    """Have nobody touch the page for so long; then it says so."""
    for _ in range(30):
        last_touched(page, ago_ms)
        try:
            expect(page.locator('.notice')).to_contain_text(notice, timeout=500)
            return
        except AssertionError:
            pass  # a scroll or a movement of before was still on its way: a later touch
    raise AssertionError(f'the page does not say {notice!r}')


def last_touched(page: Page, ago_ms: float) -> None:
    """Touch the page while both its clocks are back by ``ago_ms``; nothing else sees them so."""
    page.evaluate(
        """(ago) => {
            const [monotonic, wall] = [performance.now, Date.now];
            performance.now = () => monotonic.call(performance) - ago;
            Date.now = () => wall() - ago;
            dispatchEvent(new Event('pointermove'));
            [performance.now, Date.now] = [monotonic, wall];
        }""",
        ago_ms,
    )


def resume(page: Page) -> None:
    for first, second in (('Reset…', 'Yes, reset'), ('Enable…', 'Yes, enable')):
        page.get_by_role('button', name=first).click()
        page.get_by_role('button', name=second).click()


def test_instruct_stop_reset_enable(visit: Open) -> None:
    with fake_server('-') as server:
        page = visit(server)
        mood(page).to_have_text('Holding')
        instruct(page, 'pick up the cup')
        mood(page).to_have_text('Acting')
        expect(page.locator('.instruction')).to_have_text('“pick up the cup”')
        expect(page.locator('.facts')).to_contain_text('held by this page')
        expect(page.locator('table.action tbody tr')).to_have_count(7)
        expect(page.locator('vla-image .compass svg')).to_have_attribute(
            'aria-label', re.compile('Action: x .* gripper')
        )
        expect(page.locator('vla-image')).not_to_have_attribute('data-old', 'true')

        page.get_by_role('button', name='STOP').click()
        stop_result(page).to_have_text('Stopped, confirmed')
        mood(page).to_have_text('Stopped')
        expect(page.get_by_role('button', name='Instruct', exact=True)).to_be_disabled()

        page.get_by_role('button', name='Reset…').click()
        page.get_by_role('button', name='Cancel').click()
        mood(page).to_have_text('Stopped')
        resume(page)
        mood(page).to_have_text('Holding')
        stop_result(page).to_be_hidden()
        expect(page.locator('.recent button')).to_have_text(['pick up the cup'])
        page.locator('.recent button').click()
        page.keyboard.press('Enter')
        mood(page).to_have_text('Acting')


def test_a_stop_on_one_page_is_seen_on_the_other(visit: Open, robots: FakeServer) -> None:
    first, second = visit(robots, 'left'), visit(robots, 'right')
    instruct(first, 'open the drawer')
    mood(first).to_have_text('Acting')
    mood(second).to_have_text('Holding')
    expect(second.locator('[data-robot=left] .mood')).to_have_text('Acting')

    second.get_by_role('textbox', name='Instruction').fill('half a sentence')
    second.keyboard.press('Escape')
    stop_result(second).to_contain_text('Stopped, confirmed: /left, /right')
    mood(first).to_have_text('Stopped')
    expect(first.locator('.why')).to_contain_text('stopped')
    for page in (first, second):
        resume(page)
    instruct(second, 'open the drawer')
    mood(second).to_have_text('Acting')
    second.get_by_role('button', name='Stop this robot').click()
    mood(second).to_have_text('Stopped')
    mood(first).to_have_text('Holding')
    resume(second)


def test_an_instruction_ends_with_the_visible_page(visit: Open, robots: FakeServer) -> None:
    page = visit(robots, 'left')
    instruct(page, 'wipe the table')
    mood(page).to_have_text('Acting')
    page.evaluate(
        """Object.defineProperty(document, 'visibilityState', {get: () => 'hidden'});
        document.dispatchEvent(new Event('visibilitychange'))"""
    )
    mood(page).to_have_text('Holding')
    expect(page.locator('vla-instruction')).to_contain_text('gave no sign of life')


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux lists the processes')
def test_an_operator_whose_laptop_slept_sees_that_the_instruction_ended_and_why(
    visit: Open, robots: FakeServer
) -> None:
    page = visit(robots, 'left')
    instruct(page, 'wipe the table')
    mood(page).to_have_text('Acting')
    with frozen_browser():
        while robots.states()['left']['lease']['holder']:
            time.sleep(0.1)
    notice = page.locator('.notice')
    expect(notice).to_contain_text('Your instruction for /left has ended')
    expect(notice).to_contain_text('This page gave no sign of life for 1.5 s: it was asleep')
    mood(page).to_have_text('Holding')
    notice.get_by_role('button', name='OK').click()
    expect(notice).to_be_hidden()

    instruct(page, 'wipe the table')
    mood(page).to_have_text('Acting')
    instruct(other := visit(robots, 'left'), 'open the drawer')
    expect(notice).to_contain_text('took it over')
    instruct(page, 'wipe the table')
    expect(notice).to_be_hidden()
    expect(other.locator('.notice')).to_contain_text('took it over')
    page.get_by_role('button', name='Hold', exact=True).click()
    mood(page).to_have_text('Holding')
    expect(notice).to_be_hidden()


def test_a_state_that_a_network_kept_takes_no_confirmation_of_a_stop_away(
    visit: Open, robots: FakeServer
) -> None:
    last: dict[str, str] = {}  # state of each robot before the stop
    is_stopped = Event()

    def delay(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def pass_on(message: str) -> None:
            told = json.loads(message)
            if told['type'] == 'state' and is_stopped.is_set():
                message = last[told['robot']]
            elif told['type'] == 'state':
                last[told['robot']] = message
            route.send(message)

        server.on_message(pass_on)

    page = visit(robots, 'left', delay=delay)
    instruct(page, 'open the drawer')
    mood(page).to_have_text('Acting')
    is_stopped.set()
    page.locator('button.stop').click()
    stop_result(page).to_have_text(re.compile('Stopped'))
    page.wait_for_timeout(1500)  # it was taken away by the second old state, 0.5 s after it
    stop_result(page).to_have_text(re.compile('Stopped'))


def test_an_operator_who_walks_away_is_asked_and_the_robot_holds(
    visit: Open, robots: FakeServer
) -> None:
    page = visit(robots, 'left')
    instruct(page, 'wipe the table')
    mood(page).to_have_text('Acting')
    walk_away(page, 275e3, 'Are you still there?')
    page.mouse.move(5, 5)
    expect(page.locator('.notice')).to_be_hidden()
    walk_away(page, 301e3, 'Nobody touched this page')
    mood(page).to_have_text('Holding')


def test_an_episode_is_recorded_marked_and_opened_by_a_command(
    visit: Open, robots: FakeServer
) -> None:
    page = visit(robots, 'left')
    card = page.locator('vla-recording')
    expect(card).to_contain_text('Off.')
    page.get_by_role('button', name='Record', exact=True).click()
    expect(card).to_contain_text('On: each instruction begins an episode.')
    instruct(page, 'wipe the table')
    command = card.locator('.command')
    expect(command).to_have_text(
        'vla_replay ~/.ros/vla_ros/recordings/20261128T134012.345Z_wipe-the-table --rerun '
        '--output shown'
    )
    page.get_by_role('button', name='Mark as a success').click()
    expect(card).to_contain_text('marked as a success')
    page.get_by_role('button', name='End recording').click()
    expect(card).to_contain_text('Off.')
    expect(command).to_be_visible()


def test_a_killed_node_is_said_and_its_stop_is_not_confirmed(visit: Open) -> None:
    with fake_server('left,right') as server:
        page = visit(server, 'right')
        instruct(page, 'die')
        mood(page).to_have_text('Does not report')
        expect(page.locator('.notice')).to_contain_text('The node of /right does not report')
        expect(page.get_by_role('button', name='Instruct', exact=True)).to_be_disabled()
        page.get_by_role('button', name='STOP ALL 2').click()
        stop_result(page).to_have_text('Not confirmed for /right: use the emergency stop')
        expect(page.locator('[data-robot=left] .mood')).to_have_text('Stopped')


def test_a_killed_server_greys_the_page_and_a_stop_is_tried_until_it_is_back(visit: Open) -> None:
    with fake_server('-') as server:
        page = visit(server)
        mood(page).to_have_text('Holding')
        server.kill()
        expect(page.locator('html')).to_have_attribute('data-connection', 'lost')
        expect(page.locator('.notice')).to_contain_text('what you see is old')
        assert page.locator('main').evaluate('e => getComputedStyle(e).filter') == 'grayscale(1)'
        assert page.title().startswith('⚠')
        page.get_by_role('button', name='STOP').click()
        stop_result(page).to_have_text('Not confirmed: use the emergency stop')
        server.start()
        stop_result(page).to_have_text('Stopped, confirmed')
        mood(page).to_have_text('Stopped')
        expect(page.locator('html')).to_have_attribute('data-connection', 'live')


@pytest.fixture
def console() -> Iterator[str]:
    """A process of vla_console; its URL."""
    port = free_port()
    process, url = Forked('vla_ros.cli.console', ['--port', str(port)]), f'http://127.0.0.1:{port}/'
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)
    yield url
    process.send_signal(signal.SIGINT)
    process.communicate(30)


def test_a_real_node_is_stopped_and_then_killed(visit: Open, console: str, tmp_path: Path) -> None:
    lasting = written(tmp_path, period_s=10.0)  # no motion ends by itself
    parameters = ('motion:=twist', 'frame_id:=arm_base', f'contracts:={lasting}', *PATIENT)
    with running_node(
        'model:=scripted:slow=0.05', 'max_instruction_age_s:=5.0', *parameters
    ) as running:
        stack, servo = running.robot, Servo(running.robot)
        with CameraThread(stack):
            stack.wait_for_state(State.HOLDING)
            page = visit(console)
            mood(page).to_have_text('Holding')
            expect(page.get_by_role('button', name='Instruct', exact=True)).to_be_enabled()
            instruct(page, 'go')
            mood(page).to_have_text('Acting')
            stack.wait_for(lambda: servo.heard and servo.heard[-1][1].any())
            expect(page.locator('vla-image')).not_to_have_attribute('data-old', 'true')

            stop = page.locator('button.stop')
            stop.evaluate(
                "e => e.addEventListener('click', () => (e.dataset.at = Date.now()), true)"
            )
            stop.click()
            stop_result(page).to_have_text('Stopped, confirmed')
            stack.wait_for_state(State.HOLDING, Reason.STOPPED)
            stack.wait_for(lambda: not servo.heard[-1][1].any())
            clicked_s = int(stop.get_attribute('data-at')) / 1000
            last_s = max(stamp_s for stamp_s, twist in servo.heard if twist.any())
            print(
                f'the last twist that was not zero left {last_s - clicked_s:.3f} s after the click'
            )

            resume(page)
            mood(page).to_have_text('Holding')
            assert not servo.heard[-1][1].any()
            assert last_s == max(stamp_s for stamp_s, twist in servo.heard if twist.any())

            killed_s = time.monotonic()
            running.process.send_signal(signal.SIGKILL)
            mood(page).to_have_text('Does not report')
            print(f'the page said so {time.monotonic() - killed_s:.2f} s after the node was killed')


def test_on_a_phone_stop_is_always_in_reach(visit: Open, robots: FakeServer) -> None:
    page = visit(robots, 'left', **PHONE)
    stop = page.locator('button.stop')
    for text in ('', 'x' * 300):  # and a text without a place to break
        page.locator('#text').fill(text)
        for top in (0, 900, 10**6):
            page.evaluate('top => scrollTo(0, top)', top)
            box = stop.bounding_box()
            assert box is not None
            assert box['y'] + box['height'] <= 844
            assert box['height'] >= 64
            assert box['width'] >= 350
            assert stop.evaluate(
                'e => { const b = e.getBoundingClientRect(); return '
                'e.contains(document.elementFromPoint(b.x + b.width / 2, b.y + b.height / 2)) }'
            )
    assert page.evaluate('document.documentElement.scrollWidth') == 390


@pytest.mark.parametrize('device', [LAPTOP, PHONE], ids=['laptop', 'phone'])
def test_axe_finds_nothing(visit: Open, robots: FakeServer, device: dict[str, object]) -> None:
    page = visit(robots, 'right', **device)
    page.evaluate(AXE)
    instruct(page, 'open the drawer')
    expect(page.locator('.compass svg')).to_be_visible()
    walk_away(page, 275e3, 'Are you still there?')
    check_by_axe(page)
    page.locator('button.stop').click()
    stop_result(page).to_contain_text('Stopped, confirmed')
    page.get_by_role('button', name='Reset…').click()
    check_by_axe(page)


def check_by_axe(page: Page) -> None:
    for colors, options in (('light', {}), ('dark', {'runOnly': ['color-contrast']})):
        page.emulate_media(color_scheme=colors)
        found = page.evaluate('options => axe.run(options)', options)['violations']
        assert not found, json.dumps([(one['id'], one['nodes'][0]['html']) for one in found])
