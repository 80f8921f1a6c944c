# SPDX-License-Identifier: Apache-2.0
"""The thread ``vla-recorder``, which writes the episodes of all robots of a node.

Its jobs wait in a queue of bounded size. One condition guards the queue; each track has a lock of
its own, which is never held while the condition is taken.
"""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

_IDLE_WAIT_S = 1.0  # limit of every wait of the thread


@dataclass
class RecordingCounters:
    """Counters of a robot's messages that were to be recorded.

    :param recording_messages: messages of episodes. The other five sum to it.
    :param recording_written: messages that the operating system has taken.
    :param recording_dropped: messages for which the queue had no room: the disk is too slow.
    :param recording_no_space: messages that were not written because the disk is almost full.
    :param recording_failed: messages that were not written because of an error.
    :param recording_waiting: messages in the queue now.
    """

    recording_messages: int = 0
    recording_written: int = 0
    recording_dropped: int = 0
    recording_no_space: int = 0
    recording_failed: int = 0
    recording_waiting: int = 0


# A counter -> the counters whose sum it is, at every moment.
RECORDING_EQUATIONS: Mapping[str, tuple[str, ...]] = {
    'recording_messages': tuple(one.name for one in fields(RecordingCounters))[1:]
}


@dataclass(frozen=True)
class RecorderLimits:
    """Where recordings are written, and how much of the machine they may take.

    :param folder: has one folder for each episode.
    :param min_free_bytes: space that other programs keep on its disk.
    :param max_waiting_bytes: of the messages in the queue.
    """

    folder: Path
    min_free_bytes: int
    max_waiting_bytes: int

    def free_bytes(self) -> int:
        """Return the free space of the disk.

        :raises OSError: if the system does not tell.
        """
        folder = next(one for one in (self.folder, *self.folder.parents) if one.exists())
        return shutil.disk_usage(folder).free


class Recorder:
    """A thread that carries out jobs in their order. Close it once."""

    def __init__(self, limits: RecorderLimits) -> None:
        """Prepare the thread without starting it."""
        self.limits = limits
        self._condition = threading.Condition()  # guards all below
        self._jobs: deque[tuple[int, Callable[[], None]]] = deque()
        self._waiting_bytes = 0  # with those of the running job
        self._closing = False
        self._thread = threading.Thread(target=self._run, name='vla-recorder', daemon=True)

    def start(self) -> None:
        """Start the thread, unless it is started."""
        if self._thread.ident is None:
            self._thread.start()

    # -- any thread ------------------------------------------------------------------------------

    def put(self, job: Callable[[], None], size: int = 0) -> bool:
        """Append a job, and return immediately.

        :param job: must not raise an error.
        :param size: bytes that it keeps in memory; 0: it is never dropped.
        :returns: whether there was room for it.
        """
        with self._condition:
            full = self._waiting_bytes + size > self.limits.max_waiting_bytes
            if size and full and self._waiting_bytes:  # one that is larger than all is taken alone
                return False
            self._waiting_bytes += size
            self._jobs.append((size, job))
            self._condition.notify()
        return True

    def close(self) -> None:
        """Let the thread end when its jobs are done, and return immediately."""
        with self._condition:
            self._closing = True
            self._condition.notify()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; return whether it has."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- its thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._jobs and not self._closing:
                    self._condition.wait(_IDLE_WAIT_S)
                if not self._jobs:
                    return
                size, job = self._jobs.popleft()
            job()
            del job  # and the messages that it keeps
            with self._condition:
                self._waiting_bytes -= size
