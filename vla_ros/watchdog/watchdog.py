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
    """Start it early, beat often, and let it live until the process has ended.

    A child that dies is said and replaced, a few times.
    """

    def __init__(self, name: str, warn: Callable[[str], None] | None = None) -> None:
        """
        :param name: of this program, for messages.
        :param warn: hears what is wrong with the watchdog itself; None: standard error does.
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
        """Of the child; None if there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Have a child that counts from the first beat on."""
        if os.getpid() == 1:
            self.warn(
                'a stuck process 1 of a container can not be ended from within; start the '
                'container with an init (docker run --init)'
            )
        with self._lock:
            self._start_child()

    def beat(self, limit_s: float, why: str) -> None:
        """Live. Does not block.

        :param limit_s: the process may be silent for so long from now on.
        :param why: which limit that is, on one line.
        """
        with self._lock:
            if not self._is_last:
                self._write(limit_s, why)

    def end(self, limit_s: float, why: str) -> None:
        """Beat for the last time: the process has to end within ``limit_s``."""
        with self._lock:
            self._write(limit_s, why)
            self._is_last = True

    def close(self) -> None:
        """Watch no longer, in a process that goes on."""
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
            pass  # the child is suspended, and the pipe full of beats
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
                f'the watchdog has died {_MOST_STARTS} times; from now on a stuck process stays'
            )
            return
        if self._starts == 2:
            self.warn('the watchdog has died; another one is started')
        reads, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self._process = subprocess.Popen(
                # Isolated (-I) and without site-packages (-S): small, and nothing of ours in it.
                [sys.executable, '-I', '-S', _CHILD, self._name, str(os.getpid())],
                stdin=reads,
                stdout=subprocess.DEVNULL,
                cwd='/',
                start_new_session=True,  # the terminal's Ctrl-C and Ctrl-Z are not for it
            )
        except OSError as error:
            self.warn(f'no watchdog: {error}; a stuck process stays')
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
