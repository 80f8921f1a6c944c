# SPDX-License-Identifier: Apache-2.0
"""The browser that opens the operator's page, and servers of fake robots for it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from support.commands import kill_family
from support.places import ROOT
from vla_ros.serving.ports import family

# tools/install_chromium.sh has the same names.
_NAMES = ('chromium', 'chromium-browser', 'google-chrome')
_MAC = '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'
_START_S = 120.0  # on a busy machine a browser starts within twenty
_STARTS = 3


def chromium() -> str:
    """Return the path of the browser that is installed."""
    found = next(filter(None, map(shutil.which, _NAMES)), _MAC if Path(_MAC).exists() else None)
    assert found, 'no browser for the tests of the page: apt-get install chromium'
    return found


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """Provide a headless browser that opens pages."""
    for attempt in range(1, _STARTS + 1):
        try:
            browser, its_end = _start()
            break
        except Exception as error:  # playwright's: its processes were killed
            print(f'the browser did not start: {error}')
            if attempt == _STARTS:
                raise
    with its_end:
        yield browser


def _start() -> tuple[Browser, contextlib.ExitStack]:
    """Return a browser that has opened a page, and what ends it.

    Playwright waits for its driver and for pages without a limit: a late start is killed.
    """
    late = threading.Timer(_START_S, _kill_playwright)
    late.start()
    with contextlib.ExitStack() as its_end:
        its_end.callback(late.cancel)
        playwright = its_end.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium())
        its_end.callback(browser.close)
        browser.new_page().close()
        late.cancel()
        return browser, its_end.pop_all()


def _kill_playwright() -> None:
    """Kill its driver and the browsers of this process."""
    for driver in family(os.getpid()):
        if b'/playwright/driver/' in command_line(driver):
            kill_family(driver)


@contextlib.contextmanager
def frozen_browser() -> Iterator[None]:
    """Stop the processes of this process's browsers, as a laptop that sleeps does."""
    browsers = [one for one in family(os.getpid()) if b'--headless' in command_line(one)]
    assert browsers
    for one in browsers:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in browsers:
            os.kill(one, signal.SIGCONT)


def command_line(process: int) -> bytes:
    try:
        return Path(f'/proc/{process}/cmdline').read_bytes()
    except OSError:
        return b''  # it has ended


class FakeServer:
    """A process of ``support.fake_robots``. It can be killed and started again on its port."""

    def __init__(self, robots: str, *options: str) -> None:
        self._options, self._port = ('--robots', robots, '--limit', '2', *options), 0
        self._process: subprocess.Popen[str] | None = None
        self.url = ''

    def start(self) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / 'test'), os.environ.get('PYTHONPATH', '')])
        options = [*self._options, '--port', str(self._port)]
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'support.fake_robots', *options],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, 'PYTHONPATH': path},
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]
        self._port = int(self.url.rstrip('/').rpartition(':')[2])

    def command(self, robot: str, command: str) -> None:
        headers = {'Content-Type': 'application/json'}
        request = urllib.request.Request(
            f'{self.url}api/robots/{robot}/{command}', b'{}', headers, method='POST'
        )
        urllib.request.urlopen(request, timeout=10).close()

    def states(self) -> dict[str, Any]:
        """The states of the robots by key, as programs get them."""
        with urllib.request.urlopen(f'{self.url}api/robots', timeout=10) as answer:
            return {one['robot']: one for one in json.load(answer)['robots']}

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@contextlib.contextmanager
def fake_server(robots: str, *options: str) -> Iterator[FakeServer]:
    """Serve fake robots with these keys, such as ``left,right``; ``-`` is the only one."""
    server = FakeServer(robots, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
