# SPDX-License-Identifier: Apache-2.0
"""Commands that come too late, and clocks that disagree."""

from __future__ import annotations

import pytest

from vla_ros.clock import ManualClock
from vla_ros.scheduling import CommandWatch, StallWatch

MAX_AGE_S = 2.0


class Sender:
    """Somebody whose system clock may be off."""

    def __init__(self, behind_s: float = 0.0) -> None:
        self.clock = ManualClock()
        self.watch = CommandWatch(MAX_AGE_S, self.clock)
        self.behind_s = behind_s
        self.why_not = ''

    def is_obeyed(self, delay_s: float = 0.0) -> bool:
        """Whether a command is that is heard now."""
        sent_ns = self.clock.system_ns() - round((delay_s + self.behind_s) * 1e9)
        self.why_not = self.watch.why_not(sent_ns)
        return not self.why_not

    def waits(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.watch.stall.look(counts=False)


def test_a_command_is_obeyed_within_its_bound() -> None:
    sender = Sender()
    assert sender.is_obeyed(delay_s=0.01) and sender.is_obeyed(delay_s=MAX_AGE_S)
    assert not sender.is_obeyed(delay_s=MAX_AGE_S + 0.001)
    assert "sent 2.0 s ago by its sender's clock" in sender.why_not
    assert 'max_command_age_s is 2' in sender.why_not
    assert sender.is_obeyed(delay_s=0.01)


def test_a_middleware_without_time_stamps_loses_no_command() -> None:
    assert not Sender().watch.why_not(0)


@pytest.mark.parametrize('behind_s', [900.0, 2.5, -2.5, -900.0])
def test_a_clock_that_is_off_costs_one_command(behind_s: float) -> None:
    sender = Sender(behind_s)
    assert not sender.is_obeyed()
    assert 'synchronise the clocks' in sender.why_not
    for _ in range(20):
        sender.waits(1.5)
        assert sender.is_obeyed(delay_s=0.1)
    sender.waits(1.5)
    assert not sender.is_obeyed(delay_s=12.0)  # late by that clock, too
    sender.waits(1.5)
    assert sender.is_obeyed()


def test_a_little_disagreement_costs_none() -> None:
    for behind_s in (-1.9, 1.9):
        sender = Sender(behind_s)
        assert all(sender.is_obeyed() for _ in range(5))


def test_clocks_that_are_off_differently_each_cost_one_command() -> None:
    sender = Sender()
    obeyed = []
    for behind_s in (100.0, 100.0, -50.0, -50.0, 100.0, -50.0, 0.0):
        sender.behind_s = behind_s
        obeyed.append(sender.is_obeyed())
        sender.waits(1.5)
    assert obeyed == [False, True, False, True, True, True, True]


def test_what_lay_in_a_queue_tells_no_clock() -> None:
    """Said one after the other, and delivered at once when the link was back."""
    sender = Sender()
    for seconds_ago in (12.0, 10.5, 9.0, 7.5, 3.0):
        assert not sender.is_obeyed(delay_s=seconds_ago)
        sender.waits(0.001)


def test_what_was_said_at_once_and_comes_later_tells_no_clock() -> None:
    sender = Sender()
    assert not sender.is_obeyed(delay_s=10.0)
    sender.waits(3.0)
    assert not sender.is_obeyed(delay_s=13.0)  # sent at the same moment


def test_after_a_stall_nothing_is_obeyed_for_a_while() -> None:
    sender = Sender()
    sender.clock.advance(1.5)
    assert sender.watch.stall.look() == pytest.approx(1.5)
    assert not sender.is_obeyed()
    assert 'did not run for a while' in sender.why_not
    assert sender.watch.why_not(0)
    sender.waits(1.0)
    assert not sender.is_obeyed()
    sender.waits(0.01)
    assert sender.is_obeyed()


def test_a_stall_is_told_from_what_is_usual() -> None:
    clock = ManualClock()
    watch = StallWatch(clock)
    for _ in range(100):
        clock.advance(0.02)
        assert watch.look() == 0
    clock.advance(1.0)
    assert watch.look() == 0 and not watch.is_recent
    clock.advance(30.0)
    assert watch.look(counts=False) == 0 and not watch.is_recent
    clock.advance(1.1)
    assert watch.look() == pytest.approx(1.1) and watch.is_recent
