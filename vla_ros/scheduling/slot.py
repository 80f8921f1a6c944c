# SPDX-License-Identifier: Apache-2.0
"""Slots between two threads, one for each source, that keep the newest item.

Every item that is put in is counted once when it leaves: as superseded, stale or taken. A take
returns all waiting items, at most one for each source: no source waits for another one's item.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar('T')


class SlotClosed(Exception):
    """Slots that are closed: no item can be put or taken any more."""


@dataclass(frozen=True)
class SlotStatistics:
    """Counters of one source: observations = superseded + stale + taken + waiting, always.

    :param observations: items that were put in.
    :param superseded: items that a newer one replaced.
    :param stale: items that were not fresh when taken, or were left at the end.
    :param taken: items that were taken fresh.
    :param waiting: items in the slot now, 0 or 1.
    """

    observations: int = 0
    superseded: int = 0
    stale: int = 0
    taken: int = 0
    waiting: int = 0


class _Slot(Generic[T]):
    """The item of one source, with its counters."""

    def __init__(self) -> None:
        self.item: T | None = None
        self.observations = 0
        self.superseded = 0
        self.stale = 0
        self.taken = 0


class LatestSlots(Generic[T]):
    """Slots for the newest item of each source. Any thread may put and take, under one lock."""

    def __init__(self, sources: int = 1) -> None:
        """Make empty slots.

        :param sources: number of sources, which are numbered from 0.
        """
        self._changed = threading.Condition()
        self._slots: list[_Slot[T]] = [_Slot() for _ in range(sources)]
        self._closed = False

    def put(self, item: T, source: int = 0) -> None:
        """Put an item in; it supersedes an item of the same source that still waits.

        :raises SlotClosed: after :meth:`close`.
        """
        with self._changed:
            if self._closed:
                raise SlotClosed
            slot = self._slots[source]
            if slot.item is not None:
                slot.superseded += 1
            slot.item = item
            slot.observations += 1
            self._changed.notify()

    def take(
        self,
        is_fresh: Callable[[T], bool],
        timeout_s: float,
        is_due: Callable[[T], bool] = lambda item: True,
    ) -> list[tuple[T, bool]]:
        """Wait until an item of any source is due, and take all that are.

        :param is_fresh: called under the lock, once for each item.
        :param timeout_s: maximum wait, seconds.
        :param is_due: called under the lock; an item that is not due waits on. Call :meth:`wake`
            when its answer may have changed.
        :returns: the items by source, each with whether it is fresh (then it counts as taken,
            otherwise as stale); empty if none came in time.
        :raises SlotClosed: after :meth:`close`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._any_is(is_due), timeout_s)
            if self._closed:
                raise SlotClosed
            taken = []
            for slot in self._slots:
                if slot.item is None or not is_due(slot.item):
                    continue
                item, slot.item = slot.item, None
                fresh = is_fresh(item)
                if fresh:
                    slot.taken += 1
                else:
                    slot.stale += 1
                taken.append((item, fresh))
            return taken

    def close(self) -> None:
        """Wake all waiting threads; items that are left count as stale."""
        with self._changed:
            self._closed = True
            for slot in self._slots:
                if slot.item is not None:
                    slot.item = None
                    slot.stale += 1
            self._changed.notify_all()

    def statistics(self, source: int = 0) -> SlotStatistics:
        with self._changed:
            slot = self._slots[source]
            waiting = int(slot.item is not None)
            return SlotStatistics(
                slot.observations, slot.superseded, slot.stale, slot.taken, waiting
            )

    def waiting(self, is_due: Callable[[T], bool] = lambda item: True) -> set[int]:
        """Return the sources whose items wait and are due."""
        with self._changed:
            return {
                source
                for source, slot in enumerate(self._slots)
                if slot.item is not None and is_due(slot.item)
            }

    def wake(self) -> None:
        """Let :meth:`take` ask again which items are due."""
        with self._changed:
            self._changed.notify_all()

    def _any_is(self, due: Callable[[T], bool]) -> bool:
        return any(slot.item is not None and due(slot.item) for slot in self._slots)
