"""A place for one item between two threads, in which the newest wins.

Every item that goes in is counted once on its way out: superseded, stale or taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar('T')


class SlotClosed(Exception):
    """The slot takes and gives nothing any more."""


@dataclass(frozen=True)
class SlotStatistics:
    """At every moment, submitted = superseded + stale + taken + waiting.

    :param submitted: items put in.
    :param superseded: overwritten by a newer one.
    :param stale: found not fresh when their turn came, or left over at the end.
    :param taken: given out fresh.
    :param waiting: in the slot now, 0 or 1.
    """

    submitted: int = 0
    superseded: int = 0
    stale: int = 0
    taken: int = 0
    waiting: int = 0


class LatestSlot(Generic[T]):
    """Holds one item. Any thread may put, any may take; one lock guards all."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False
        self._submitted = 0
        self._superseded = 0
        self._stale = 0
        self._taken = 0

    def put(self, item: T) -> None:
        """Put an item in; one that is there already is superseded.

        :raises SlotClosed: after :meth:`close`.
        """
        with self._changed:
            if self._closed:
                raise SlotClosed
            if self._item is not None:
                self._superseded += 1
            self._item = item
            self._submitted += 1
            self._changed.notify()

    def take(self, is_fresh: Callable[[T], bool], timeout_s: float) -> tuple[T, bool] | None:
        """Wait for an item and take it out.

        :param is_fresh: asked, under the lock, once per item.
        :param timeout_s: how long to wait, seconds.
        :returns: the item and whether it is fresh (then it counts as taken, otherwise as stale);
            None if none came in time.
        :raises SlotClosed: after :meth:`close`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None, timeout_s)
            if self._closed:
                raise SlotClosed
            if self._item is None:
                return None
            item, self._item = self._item, None
            fresh = is_fresh(item)
            if fresh:
                self._taken += 1
            else:
                self._stale += 1
            return item, fresh

    def close(self) -> None:
        """Wake whoever waits; what is left in the slot counts as stale."""
        with self._changed:
            self._closed = True
            if self._item is not None:
                self._item = None
                self._stale += 1
            self._changed.notify_all()

    def statistics(self) -> SlotStatistics:
        with self._changed:
            waiting = int(self._item is not None)
            return SlotStatistics(
                self._submitted, self._superseded, self._stale, self._taken, waiting
            )
