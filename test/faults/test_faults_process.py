# SPDX-License-Identifier: Apache-2.0
"""What concerns the node's process itself: the interpreter's lock, suspensions, signals, crashes.

Injected through the real node in its own process, as docs/faults.md lists them.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import STOPPABLE
from support.graph import FRESH, CameraThread, Running, noise, running_node
from support.nodes import started
from support.servo import PATIENT, moving_node, written
from vla_ros.console import END_SIGNALS
from vla_ros.reasons import State
from vla_ros.ros.node import CLOSE_LIMIT_S

HANG_TIMEOUT_S = 1.0
WITHIN_S = 1.0  # beyond the limit
BLAMED = 'in _keep_lock'


def watchdogs_of(pid: int) -> list[int]:
    """The processes that watch this one, by their command lines."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            words = (folder / 'cmdline').read_bytes().split(b'\0')
            if words[-2:-1] == [str(pid).encode()] and any(w.endswith(b'/child.py') for w in words):
                found.append(int(folder.name))
    return found


def is_unwatched(running: Running) -> bool:
    """Whether the watchdog ends with the node, soon."""
    ends_s = time.monotonic() + 5.0
    while watchdogs_of(running.process.pid):
        if time.monotonic() > ends_s:
            return False
        time.sleep(0.02)
    return True


# -- the interpreter's lock --------------------------------------------------------------------


def test_a_call_that_keeps_the_lock_ends_the_process_and_is_blamed(tmp_path: Path) -> None:
    lasting = written(tmp_path, period_s=10.0)  # a motion that would go on
    model = 'model:=scripted:slow=0.1,lock@4'
    limits = (*PATIENT, f'hang_timeout_s:={HANG_TIMEOUT_S}')
    with moving_node(lasting, model, *limits) as (running, servo):
        stack = running.robot
        with CameraThread(stack):
            stack.say('go')
            stack.wait_for(lambda: len(stack.actions) == 3 and servo.moves)
            began_s = stack.acted_s[-1] + 0.1
            assert running.ends() == -signal.SIGABRT
            print(f'ended after {time.monotonic() - began_s:.2f} s')
            ended_s = stack.get_clock().now().nanoseconds / 1e9
        # There was no twist while the lock was kept.
        assert servo.heard[-1][0] < ended_s - HANG_TIMEOUT_S + WITHIN_S
        assert len(stack.actions) == 3
    assert f'hang_timeout_s is {HANG_TIMEOUT_S:g} s' in running.output
    assert BLAMED in running.output
    assert is_unwatched(running)


@pytest.mark.parametrize(
    ('model', 'limit'),
    [
        ('scripted:lock@load', 'load_timeout_s'),
        ('scripted:lock@warmup', 'warmup_timeout_s'),
    ],
)
def test_a_preparation_that_keeps_the_lock_ends_the_process(model: str, limit: str) -> None:
    with running_node(f'model:={model}', f'{limit}:=1.5') as running:
        assert running.ends() == -signal.SIGABRT
    silent_s = re.search(rf'no sign of life for (\S+) s, {limit} is 1.5 s', running.output)
    assert silent_s is not None
    assert float(silent_s[1]) < 1.5 + WITHIN_S
    assert BLAMED in running.output
    assert is_unwatched(running)


@pytest.mark.parametrize('when', ['load', 'warmup', '3'])
def test_a_lock_that_is_given_back_in_time_does_no_harm(when: str) -> None:
    limits = (f'hang_timeout_s:={HANG_TIMEOUT_S}',)
    kept_s = 0.5 if when == '3' else 2.5  # preparations have limits of their own
    with running_node(f'model:=scripted:lock={kept_s}@{when}', *limits) as running:
        stack = started(running.robot)
        for _ in range(3):
            stack.see(noise())
            stack.recovers()
    assert running.process.returncode == 0
    assert BLAMED not in running.output


