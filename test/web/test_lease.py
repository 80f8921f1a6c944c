# SPDX-License-Identifier: Apache-2.0
"""The lease of an instruction, by a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vla_ros.clock import ManualClock
from vla_ros.reasons import State
from vla_ros.web.lease import Lease
from vla_ros.web.robot import Report

IDLE = Report(State.HOLDING, 'NO_INSTRUCTION', 'no instruction')
ACTING = Report(State.RUNNING, instruction='go')


def held(limit_s: float = 2.0) -> tuple[Lease, ManualClock]:
    """A lease of page 1 that the node's status has confirmed."""
    clock = ManualClock()
    lease = Lease(clock)
    lease.limit_s = limit_s
    assert lease.refusal(IDLE, 0.1) == ''
    lease.take('page 1', 'go', IDLE)
    assert not lease.check(IDLE, 0.1)  # the status may be older than the instruction
    assert not lease.check(ACTING, 0.1)
    return lease, clock


def test_only_signs_of_life_of_its_page_renew_a_lease() -> None:
    lease, clock = held()
    for _ in range(10):
        clock.advance(0.5)
        assert lease.renew('page 1') and not lease.renew('page 2')
        assert not lease.check(ACTING, 0.1)
    clock.advance(1.4)
    assert not lease.check(ACTING, 0.1)
    clock.advance(0.2)
    assert lease.check(ACTING, 0.1)
    assert (lease.holder, lease.ended) == ('', 'page 1 gave no sign of life for 1.5 s')


def test_messages_that_a_network_kept_do_not_revive_a_lease() -> None:
    lease, clock = held()
    clock.advance(1.6)
    assert not lease.renew('page 1')  # even before anyone looked at the lease
    assert lease.check(ACTING, 0.1)
    assert not lease.renew('page 1')


@pytest.mark.parametrize('limit_s', [1.0, 1.5, 2.0, 10.0])
def test_a_lease_ends_before_the_node_holds_by_itself(limit_s: float) -> None:
    lease, _ = held(limit_s)
    assert lease.lapse_s <= 0.75 * limit_s


@pytest.mark.parametrize(
    ('report', 'age_s', 'holds', 'why'),
    [
        (replace(IDLE, reason='STOPPED'), 0.1, False, 'HOLDING'),
        (replace(ACTING, reason='DISABLED', state=State.HOLDING), 0.1, True, 'HOLDING'),
        (replace(ACTING, state=State.ERROR), 0.1, True, 'ERROR'),
        (replace(ACTING, instruction='another'), 0.1, False, 'somewhere else'),
        (IDLE, 0.1, False, 'no longer has'),
        (ACTING, 1.7, True, 'did not report'),
        (replace(IDLE, rejected=1), 0.1, False, 'rejected'),
    ],
)
def test_a_lease_ends_with_what_the_node_reports(
    report: Report, age_s: float, holds: bool, why: str
) -> None:
    lease, _ = held()
    assert lease.check(report, age_s) is holds
    assert not lease.holder and why in lease.ended


def test_a_lease_ends_when_the_nodes_limit_is_switched_off() -> None:
    lease, _ = held()
    lease.limit_s = 0.0
    assert lease.check(ACTING, 0.1) and 'was changed' in lease.ended


def test_an_instruction_that_never_takes_effect_ends_the_lease() -> None:
    clock = ManualClock()
    lease = Lease(clock)
    lease.limit_s = 2.0
    lease.take('page 1', 'go', IDLE)
    for _ in range(4):
        clock.advance(0.5)
        assert lease.renew('page 1') and not lease.check(IDLE, 0.1)
    clock.advance(0.1)
    assert lease.check(IDLE, 0.1)


@pytest.mark.parametrize(
    ('limit_s', 'report', 'age_s', 'why'),
    [
        (None, IDLE, 0.1, 'not known'),
        (0.0, IDLE, 0.1, 'max_instruction_age_s is 0 s'),
        (0.5, IDLE, 0.1, 'max_instruction_age_s is 0.5 s'),
        (60.0, IDLE, 0.1, 'max_instruction_age_s is 60 s'),
        (2.0, None, None, 'does not report'),
        (2.0, IDLE, 1.7, 'does not report'),
        (2.0, replace(IDLE, state=State.LOADING), 0.1, 'LOADING'),
        (2.0, replace(IDLE, reason='STOPPED'), 0.1, 'stopped'),
        (2.0, replace(IDLE, reason='DISABLED'), 0.1, 'disabled'),
    ],
)
def test_no_page_instructs_when_nothing_would_end_it(
    limit_s: float | None, report: Report | None, age_s: float | None, why: str
) -> None:
    lease = Lease(ManualClock())
    lease.limit_s = limit_s
    assert why in lease.refusal(report, age_s)
    assert lease.can_set_limit == (limit_s is not None and limit_s != 2.0)
