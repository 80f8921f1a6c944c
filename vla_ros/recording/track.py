# SPDX-License-Identifier: Apache-2.0
"""What one robot records: its episodes, one after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vla_ros.reasons import Cause, Reason
from vla_ros.recording.episode import FACT_PREFIX, Episode, NameTaken
from vla_ros.recording.recorder import Recorder, RecordingCounters

_MOST_OF_A_NAME = 100  # episodes of the same millisecond and instruction

Serialize = Callable[[Any], bytes]


class OpenBag(Protocol):
    """The rosbag2 of an episode, as :class:`~vla_ros.recording.bag.Bag`."""

    def write(self, topic: str, time_ns: int, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def close(self, custom_data: Mapping[str, str]) -> None: ...
    def cut(self) -> None: ...


MakeBag = Callable[[Path, Mapping[str, str]], OpenBag]


@dataclass(frozen=True)
class Batch:
    """Messages that are recorded together or not at all.

    :param time_ns: when they are recorded; each one of them 1 ns after the one before it.
    :param size: their bytes in memory, about.
    :param messages: topics and messages; the recorder's thread serializes them.
    """

    time_ns: int
    size: int
    messages: Sequence[tuple[str, Any]]

    @property
    def count(self) -> int:
        """How many messages there are."""
        return len(self.messages)


class TrackReport(NamedTuple):
    """What the status says of a track.

    :param episode: name of the current episode, or of the last one; empty: there was none.
    :param success: whether it was marked as a success.
    :param cause: why not all of it is recorded; None if all is.
    """

    counters: RecordingCounters
    episode: str
    success: bool
    cause: Cause | None


class Track:
    """The episodes of one robot, written by a recorder's thread."""

    def __init__(
        self, recorder: Recorder, serialize: Serialize, make_bag: MakeBag | None = None
    ) -> None:
        """Begin without an episode.

        :param serialize: turns a message into CDR.
        :param make_bag: opens the rosbag2 of an episode, in place of our own.
        """
        self._recorder, self._limits = recorder, recorder.limits
        self._serialize, self._make_bag = serialize, make_bag
        self._current: Episode | None = None  # executor only
        # Recorder only: the last episode that it opened, its open bag, and why there is none.
        self._opened: Episode | None = None
        self._bag: OpenBag | None = None
        self._why_none = Reason.NONE
        self._lock = threading.Lock()  # guards all below, and what changes in episodes
        self._counters = RecordingCounters()
        self._last: Episode | None = None
        self._cause: Cause | None = None

    # -- executor only -----------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether there is an episode now."""
        return self._current is not None

    def begin(self, episode: Episode) -> None:
        """Begin an episode; the one before must have ended."""
        self._current = episode
        with self._lock:
            self._last, self._cause = episode, None
        self._recorder.put(lambda: self._open(episode))

    def add(self, batch: Batch) -> bool:
        """Record messages of the current episode; return whether the queue had room for them."""
        episode = self._current
        if episode is None:
            return False
        with self._lock:
            self._counters.recording_messages += batch.count
            self._counters.recording_waiting += batch.count
        if self._recorder.put(lambda: self._write(episode, batch), max(1, batch.size)):
            return True
        with self._lock:
            self._counters.recording_waiting -= batch.count
            self._counters.recording_dropped += batch.count
            episode.lost += batch.count
            if self._cause is None or self._cause.reason is Reason.RECORDING_BEHIND:
                self._cause = _behind(episode, self._limits.max_waiting_bytes)
        return False

    def end(self, why: str) -> None:
        """End the current episode, if there is one."""
        episode, self._current = self._current, None
        if episode is not None:
            self._recorder.put(lambda: self._close(episode, why))

    def mark_success(self) -> str:
        """Mark the current episode, or else the last one, as a success; return its name.

        Empty if there was none.
        """
        with self._lock:
            episode = self._last
            if episode is None:
                return ''
            episode.success = True
        self._recorder.put(lambda: self._save_mark(episode))
        return episode.name

    def report(self) -> TrackReport:
        """Return the counters and the cause now."""
        with self._lock:
            episode = self._last
            return TrackReport(
                dataclasses.replace(self._counters),
                episode.name if episode else '',
                bool(episode and episode.success),
                self._cause,
            )

    # -- recorder only -----------------------------------------------------------------------------

    def _path(self, episode: Episode) -> Path:
        return self._limits.folder / episode.name

    def _open(self, episode: Episode) -> None:
        self._opened, self._bag = episode, None
        try:
            if cause := self._no_space():
                self._tell(episode, cause)
                return
            self._bag = self._make(episode)
        except Exception as error:
            self._fail(episode, error)

    def _make(self, episode: Episode) -> OpenBag:
        """Return the episode's bag, under another name if another node has taken its own."""
        make_bag, name = self._make_bag or _bag_class(), episode.name
        for number in range(2, _MOST_OF_A_NAME + 1):
            try:
                return make_bag(self._path(episode), episode.topics)
            except NameTaken:
                with self._lock:
                    episode.name = f'{name}_{number}'
        return make_bag(self._path(episode), episode.topics)

    def _write(self, episode: Episode, batch: Batch) -> None:
        reason = self._written(episode, batch)
        with self._lock:
            self._counters.recording_waiting -= batch.count
            if reason is Reason.NONE:
                self._counters.recording_written += batch.count
                return
            episode.lost += batch.count
            if reason is Reason.RECORDING_NO_SPACE:
                self._counters.recording_no_space += batch.count
            else:
                self._counters.recording_failed += batch.count

    def _written(self, episode: Episode, batch: Batch) -> Reason:
        """Write the messages; return NONE, or why they could not be written."""
        if self._bag is None:
            return self._why_none
        try:
            if cause := self._no_space():
                self._close(episode, cause.reason.name)
                return self._tell(episode, cause)
            # Before any of them is written: one that cannot be made costs only its batch.
            messages = [(topic, self._serialize(one)) for topic, one in batch.messages]
        except Exception as error:
            return self._tell(episode, self._failure(episode, error))
        try:
            for index, (topic, data) in enumerate(messages):
                self._bag.write(topic, batch.time_ns + index, data)
            self._bag.flush()
        except Exception as error:
            return self._fail(episode, error)
        return Reason.NONE

    def _close(self, episode: Episode, why: str) -> None:
        if self._bag is None:
            return
        try:
            with self._lock:
                custom_data = episode.custom_data(why)
            self._bag.close(custom_data)
            self._bag = None
        except Exception as error:
            self._fail(episode, error)

    def _save_mark(self, episode: Episode) -> None:
        """Mark a closed episode; one that is open is marked when it is closed.

        Why an episode is not recorded says more than that its mark cannot be written.
        """
        if self._bag is not None and self._opened is episode:
            return
        try:
            from vla_ros.recording.bag import set_custom_data

            set_custom_data(self._path(episode), {f'{FACT_PREFIX}success': 'true'})
        except Exception as error:
            if self.report().cause is None:
                self._tell(episode, self._failure(episode, error))

    def _no_space(self) -> Cause | None:
        """Return the cause if the disk has less free space than it must keep."""
        free, limit = self._limits.free_bytes(), self._limits.min_free_bytes
        if free >= limit:
            return None
        return Cause(
            Reason.RECORDING_NO_SPACE,
            f'not recorded: {self._limits.folder} has {free / 1e9:.3g} GB free, '
            f'recording_min_free_gb is {limit / 1e9:g}; delete recordings there, or name another '
            'recording_folder',
        )

    def _fail(self, episode: Episode, error: Exception) -> Reason:
        """Keep what was written whole; the rest of the episode is not recorded."""
        if self._bag is not None:
            self._bag.cut()
            self._bag = None
        return self._tell(episode, self._failure(episode, error))

    def _failure(self, episode: Episode, error: Exception) -> Cause:
        return Cause(
            Reason.RECORDING_FAILED,
            f'not recorded: {self._path(episode)} cannot be written ({type(error).__name__}: '
            f'{error}); check the disk, and the permissions of recording_folder',
        )

    def _tell(self, episode: Episode, cause: Cause) -> Reason:
        """Keep the cause, and return its reason."""
        self._why_none = cause.reason
        with self._lock:
            if self._last is episode:
                self._cause = cause
        return cause.reason


def _bag_class() -> MakeBag:
    """Return our own bag, whose library is loaded in no process that records nothing."""
    from vla_ros.recording.bag import Bag

    return Bag


def prepare() -> None:
    """Load what the first episode needs. A failure is told when that begins."""
    with contextlib.suppress(Exception):
        from vla_ros.recording.bag import message_types

        message_types()


def _behind(episode: Episode, max_waiting_bytes: int) -> Cause:
    return Cause(
        Reason.RECORDING_BEHIND,
        f'{episode.lost} messages of the episode {episode.name} are not recorded: the disk is too '
        f'slow, and what waits for it would exceed recording_queue_mb, {max_waiting_bytes / 1e6:g}',
    )