def test_an_end_that_hangs_is_bounded() -> None:
    """A policy that keeps the lock while it gives back its memory."""
    script = """
import sys
from vla_ros.cli.node import main
from vla_ros.scripted import policy
class Clinging(policy.ScriptedPolicy):
    def close(self):
        policy._keep_lock(3600.0)
sys.exit(main(load_policy=lambda parameters, report: Clinging.from_script('scripted', report)))
"""
    with running_node(program=('-c', script)) as running:
        running.robot.wait_for_state(State.HOLDING)
        running.process.send_signal(signal.SIGINT)
        sent_s = time.monotonic()
        assert running.ends() == -signal.SIGABRT
        print(f'ended after {time.monotonic() - sent_s:.2f} s')
    assert f'the end of the process may take {CLOSE_LIMIT_S:g} s' in running.output
    assert BLAMED in running.output


# -- the watchdog itself -----------------------------------------------------------------------


def test_a_node_that_was_suspended_goes_on() -> None:
    parameters = ('model:=scripted', 'hang_timeout_s:=0.5')
    with running_node(*parameters, environment=STOPPABLE) as running:
        stack = started(running.robot)
        running.process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        running.process.send_signal(signal.SIGCONT)
        stack.recovers()
        time.sleep(1.0)
        stack.recovers()
    assert running.process.returncode == 0


def test_a_watchdog_that_is_killed_is_said_and_replaced() -> None:
    with running_node('model:=scripted:lock@2', f'hang_timeout_s:={HANG_TIMEOUT_S}') as running:
        stack = started(running.robot)
        [watchdog] = watchdogs_of(running.process.pid)
        os.kill(watchdog, signal.SIGKILL)
        stack.wait_for(lambda: watchdogs_of(running.process.pid) not in ([], [watchdog]))
        stack.see(noise())
        assert running.ends() == -signal.SIGABRT  # the other one watches, too
    assert running.output.count('the watchdog has died; another one is started') == 1


def ends_by(sent: signal.Signals) -> Callable[[Running], object]:
    def end(running: Running) -> None:
        running.robot.wait_for_state(State.HOLDING)
        running.process.send_signal(sent)

    return end


def calls_once(running: Running) -> None:
    started(running.robot)
    running.robot.see(noise())


HANGS = ('inference_timeout_s:=0.2', 'hang_timeout_s:=0.4')
ENDS: dict[str, tuple[tuple[str, ...], Callable[[Running], object], int]] = {
    'a signal': (('model:=scripted',), ends_by(signal.SIGINT), 0),
    'unusable arguments': (('model:=1',), lambda running: None, 2),
    'a hung inference': (('model:=scripted:hung@2', *HANGS), calls_once, 70),
    'a library': (('model:=scripted:exit=3@2',), calls_once, 3),
    'a crash': (('model:=scripted:exit@2',), calls_once, -signal.SIGABRT),
    'SIGKILL': (('model:=scripted',), ends_by(signal.SIGKILL), -signal.SIGKILL),
}


@pytest.mark.parametrize('end', ENDS)
def test_the_watchdog_ends_with_the_node(end: str) -> None:
    parameters, act, code = ENDS[end]
    with running_node(*parameters) as running:
        act(running)
        assert running.ends() == code
    assert is_unwatched(running)


# -- signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize('sent', END_SIGNALS)
def test_a_signal_that_asks_for_the_end_ends_it(sent: signal.Signals) -> None:
    with running_node('model:=scripted', program=FRESH) as running:
        stack = started(running.robot)
        running.process.send_signal(sent)
        assert running.ends() == 0
        stack.wait_for_state(State.READY)  # its last word
    assert 'Traceback' not in running.output


def test_nohup_keeps_it_when_the_terminal_goes_away() -> None:
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # of this process, and so of the node
    try:
        with running_node('model:=scripted', program=FRESH) as running:
            stack = started(running.robot)
            running.process.send_signal(signal.SIGHUP)
            stack.recovers()
            running.process.send_signal(signal.SIGTERM)
            assert running.ends() == 0
    finally:
        signal.signal(signal.SIGHUP, ignored)


# -- crashes -----------------------------------------------------------------------------------


@pytest.mark.parametrize('sent', [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_a_native_crash_prints_every_stack(sent: signal.Signals) -> None:
    with running_node('model:=scripted', program=FRESH) as running:
        running.robot.wait_for_state(State.HOLDING)
        running.process.send_signal(sent)
        assert running.ends() == -sent
    assert 'Fatal Python error' in running.output
    assert 'vla_ros/cli/node.py' in running.output  # the executor's
    assert 'vla_ros/scheduling/worker.py' in running.output  # the worker's
