# SPDX-License-Identifier: Apache-2.0
"""The likely cause of a stamp that cannot be right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support.fakes import SPEC
from support.inputs import shows
from vla_ros.clock import ManualClock
from vla_ros.reasons import Reason
from vla_ros.scheduling import ActionGate, CameraWatch, ClockStep, Outcome, Result, clock_advice
from vla_ros.scheduling.assembly import Assembler, AssemblyCounters, AssemblyLimits
from vla_ros.types import Observation

TODAY_S = 1_800_000_000
UPTIME_S = 5000.0
NS = 10**9
IMAGE = np.zeros((8, 8, 3), np.uint8)


def system(uptime_s: float = UPTIME_S) -> ManualClock:
    """A clock of today, on a machine that has run for a while."""
    clock = ManualClock(round((TODAY_S - uptime_s) * NS))
    clock.advance(uptime_s)
    return clock


def simulated(now_s: float, step_s: float = 0.001) -> ManualClock:
    clock = ManualClock(round(now_s * NS))
    clock.step_s = step_s
    return clock


CASES = {  # the clock, the stamp [s], the words of the advice
    'simulated': (system(), 12.5, '12.5 s after 1970, so it is simulated time (set use_sim_time'),
    'a boot of another machine': (system(), 90_000.0, 'the time since a boot'),
    'a clock that was never set': (system(), 946_684_800.0, 'a clock that was never set'),
    'uptime': (system(), UPTIME_S - 0.02, 'the time since this machine booted'),
    'a recording': (system(), 1_700_000_000.0, 'is of 2023-11-14 22:13:20 UTC, so it is probably'),
    'an hour ago': (system(), TODAY_S - 3600.0, 'probably of a recording: play it with --clock'),
    'TAI': (system(), TODAY_S + 37.01, 'probably TAI'),
    'a little late': (system(), TODAY_S - 2.0, 'otherwise'),
    'a little early': (system(), TODAY_S + 2.0, 'otherwise'),
    'system time': (simulated(30.0), TODAY_S, 'its stamp is system time, and this node has sim'),
    'another simulation': (simulated(30.0), 500.0, '470 s after /clock, so they are of two sim'),
    'another recording': (simulated(TODAY_S), TODAY_S - 500.0, '500 s before /clock'),
    'a coarse clock': (simulated(30.0, 0.2), 30.19, '/clock moves in steps of 0.2 s'),
    'beyond a step': (simulated(30.0, 0.2), 30.5, 'otherwise'),
    'a fine clock': (simulated(30.0, 0.001), 30.19, 'otherwise'),
    'delay in a simulation': (simulated(30.0), 28.0, 'otherwise'),
}


@shows('Stamps', 'set `use_sim_time`', 'simulated time, and the node has system time')
@shows(
    'Stamps',
    'set `use_sim_time` where it is stamped',
    'system time, and the node has simulated time',
)
@shows(
    'Stamps', 'have the driver stamp with the system time', 'time since the boot of this machine'
)
@shows(
    'Stamps',
    'set `use_sim_time`',
    'time since the boot of another machine, or of a clock that was never set',
)
@shows('Stamps', 'play it with `--clock`', 'of a recording')
@shows('Stamps', 'stop one', 'of another simulation or recording than /clock')
@shows('Stamps', 'publish /clock every 0.1 s or more often', 'between two steps of a coarse /clock')
@shows('Stamps', 'have the driver stamp with UTC', '37 s ahead: TAI, as PTP has')
@shows('Stamps', 'synchronise the clocks', 'early or late without any of these causes')
@pytest.mark.parametrize('case', CASES)
def test_the_likely_cause_is_named(case: str) -> None:
    clock, stamp_s, told = CASES[case]
    advice = clock_advice(round(stamp_s * NS), clock, 'otherwise')
    assert told in advice and '\n' not in advice


def test_a_coarse_clock_is_named_in_the_reason_of_the_hold() -> None:
    """At 5 Hz half of a sound camera's images have stamps ahead of the last /clock."""
    clock = simulated(30.0, 0.2)
    verdict = CameraWatch(0.0, clock).judge(IMAGE, round(30.15 * NS))
    assert verdict.cause is not None and verdict.cause.reason is Reason.IMAGE_FUTURE
    assert verdict.cause.message.endswith('publish /clock every 0.1 s or more often')


def test_a_stale_image_of_a_recording_is_named() -> None:
    gate = ActionGate(1.5, system())
    observation = Observation.of_one(IMAGE, 'go', 1_700_000_000 * NS)
    assert not gate.admit(Result(observation, Outcome.STALE))
    assert gate.cause is not None and gate.cause.reason is Reason.IMAGE_STALE
    assert 'probably of a recording' in gate.cause.message


def test_a_part_with_another_clock_is_named() -> None:
    clock = system()
    limits = AssemblyLimits(0.05, 2.0, 2.0)
    spec = replace(SPEC, cameras=('a', 'b'), state_dim=1)
    assembler = Assembler(spec, limits, clock, AssemblyCounters())
    now_ns = clock.now_ns()
    assembler.add_image('a', IMAGE, now_ns, 'go')
    assembler.add_image('b', IMAGE, round((UPTIME_S - 1) * NS), 'go')
    clock.advance(2.5)
    apart = assembler.cause()
    assert apart is not None and apart.reason is Reason.IMAGES_APART
    assert 'since this machine booted' in apart.message
    assembler.add_image('b', IMAGE, now_ns, 'go')
    assembler.add_state(np.zeros(1), 12 * NS, 'go')
    clock.advance(2.5)
    stale = assembler.cause()
    assert stale is not None and stale.reason is Reason.STATE_STALE
    assert '12.0 s after 1970' in stale.message


def test_the_step_of_a_clock_is_the_smallest_of_the_last_ones() -> None:
    step = ClockStep()
    for tenths in (0, 300, 302, 302, 304, 306, 308):
        step.note(tenths * NS // 10)
    assert step.smallest_s == 0.0  # too few
    step.note(31 * NS)
    assert step.smallest_s == pytest.approx(0.2)
    for index in range(1, 6):
        step.note(31 * NS + index * NS // 100)
    step.note(33 * NS)  # this process did not run
    assert step.smallest_s == pytest.approx(0.01)
    step.note(20 * NS)  # the simulation was reset
    assert step.smallest_s == pytest.approx(0.01)
