# SPDX-License-Identifier: Apache-2.0
"""Images of several cameras and a state become observations: none twice, none apart."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from support.fakes import SPEC
from vla_ros.clock import ManualClock
from vla_ros.reasons import Reason
from vla_ros.scheduling.assembly import Assembler, AssemblyCounters, AssemblyLimits
from vla_ros.types import Observation

IMAGE = np.zeros((4, 6, 3), np.uint8)
LIMITS = AssemblyLimits(tolerance_s=0.05, image_timeout_s=2.0, state_timeout_s=1.0)
MS = 10**6


class Bench:
    """An assembler on a manual clock; stamps are milliseconds after the start."""

    def __init__(self, cameras: int = 1, state_dim: int = 0) -> None:
        self.clock = ManualClock()
        self.names = tuple(f'camera_{number}' for number in range(cameras))
        spec = replace(SPEC, cameras=self.names, state_dim=state_dim)
        self.counters = AssemblyCounters()
        self.assembler = Assembler(spec, LIMITS, self.clock, self.counters)
        self.start_ns = self.clock.now_ns()

    def image(self, camera: int, stamp_ms: float) -> Observation | None:
        stamp_ns = self.start_ns + round(stamp_ms * MS)
        return self.assembler.add_image(self.names[camera], IMAGE, stamp_ns, 'go')

    def state(self, stamp_ms: float, *values: float, instruction: str = 'go') -> Observation | None:
        stamp_ns = self.start_ns + round(stamp_ms * MS)
        return self.assembler.add_state(np.array(values), stamp_ns, instruction)

    def reason(self) -> Reason | None:
        cause = self.assembler.cause()
        return cause.reason if cause else None


def test_an_image_of_the_only_camera_is_an_observation() -> None:
    bench = Bench()
    for stamp_ms in (0, 33, 66):
        observation = bench.image(0, stamp_ms)
        assert observation is not None and observation.state is None
        assert observation.stamp_ns == bench.start_ns + stamp_ms * MS
        assert observation.instruction == 'go'
    assert bench.counters == AssemblyCounters(joined=3)


def test_images_within_the_tolerance_are_joined_in_the_order_of_the_policy() -> None:
    bench = Bench(cameras=3)
    assert bench.image(2, 0) is None
    assert bench.image(0, 50) is None
    assert bench.counters.pending == 2
    observation = bench.image(1, 20)
    assert observation is not None
    assert list(observation.images) == list(bench.names)
    assert observation.stamp_ns == bench.start_ns
    assert bench.counters == AssemblyCounters(joined=3)


@pytest.mark.parametrize(('apart_ms', 'joined'), [(50, True), (50.001, False)])
def test_the_tolerance_is_a_bound(apart_ms: float, joined: bool) -> None:
    bench = Bench(cameras=2)
    bench.image(0, apart_ms)
    assert (bench.image(1, 0) is not None) == joined


def test_a_newer_image_takes_the_place_of_the_one_that_waits() -> None:
    bench = Bench(cameras=2)
    bench.image(0, 0)
    bench.image(0, 100)
    assert bench.counters == AssemblyCounters(replaced=1, pending=1)
    observation = bench.image(1, 110)
    assert observation is not None
    assert observation.stamps_ns[bench.names[0]] == bench.start_ns + 100 * MS


def test_after_a_reset_nothing_of_before_is_used() -> None:
    bench = Bench(cameras=2)
    bench.image(0, 0)
    bench.assembler.drop()
    assert bench.image(1, 10) is None
    assert bench.counters == AssemblyCounters(replaced=1, pending=1)


def test_images_that_never_fit_together_are_a_cause() -> None:
    bench = Bench(cameras=2)
    for turn in range(30):
        bench.image(0, 100 * turn)
        bench.image(1, 100 * turn - 60)
        assert bench.reason() is (Reason.IMAGES_APART if turn > 16 else None)
        bench.clock.advance(0.125)
    assert bench.image(1, 2900) is not None
    assert bench.reason() is None


def test_images_that_are_apart_for_a_moment_are_not_the_cause() -> None:
    bench = Bench(cameras=2, state_dim=1)
    reasons = []
    for turn in range(30):
        bench.image(0, 125 * turn)  # apart from the last image of the other camera
        reasons.append(bench.reason())
        bench.clock.advance(0.03125)
        bench.image(1, 125 * turn)
        bench.clock.advance(0.09375)
    assert reasons == [None] * 9 + [Reason.STATE_MISSING] * 21


def test_images_that_were_close_and_go_apart_are_a_cause() -> None:
    bench = Bench(cameras=2, state_dim=1)
    bench.image(0, 0)
    bench.image(1, 0)
    bench.clock.advance(0.5)  # less than state_timeout_s
    for turn in range(20):
        bench.image(0, 500 + 125 * turn)
        bench.image(1, 440 + 125 * turn)
        bench.clock.advance(0.125)
        assert bench.reason() is (Reason.IMAGES_APART if turn > 15 else None)


def test_a_silent_camera_is_no_cause_here() -> None:
    bench = Bench(cameras=2)
    bench.image(0, 0)
    bench.clock.advance(10.0)
    assert bench.reason() is None


def test_the_newest_state_that_is_not_later_than_the_images_is_taken() -> None:
    bench = Bench(state_dim=2)
    for stamp_ms in (-100, -60, 10, 49, 60):
        assert bench.state(stamp_ms, stamp_ms, 0.0) is None
    observation = bench.image(0, 0)
    assert observation is not None and observation.state is not None
    assert observation.state.tolist() == [49, 0]


def test_an_image_waits_for_its_state() -> None:
    bench = Bench(state_dim=1)
    assert bench.image(0, 0) is None
    assert bench.state(-51, 1.0) is None  # too old
    observation = bench.state(-50, 2.0)
    assert observation is not None and observation.state is not None
    assert observation.state.tolist() == [2.0]
    assert bench.state(0, 3.0) is None  # no image twice


def test_no_state_of_before_a_jump_of_the_clock_is_taken() -> None:
    bench = Bench(state_dim=1)
    assert bench.state(0, 1.0) is None
    bench.assembler.clear()  # as the node does then
    assert bench.image(0, 0) is None
    observation = bench.state(-10, 2.0)
    assert observation is not None and observation.state is not None
    assert observation.state.tolist() == [2.0]


def test_a_state_that_is_missing_or_stale_is_a_cause() -> None:
    bench = Bench(state_dim=1)
    bench.image(0, 0)
    bench.clock.advance(1.01)
    assert bench.reason() is Reason.STATE_MISSING
    bench.state(-500, 1.0)
    assert bench.reason() is Reason.STATE_STALE


@pytest.mark.parametrize('values', [(), (1.0,), (1.0, 2.0, 3.0), (1.0, float('nan'))])
def test_a_state_that_is_none_is_rejected(values: tuple[float, ...]) -> None:
    bench = Bench(state_dim=2)
    with pytest.raises(ValueError, match='allowed: 2, all finite'):
        bench.state(0, *values)
    assert bench.counters == AssemblyCounters(states_received=1, states_rejected=1)
    assert bench.image(0, 0) is None


def test_a_state_without_an_instruction_joins_nothing() -> None:
    bench = Bench(state_dim=1)
    bench.image(0, 0)
    assert bench.state(0, 1.0, instruction='') is None


@pytest.mark.parametrize('seed', range(20))
def test_whatever_comes_is_accounted_for_and_fits_together(seed: int) -> None:
    chance = random.Random(seed)
    cameras, state_dim = chance.randint(1, 3), chance.randint(0, 2)
    bench = Bench(cameras, state_dim)
    used: set[tuple[str, int]] = set()
    images = observations = 0
    for turn in range(500):
        stamp_ms = 10 * turn + chance.uniform(-40, 0)
        kind = chance.random()
        observation = None
        if kind < 0.02:
            bench.assembler.drop()
        elif kind < 0.3 and state_dim:
            observation = bench.state(stamp_ms, *[float(turn)] * state_dim)
        else:
            images += 1
            observation = bench.image(chance.randrange(cameras), stamp_ms)
        counters = bench.counters
        assert images == counters.replaced + counters.pending + counters.joined
        if observation is None:
            continue
        observations += 1
        parts = set(observation.stamps_ns.items())
        assert len(parts) == cameras and not parts & used
        used |= parts
        stamps_ns = list(observation.stamps_ns.values())
        assert max(stamps_ns) - min(stamps_ns) <= 50 * MS
        assert (observation.state is not None) == bool(state_dim)
    assert counters.joined == cameras * observations > 0
