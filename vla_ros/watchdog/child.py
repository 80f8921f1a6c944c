# SPDX-License-Identifier: Apache-2.0
"""The watching process, which ends its parent when a beat does not come in time.

It reads beats from standard input, one a line: the seconds that the parent may be silent from now
on, and the name of this limit. It ends when the parent has ended. It is started by its path and
without site-packages, and imports little of the standard library, so it takes little memory.

A parent that was suspended (by SIGSTOP, Ctrl-Z or a debugger) is not stuck: the count restarts when
it continues. The same holds if this process was suspended, too, as in a paused container: only time
in which this process ran is counted.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

TICK_S = 0.1  # maximum delay in noticing the end of the parent or of its time
KILL_AFTER_S = 2.0  # maximum duration of SIGABRT with the stacks

_MOST_PER_TICK_S = 2 * TICK_S  # in any longer time this process did not run
_STDIN, _STDERR = 0, 2
_PIPE_BYTES = 1 << 16
_NOT_OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Silence:
    """The duration of the parent's silence, and its limit."""

    def __init__(self) -> None:
        self.limit_s = float('inf')  # until the first beat
        self.seconds = 0.0
        self.limit_name = ''

    @property
    def is_over(self) -> bool:
        """Whether the silence exceeds its limit."""
        return self.seconds > self.limit_s

    def restart(self, beat: str) -> None:
        """Start a new silence after a beat."""
        limit, _, self.limit_name = beat.partition(' ')
        self.limit_s = float(limit)
        self.seconds = 0.0

    def add(self, elapsed_s: float, suspended: bool) -> None:
        """Add time without a beat; restart the count if the parent is suspended."""
        self.seconds = 0.0 if suspended else self.seconds + min(elapsed_s, _MOST_PER_TICK_S)


class Parent:
    """The process that started this one, and its beats on standard input."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def has_ended(self) -> bool:
        """Return whether it has ended, even if a process that it forked keeps the pipe open."""
        return os.getppid() != self._pid

    def is_suspended(self) -> bool:
        """Return whether it is stopped (T), or halted by a debugger (t; X on macOS)."""
        try:
            with open(f'/proc/{self._pid}/stat', 'rb') as file:
                return file.read().rpartition(b') ')[2][:1] in (b'T', b't')
        except OSError:
            return self._is_suspended_by_ps()

    def _is_suspended_by_ps(self) -> bool:
        import subprocess  # only needed where there is no /proc

        command = ['ps', '-o', 'state=', '-p', str(self._pid)]
        try:
            state = subprocess.run(command, capture_output=True, timeout=5.0, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            return False
        return state.startswith(b'T') or b'X' in state

    def beats(self) -> list[str] | None:
        """Return the beats since the last call; None when there will be no more."""
        try:
            read = os.read(_STDIN, _PIPE_BYTES)
        except BlockingIOError:
            return []
        return read.decode().splitlines() if read else None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the parent has ended.

        While it is the parent, no other process has its number.
        """
        if not self.has_ended():
            os.kill(self._pid, number)


def wait_until_stuck(
    parent: Parent,
    sleep: Callable[[float], None] = time.sleep,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> str:
    """Return the message about a stuck parent; empty if the parent has ended."""
    silence = Silence()
    checked_s = monotonic_s()
    while not silence.is_over:
        sleep(TICK_S)
        elapsed_s = monotonic_s() - checked_s
        checked_s += elapsed_s
        beats = parent.beats()
        if beats is None or parent.has_ended():
            return ''
        if beats:
            silence.restart(beats[-1])
        else:
            silence.add(elapsed_s, parent.is_suspended())
    return (
        f'the process is stuck: no sign of life for {silence.seconds:.1f} s, {silence.limit_name}; '
        'it is ended by SIGABRT. One of the threads below is stuck in its first line; the thread '
        'called current only received the signal.'
    )


def end(
    parent: Parent,
    sleep: Callable[[float], None] = time.sleep,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> None:
    """Make the parent print its stacks and abort, or kill it if it does not.

    faulthandler prints the stacks without the interpreter's lock.
    """
    parent.send(signal.SIGABRT)
    ends_s = monotonic_s() + KILL_AFTER_S
    while not parent.has_ended() and monotonic_s() < ends_s:
        sleep(TICK_S)
    parent.send(signal.SIGKILL)


def main(name: str, pid: str) -> None:
    """Watch the parent until it ends or is stuck.

    :param name: name of the parent's program, for the message.
    :param pid: the parent's process id.
    """
    for number in _NOT_OURS:  # a service manager sends them to all processes of a service
        signal.signal(number, signal.SIG_IGN)
    os.set_blocking(_STDIN, False)
    parent = Parent(int(pid))
    if stuck := wait_until_stuck(parent):
        try:  # noqa: SIM105 - contextlib is not loaded
            os.write(_STDERR, f'{name}: {stuck}\n'.encode())
        except OSError:
            pass  # the terminal is gone; the parent must end nevertheless
        end(parent)


if __name__ == '__main__':
    main(*sys.argv[1:])
