# SPDX-License-Identifier: Apache-2.0
"""``replan_rows`` of a whole node, whose clock the test moves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.graph import Robot, noise
from support.in_process import NodeTime, node_with
from vla_ros.reasons import Reason, State
from vla_ros.scripted import ScriptedPolicy

NS = 10**9
ROWS = 3
PLAYED_S = 0.6


class Bench:
    """A node whose policy gives four rows of 0.2 s; it has published the first chunk."""

    def __init__(self, stack: Robot, clock: NodeTime) -> None:
        self.stack, self._clock = stack, clock
        self.acts(later_ns=0)

    def see(self, later_ns: int) -> int:
        """Send an image of that time after the clock's, and return its stamp."""
        stamp_ns = self._clock.now_ns() + later_ns
        self.stack.see(noise(), stamp_ns=stamp_ns)
        return stamp_ns

    def acts(self, later_ns: int) -> None:
        """An image of that time becomes an action."""
        known = len(self.stack.actions)
        stamp_ns = self.see(later_ns)
        self.stack.wait_for(lambda: len(self.stack.actions) > known)
        stamp = self.stack.actions[-1].observation_stamp
        assert stamp.sec * NS + stamp.nanosec == stamp_ns

    def ignores(self, later_ns: int) -> None:
        """An image of that time waits."""
        observations = self.stack.status.counters.observations
        self.see(later_ns)
        self.stack.wait_for(lambda: self.stack.status.counters.observations > observations)
        assert self.stack.status.counters.waiting == 1
        assert self.stack.status.state == State.RUNNING

    def let_pass(self, seconds: float) -> None:
        self._clock.let_pass(seconds)


@contextlib.contextmanager
def playing(**parameters: Any) -> Iterator[Bench]:
    clock = NodeTime()
    policy: Any = ScriptedPolicy.from_script('scripted:chunk=4,period=0.2', lambda progress: None)
    fixed = {'instruction': 'go', 'frame_id': 'base', 'replan_rows': ROWS}
    with node_with(policy, clock=clock, **fixed, **parameters) as (stack, _):
        yield Bench(stack, clock)


@pytest.mark.parametrize('timing', ['published', 'timed'])
def test_the_next_inference_begins_when_the_rows_are_played(timing: str) -> None:
    with playing(chunk_timing=timing) as bench:
        for _ in range(2):
            bench.let_pass(PLAYED_S - 0.05)
            bench.ignores(round(0.05 * NS) - 1)
            bench.let_pass(0.05)
            bench.acts(later_ns=0)
        bench.stack.wait_for(lambda: bench.stack.status.counters.published == 3)
        counters = bench.stack.status.counters
        assert (counters.observations, counters.superseded, counters.taken) == (5, 2, 3)


def rejected(bench: Bench) -> None:
    bench.stack.see(noise(encoding='unknown'), stamp_ns=1)
    bench.stack.wait_for_state(State.HOLDING, Reason.IMAGE_REJECTED)


def another_instruction(bench: Bench) -> None:
    bench.stack.instruct('put it back')


def set_to_zero(bench: Bench) -> None:
    assert bench.stack.set_parameter_of_node('replan_rows', 0).successful


@pytest.mark.parametrize('event', [rejected, another_instruction, set_to_zero])
def test_what_ends_the_chunk_lets_the_next_inference_begin(event: Callable[[Bench], None]) -> None:
    with playing() as bench:
        event(bench)
        bench.acts(later_ns=1)


def test_a_chunk_that_is_no_motion_is_not_waited_for() -> None:
    with playing(motion='twist') as bench:  # no contract knows the data of this policy
        no_contract = Reason.MOTION_NO_CONTRACT
        bench.stack.wait_for(lambda: bench.stack.status.motion.reason == no_contract)
        bench.acts(later_ns=1)
