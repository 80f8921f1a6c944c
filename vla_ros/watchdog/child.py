"""The process that watches: it ends its parent when no beat came in time.

It reads beats from standard input, one a line: for how many seconds the parent may be silent from
now on, and a text that says why. It ends when the parent has ended. Started by its path and
without site-packages, it imports little of the standard library, and so takes little memory.

A parent that was suspended (by SIGSTOP, Ctrl-Z or a debugger) is not stuck: the count starts anew
when it goes on. So it is when this process was suspended as well, as in a container that was
paused: only time in which this process ran is counted.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

TICK_S = 0.1  # by so much the end of the parent, or of its time, may be noticed late
KILL_AFTER_S = 2.0  # that SIGABRT may take, with the stacks

_MOST_PER_TICK_S = 2 * TICK_S  # beyond, this process did not run
_STDIN, _STDERR = 0, 2
_PIPE_BYTES = 1 << 16
_NOT_OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Silence:
    """How long the parent has been silent, and how long it may be."""

    def __init__(self) -> None:
        self.limit_s = float('inf')  # until the first beat
        self.seconds = 0.0
        self.why = ''

    @property
    def is_over(self) -> bool:
        return self.seconds > self.limit_s

    def break_off(self, beat: str) -> None:
        """A beat came."""
        limit, _, self.why = beat.partition(' ')
        self.limit_s = float(limit)
        self.seconds = 0.0

    def go_on(self, elapsed_s: float, suspended: bool) -> None:
        """No beat came, while so much time went by."""
        self.seconds = 0.0 if suspended else self.seconds + min(elapsed_s, _MOST_PER_TICK_S)


class Parent:
    """The process that started this one, and its beats on standard input."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def has_ended(self) -> bool:
        """Also where a process that it forked keeps the pipe open."""
        return os.getppid() != self._pid

    def is_suspended(self) -> bool:
        """Return whether it is stopped (T), or halted by a debugger (t; X on macOS)."""
        try:
            with open(f'/proc/{self._pid}/stat', 'rb') as file:
                return file.read().rpartition(b') ')[2][:1] in (b'T', b't')
        except OSError:
            return self._is_suspended_by_ps()

    def _is_suspended_by_ps(self) -> bool:
        import subprocess  # as seldom as a parent is silent where there is no /proc

        command = ['ps', '-o', 'state=', '-p', str(self._pid)]
        try:
            state = subprocess.run(command, capture_output=True, timeout=5.0, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            return False
        return state.startswith(b'T') or b'X' in state

    def beats(self) -> list[str] | None:
        """Return those that have come since; None when there will be no more."""
        try:
            read = os.read(_STDIN, _PIPE_BYTES)
        except BlockingIOError:
            return []
        return read.decode().splitlines() if read else None

    def send(self, number: signal.Signals) -> None:
        """Unless it has ended; as long as it is the parent, no other process has its number."""
        if not self.has_ended():
            os.kill(self._pid, number)


def wait_until_stuck(
    parent: Parent,
    sleep: Callable[[float], None] = time.sleep,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> str:
    """Return what to say about a parent that is stuck; nothing, if it has ended."""
    silence = Silence()
    looked_s = monotonic_s()
    while not silence.is_over:
        sleep(TICK_S)
        elapsed_s = monotonic_s() - looked_s
        looked_s += elapsed_s
        beats = parent.beats()
        if beats is None or parent.has_ended():
            return ''
        if beats:
            silence.break_off(beats[-1])
        else:
            silence.go_on(elapsed_s, parent.is_suspended())
    return (
        f'the process is stuck: no sign of life for {silence.seconds:.1f} s, {silence.why}; it is '
        'ended by SIGABRT. The line to blame is the first of one of the threads below; the one '
        'called current only heard the signal.'
    )


def end(
    parent: Parent,
    sleep: Callable[[float], None] = time.sleep,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> None:
    """Have it print its stacks and abort (faulthandler does that without the lock), or kill it."""
    parent.send(signal.SIGABRT)
    ends_s = monotonic_s() + KILL_AFTER_S
    while not parent.has_ended() and monotonic_s() < ends_s:
        sleep(TICK_S)
    parent.send(signal.SIGKILL)


def main(name: str, pid: str) -> None:
    """
    :param name: of the parent's program, for the message.
    """
    for number in _NOT_OURS:  # a service manager sends them to all processes of a service
        signal.signal(number, signal.SIG_IGN)
    os.set_blocking(_STDIN, False)
    parent = Parent(int(pid))
    if stuck := wait_until_stuck(parent):
        try:  # noqa: SIM105 - contextlib is not loaded
            os.write(_STDERR, f'{name}: {stuck}\n'.encode())
        except OSError:
            pass  # the terminal is gone; the parent has to end all the same
        end(parent)


if __name__ == '__main__':
    main(*sys.argv[1:])
