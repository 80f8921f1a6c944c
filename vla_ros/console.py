# SPDX-License-Identifier: Apache-2.0
"""The terminal side of a command: progress and errors on standard error, and signals."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

from vla_ros.text import printable

Say = Callable[[str], None]  # reports progress, one line a call

# Ctrl-C; launch or a service manager; a closed terminal; Ctrl-\.
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def say(text: str) -> None:
    """Report progress on one line of standard error; standard output is for the report."""
    print(f'{time.strftime("%H:%M:%S")} {printable(text)}', file=sys.stderr, flush=True)


def complain(command: str, error: Exception) -> None:
    """Print why a command fails, on one line of standard error."""
    print(f'{command}: {printable(str(error))}', file=sys.stderr)


def unbuffer_output() -> None:
    """Write each line immediately, also through a pipe, as under launch."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def forget_output() -> None:
    """Keep Python from flushing output at its end that can't be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())


class EndRequest:
    """A flag that signals to end set. Used by the main thread.

    No lock is taken, unlike in threading.Event: a second signal may interrupt the handler of the
    first one, in the same thread, which would then wait for itself.
    """

    def __init__(self) -> None:
        self._has_come = False

    def is_set(self) -> bool:
        """Return whether a signal to end has come."""
        return self._has_come

    def set(self) -> None:
        """Set the flag; for signal handlers."""
        self._has_come = True


def catch_signals() -> EndRequest:
    """Catch the signals to end, and return the flag that they set.

    None of them raises KeyboardInterrupt any more.

    A KeyboardInterrupt while rclpy converts a message would become another error. Main thread only.
    Call it before ``rclpy.init``, which passes signals on to earlier handlers. A SIGHUP that nohup
    ignores stays ignored.
    """
    request = EndRequest()
    for number in _unignored():
        signal.signal(number, lambda *_: request.set())
    return request


def ignore_signals() -> None:
    """Ignore signals to end from now on: the process ends anyway.

    launch sends a second SIGINT after a Ctrl-C. While the interpreter ends, which takes a while on
    a busy machine, no handler of Python is called any more, and the signal would kill it.
    """
    for number in _unignored():
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def catching_signals() -> Iterator[EndRequest]:
    """Catch signals as :func:`catch_signals`, until the block ends."""
    with _handlers_restored():
        yield catch_signals()


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Raise KeyboardInterrupt at every signal to end, so that ``finally`` runs."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handlers_restored():
        for number in _unignored():
            signal.signal(number, interrupt)
        yield


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Handle signals to end after the block, which must not be interrupted."""
    came: list[int] = []
    try:
        with _handlers_restored():
            for number in _unignored():
                signal.signal(number, lambda sent, _: came.append(sent))
            yield
    finally:
        for one in came:
            signal.raise_signal(one)


@contextlib.contextmanager
def _handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unignored() -> list[signal.Signals]:
    """Return the signals to handle: all but a SIGHUP under nohup.

    A background process of a shell ignores SIGINT; we handle it, since it was sent on purpose.
    """
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in END_SIGNALS if not (nohup and number is signal.SIGHUP)]
