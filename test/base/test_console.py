# SPDX-License-Identifier: Apache-2.0
"""Signals to a command."""

from __future__ import annotations

import signal
import subprocess
import sys

from support.places import ROOT

# A second signal interrupts the handler of the first one, wherever that is.
STORM = """
import os
from vla_ros.console import END_SIGNALS, catch_signals

request = catch_signals()
assert not request.is_set()
sender = os.fork()
if not sender:
    for number in range(100_000):
        os.kill(os.getppid(), END_SIGNALS[number % len(END_SIGNALS)])
    os._exit(0)
while os.waitpid(sender, os.WNOHANG) == (0, 0):
    pass
assert request.is_set()
"""


def test_signals_one_upon_the_other_stop_nothing() -> None:
    ended = subprocess.run([sys.executable, '-c', STORM], cwd=ROOT, timeout=60.0)
    assert ended.returncode == 0


def test_each_signal_to_end_is_noted() -> None:
    from vla_ros.console import END_SIGNALS, catching_signals

    for sent in END_SIGNALS:
        before = signal.getsignal(sent)
        with catching_signals() as request:
            signal.raise_signal(sent)
            assert request.is_set()
        assert signal.getsignal(sent) is before


LATE = """
import os, signal
from vla_ros.console import catch_signals, ignore_signals

class Late:
    def __del__(self, kill=os.kill, here=os.getpid(), sent=signal.SIGINT):  # at the end
        kill(here, sent)

request, late = catch_signals(), Late()
ignore_signals()
"""


def test_a_signal_while_the_interpreter_ends_kills_nothing() -> None:
    """launch repeats the SIGINT of a Ctrl-C, and would report a process that died."""
    for program, code in ((LATE, 0), (LATE.replace('\nignore_signals()', ''), -signal.SIGINT)):
        ended = subprocess.run([sys.executable, '-c', program], cwd=ROOT, timeout=60.0)
        assert ended.returncode == code
