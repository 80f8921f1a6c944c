"""Places for one item of each source between two threads; in each the newest wins.

Every item that goes in is counted once on its way out: superseded, stale or taken. Who takes gets
all that wait, one of each source at most: no source waits for another to have something.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar('T')


class SlotClosed(Exception):
    """The slots take and give nothing any more."""


@dataclass(frozen=True)
class SlotStatistics:
    """Of one source. At every moment, observations = superseded + stale + taken + waiting.

    :param observations: items put in.
    :param superseded: overwritten by a newer one.
    :param stale: found not fresh when their turn came, or left over at the end.
    :param taken: given out fresh.
    :param waiting: in the slot now, 0 or 1.
    """

    observations: int = 0
    superseded: int = 0
    stale: int = 0
    taken: int = 0
    waiting: int = 0


class _Slot(Generic[T]):
    """What one source has put in, and what became of it."""

    def __init__(self) -> None:
        self.item: T | None = None
        self.observations = 0
        self.superseded = 0
        self.stale = 0
        self.taken = 0


class LatestSlots(Generic[T]):
    """Holds one item of each source. Any thread may put, any may take; one lock guards all."""

    def __init__(self, sources: int = 1) -> None:
        """
        :param sources: how many there are; each is a number from 0 on.
        """
        self._changed = threading.Condition()
        self._slots: list[_Slot[T]] = [_Slot() for _ in range(sources)]
        self._closed = False

    def put(self, item: T, source: int = 0) -> None:
        """Put an item in; one of this source that is there already is superseded.

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

    def take(self, is_fresh: Callable[[T], bool], timeout_s: float) -> list[tuple[T, bool]]:
        """Wait until there is an item of any source, and take out all there are.

        :param is_fresh: asked, under the lock, once per item.
        :param timeout_s: how long to wait, seconds.
        :returns: the items by source, each with whether it is fresh (then it counts as taken,
            otherwise as stale); empty if none came in time.
        :raises SlotClosed: after :meth:`close`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._any_waits(), timeout_s)
            if self._closed:
                raise SlotClosed
            taken = []
            for slot in self._slots:
                if slot.item is None:
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
        """Wake whoever waits; what is left counts as stale."""
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

    def waiting(self) -> set[int]:
        """The sources of which an item waits."""
        with self._changed:
            return {source for source, slot in enumerate(self._slots) if slot.item is not None}

    def _any_waits(self) -> bool:
        return any(slot.item is not None for slot in self._slots)
