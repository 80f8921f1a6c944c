# SPDX-License-Identifier: Apache-2.0
"""The newest wins, and every item is counted once."""

from __future__ import annotations

import threading

import pytest

from vla_ros.scheduling import LatestSlots, SlotClosed, SlotStatistics


def test_the_newest_wins() -> None:
    slot: LatestSlots[int] = LatestSlots()
    for item in (1, 2, 3):
        slot.put(item)
    assert slot.statistics() == SlotStatistics(observations=3, superseded=2, waiting=1)
    assert slot.take(lambda item: True, timeout_s=0) == [(3, True)]
    assert slot.statistics() == SlotStatistics(observations=3, superseded=2, taken=1)


def test_what_is_not_fresh_is_stale() -> None:
    slot: LatestSlots[int] = LatestSlots()
    slot.put(1)
    assert slot.take(lambda item: False, timeout_s=0) == [(1, False)]
    assert slot.statistics() == SlotStatistics(observations=1, stale=1)


def test_an_empty_slot_gives_nothing_in_time() -> None:
    assert LatestSlots[int]().take(lambda item: True, timeout_s=0.01) == []


def test_close_wakes_who_waits_and_counts_what_is_left() -> None:
    slot: LatestSlots[int] = LatestSlots()
    closed = threading.Event()

    def wait() -> None:
        with pytest.raises(SlotClosed):
            slot.take(lambda item: True, timeout_s=60)
        closed.set()

    thread = threading.Thread(target=wait)
    thread.start()
    slot.close()
    thread.join(10)
    assert closed.is_set()
    with pytest.raises(SlotClosed):
        slot.put(1)

    other: LatestSlots[int] = LatestSlots()
    other.put(1)
    other.close()
    assert other.statistics() == SlotStatistics(observations=1, stale=1)


def test_nothing_is_lost_between_many_threads() -> None:
    slot: LatestSlots[int] = LatestSlots()
    per_thread, taken, balanced = 2000, [], []

    def put(first: int) -> None:
        for item in range(first, first + per_thread):
            slot.put(item)

    def take() -> None:
        while got := slot.take(lambda item: item % 3 != 0, timeout_s=0.2):
            taken.extend(got)
            s = slot.statistics()
            balanced.append(s.observations == s.superseded + s.stale + s.taken + s.waiting)

    threads = [threading.Thread(target=put, args=(n * per_thread,)) for n in range(3)]
    threads += [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    statistics = slot.statistics()
    assert balanced and all(balanced)
    assert statistics.observations == 3 * per_thread
    assert statistics.taken == sum(fresh for _, fresh in taken)
    assert statistics.stale == sum(not fresh for _, fresh in taken)
    assert statistics.superseded == 3 * per_thread - len(taken)
    assert statistics.waiting == 0
