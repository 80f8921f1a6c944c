# SPDX-License-Identifier: Apache-2.0
"""The watchdog by itself: how it counts, on a clock of its own, and what it does to a process.

What it does to the node is in test_faults_process.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.commands import PIPES, running_python
from support.places import ROOT
from vla_ros.parameters.definition import Parameters
from vla_ros.ros.loading import silence_limit
from vla_ros.scheduling import Phase, WorkerStatus
from vla_ros.watchdog import Watchdog, child

LIMIT_S = 1.0


# -- counting ----------------------------------------------------------------------------------


class Scene:
    """A parent, and the time by which the child counts; one tick is one moment of the plot."""

    def __init__(self, plot: Callable[[Scene, float], list[str] | None], tick_s: float) -> None:
        self.now_s = 0.0
        self.suspended = False
        self.ended = False
        self.sent: list[tuple[float, int]] = []
        self._plot, self._tick_s = plot, tick_s

    def beats(self) -> list[str] | None:
        return self._plot(self, self.now_s)

    def is_suspended(self) -> bool:
        return self.suspended

    def has_ended(self) -> bool:
        return self.ended

    def send(self, number: signal.Signals) -> None:
        if not self.ended:
            self.sent.append((self.now_s, number))

    def sleep(self, seconds: float) -> None:
        self.now_s += max(seconds, self._tick_s)

    def watch(self) -> str:
        return child.wait_until_stuck(self, self.sleep, self.now)  # type: ignore[arg-type]

    def end(self) -> None:
        child.end(self, self.sleep, self.now)  # type: ignore[arg-type]

    def now(self) -> float:
        return self.now_s


def beats_until(last_s: float, limit_s: float = LIMIT_S) -> Callable[[Scene, float], list[str]]:
    return lambda scene, now_s: [f'{limit_s} limit_s is 1 s'] * 5 if now_s <= last_s else []


def test_silence_beyond_the_limit_is_stuck() -> None:
    scene = Scene(beats_until(5.0), child.TICK_S)
    said = scene.watch()
    assert 5.0 + LIMIT_S < scene.now_s < 5.0 + LIMIT_S + 3 * child.TICK_S
    assert 'no sign of life for 1.' in said
    assert 'limit_s is 1 s' in said


def test_the_last_beat_sets_the_limit() -> None:
    def plot(scene: Scene, now_s: float) -> list[str]:
        return ['900.0 load', '0.5 hang'] if now_s < 5.0 else []

    scene = Scene(plot, child.TICK_S)
    assert ', hang;' in scene.watch()
    assert scene.now_s < 6.0


def test_nothing_is_counted_before_the_first_beat() -> None:
    def plot(scene: Scene, now_s: float) -> list[str] | None:
        return [] if now_s < 1000.0 else None

    assert Scene(plot, child.TICK_S).watch() == ''


@pytest.mark.parametrize('beats', [None, []])
def test_a_parent_that_has_ended_is_not_stuck(beats: list[str] | None) -> None:
    def plot(scene: Scene, now_s: float) -> list[str] | None:
        scene.ended = beats is not None  # a process that it forked keeps the pipe open
        return beats

    assert Scene(plot, child.TICK_S).watch() == ''


def test_a_suspended_parent_is_not_stuck_and_counts_anew_when_it_goes_on() -> None:
    def plot(scene: Scene, now_s: float) -> list[str]:
        scene.suspended = 2.0 < now_s < 100.0
        return ['1.0 x'] if now_s < 2.0 else []

    scene = Scene(plot, child.TICK_S)
    assert scene.watch()
    assert 100.0 + LIMIT_S < scene.now_s < 100.0 + LIMIT_S + 3 * child.TICK_S


def test_time_in_which_the_watchdog_did_not_run_is_not_counted() -> None:
    """As in a container that is paused: each tick takes a minute, and is counted as a short one."""
    scene = Scene(beats_until(60.0), 60.0)
    assert scene.watch()
    assert scene.now_s >= 60.0 + 5 * 60.0


def test_a_process_that_does_not_abort_is_killed() -> None:
    scene = Scene(beats_until(0.0), child.TICK_S)
    scene.end()
    (aborted_s, abort), (killed_s, kill) = scene.sent
    assert (abort, kill) == (signal.SIGABRT, signal.SIGKILL)
    assert killed_s - aborted_s == pytest.approx(child.KILL_AFTER_S, abs=2 * child.TICK_S)


def worker(phase: Phase, elapsed_s: float) -> WorkerStatus:
    return WorkerStatus(phase, elapsed_s, None, None, None, 0.0, None, None)


def test_the_limit_is_that_of_what_the_worker_does() -> None:
    parameters = Parameters(hang_timeout_s=3.0, load_timeout_s=100.0, warmup_timeout_s=200.0)
    margin_s = 0.5
    assert silence_limit(None, parameters) == (3.0 + margin_s, 'hang_timeout_s is 3 s')
    for phase in (Phase.READY, Phase.FAILED, Phase.CLOSED):
        assert silence_limit(worker(phase, 50.0), parameters)[0] == 3.0 + margin_s
    loading = silence_limit(worker(Phase.LOADING, 40.0), parameters)
    assert loading == (60.0 + margin_s, 'load_timeout_s is 100 s')
    assert silence_limit(worker(Phase.LOADING, 101.0), parameters)[0] == margin_s
    warming = silence_limit(worker(Phase.WARMING_UP, 0.0), parameters)
    assert warming == (200.0 + margin_s, 'warmup_timeout_s is 200 s')


# -- a process ---------------------------------------------------------------------------------


@pytest.fixture
def watched() -> Iterator[tuple[Watchdog, list[str]]]:
    """A watchdog of this process, which it does not end: the limits are long."""
    said: list[str] = []
    watchdog = Watchdog('test', said.append)
    watchdog.start()
    yield watchdog, said
    watchdog.close()


def is_there(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(') ')[2][0] != 'Z'
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    ends_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.01)


def test_a_watchdog_that_dies_is_said_once_and_replaced_a_few_times(
    watched: tuple[Watchdog, list[str]],
) -> None:
    watchdog, said = watched
    for death in range(1, 4):
        pid = watchdog.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_there(pid))  # noqa: B023
        watchdog.beat(1000.0, 'a test')
        assert said == ['the watchdog has died; another one is started'], death
        assert watchdog.pid not in (pid, None)
    assert watchdog.pid is not None
    os.kill(watchdog.pid, signal.SIGKILL)
    wait_until(lambda: not is_there(watchdog.pid or 0))
    for _ in range(3):
        watchdog.beat(1000.0, 'a test')
    assert said[1:] == ['the watchdog has died 4 times; from now on a stuck process is not ended']
    assert watchdog.pid is None


def test_a_beat_never_blocks(watched: tuple[Watchdog, list[str]]) -> None:
    watchdog, said = watched
    assert watchdog.pid is not None
    os.kill(watchdog.pid, signal.SIGSTOP)
    for _ in range(10_000):  # more than a pipe takes
        watchdog.beat(1000.0, 'a test')
    os.kill(watchdog.pid, signal.SIGCONT)
    watchdog.beat(1000.0, 'a test')
    assert said == []


def test_what_ends_a_service_does_not_end_the_watchdog(
    watched: tuple[Watchdog, list[str]],
) -> None:
    watchdog, said = watched
    pid = watchdog.pid
    assert pid is not None

    def ignores_them() -> bool:
        """It has come so far that it does."""
        [ignored] = [
            int(line.split()[1], 16)
            for line in Path(f'/proc/{pid}/status').read_text().splitlines()
            if line.startswith('SigIgn:')
        ]
        return bool(ignored >> (signal.SIGTERM - 1) & 1)

    wait_until(ignores_them)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(pid, number)
    assert os.getsid(pid) == pid  # the terminal's signals do not reach it
    watchdog.beat(1000.0, 'a test')
    assert is_there(pid)
    assert said == []


def test_its_process_imports_little() -> None:
    script = f'exec(open({child.__file__!r}).read(), {{"__name__": "child"}}); import sys; '
    script += 'print(*sys.modules)'
    command = [sys.executable, '-I', '-S', '-c', script]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {'subprocess', 'threading', 'typing', 'site', 'vla_ros', 'numpy'} & set(loaded)


STUCK = """
import ctypes, faulthandler, os, signal, sys
sys.path.insert(0, {root!r})
from vla_ros.watchdog import Watchdog
faulthandler.enable()
watchdog = Watchdog('test')
watchdog.start()
watchdog.beat(0.5, 'limit is 0.5 s')
print(watchdog.pid, flush=True)
{more}
ctypes.PyDLL(None).poll(None, 0, 60_000)
"""


@pytest.mark.parametrize(
    ('more', 'code', 'told'),
    [
        ('', -signal.SIGABRT, 'line 11 in <module>'),
        (
            'signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGABRT})',
            -signal.SIGKILL,
            'limit is 0.5 s',
        ),
        ('os.close(2)', -signal.SIGABRT, 'limit is 0.5 s'),
        ('os.fork() or signal.pause()', -signal.SIGABRT, 'line 11 in <module>'),
    ],
    ids=['', 'deaf to SIGABRT', 'no standard error', 'forked: the pipe stays open'],
)
def test_a_stuck_process_ends_and_the_watchdog_with_it(more: str, code: int, told: str) -> None:
    script = STUCK.format(root=str(ROOT), more=more)
    with running_python('-c', script, start_new_session=True, **PIPES) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert process.wait(20.0) == code
        wait_until(lambda: not is_there(pid))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stderr is not None
        said = process.stderr.read()
    assert 'test: the process is stuck: no sign of life for 0.' in said
    assert told in said
