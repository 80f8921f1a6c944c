# SPDX-License-Identifier: Apache-2.0
"""The watched process's side of the watchdog. Any thread may beat."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable

from vla_ros.watchdog import child

_CHILD = os.path.abspath(child.__file__)
_MOST_STARTS = 4


class Watchdog:
    """A watchdog for this process: start it early, beat often, and keep it until the process ends.

    A child that dies is reported and replaced, a few times.
    """

    def __init__(self, name: str, warn: Callable[[str], None] | None = None) -> None:
        """Make a watchdog that is not started yet.

        :param name: name of this program, for messages.
        :param warn: called with each fault of the watchdog itself; None: print it to stderr.
        """
        self.warn = warn or self._print
        self._name = name
        self._lock = threading.Lock()  # guards all below
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._is_last = False

    @property
    def pid(self) -> int | None:
        """Process id of the child; None if there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the child, which counts from the first beat on."""
        if os.getpid() == 1:
            self.warn(
                'a stuck process 1 of a container cannot be ended from within; start the '
                'container with an init (docker run --init)'
            )
        with self._lock:
            self._start_child()

    def beat(self, limit_s: float, why: str) -> None:
        """Report that the process is alive. Does not block.

        :param limit_s: maximum time until the next beat [s].
        :param why: name of this limit, on one line.
        """
        with self._lock:
            if not self._is_last:
                self._write(limit_s, why)

    def end(self, limit_s: float, why: str) -> None:
        """Beat for the last time: the process must end within ``limit_s``."""
        with self._lock:
            self._write(limit_s, why)
            self._is_last = True

    def close(self) -> None:
        """Stop watching a process that continues."""
        with self._lock:
            self._is_last = True
            self._end_child()

    # -- with the lock -----------------------------------------------------------------------------

    def _write(self, limit_s: float, why: str) -> None:
        if self._process is None:
            return
        beat = f'{limit_s:.3f} {why}\n'.encode()
        try:
            os.write(self._pipe, beat)
        except BlockingIOError:
            pass  # the child is suspended, and the pipe is full of beats
        except OSError:
            self._end_child()
            self._start_child()
            if self._process is not None:
                with contextlib.suppress(OSError):
                    os.write(self._pipe, beat)

    def _start_child(self) -> None:
        self._starts += 1
        if self._starts > _MOST_STARTS:
            self.warn(
                f'the watchdog has died {_MOST_STARTS} times; from now on a stuck process is not '
                'ended'
            )
            return
        if self._starts == 2:
            self.warn('the watchdog has died; another one is started')
        reads, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self._process = subprocess.Popen(
                # Isolated (-I) and without site-packages (-S), so that it is small.
                [sys.executable, '-I', '-S', _CHILD, self._name, str(os.getpid())],
                stdin=reads,
                stdout=subprocess.DEVNULL,
                cwd='/',
                start_new_session=True,  # it must not get the terminal's Ctrl-C and Ctrl-Z
            )
        except OSError as error:
            self.warn(f'no watchdog: {error}; a stuck process is not ended')
            os.close(self._pipe)
        finally:
            os.close(reads)

    def _end_child(self) -> None:
        if self._process is None:
            return
        os.close(self._pipe)
        self._process.kill()
        self._process.wait()
        self._process = None

    def _print(self, text: str) -> None:
        print(f'{self._name}: {text}', file=sys.stderr)
