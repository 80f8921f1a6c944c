# SPDX-License-Identifier: Apache-2.0
"""Time-outs and moments of the node, by a clock that the test moves instead of waiting.

Each time-out is tested before its bound, and beyond it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import pytest
from rclpy.node import Node

from support.fakes import FakePolicy, Gate
from support.graph import Robot, noise
from support.in_process import NodeTime, node_with, unstarted_node
from vla_ros.clock import ManualClock
from vla_ros.graph.stamps import from_time
from vla_ros.msg import VlaStatus
from vla_ros.reasons import Reason, State
from vla_ros.ros.node_clock import NodeClock

BEFORE_S, BEYOND_S = 0.1, 0.2


def acts(stack: Robot, clock: NodeTime) -> None:
    """Show an image of now, and wait until the node acts on it."""
    known = len(stack.actions)
    stack.see(noise(), stamp_ns=clock.now_ns())
    stack.wait_for(lambda: len(stack.actions) > known)
    stack.wait_for_state(State.RUNNING)


def passes(
    stack: Robot, clock: NodeTime, limit_s: float, is_as_before: Callable[[VlaStatus], bool]
) -> None:
    """Let the time pass, and see that nothing changes before the limit."""
    known = len(stack.statuses)
    clock.let_pass(limit_s - BEFORE_S)
    stack.wait_for(lambda: from_time(stack.status.header.stamp) == clock.now_ns())
    assert [status for status in stack.statuses[known:] if not is_as_before(status)] == []
    clock.let_pass(BEFORE_S + BEYOND_S)


def is_running(status: VlaStatus) -> bool:
    return status.state == State.RUNNING


def test_a_camera_that_falls_silent_holds() -> None:
    clock = NodeTime()
    with node_with(FakePolicy(), clock=clock, instruction='go', image_timeout_s=3.0) as (stack, _):
        acts(stack, clock)
        passes(stack, clock, 3.0, is_running)
        stack.wait_for_state(State.HOLDING, Reason.IMAGE_TIMEOUT, 'for image_timeout_s, 3 s')
        acts(stack, clock)


def test_a_camera_that_never_shows_anything_is_named() -> None:
    clock = NodeTime()
    with node_with(FakePolicy(), clock=clock, instruction='go', first_image_timeout_s=4.0) as (
        stack,
        _,
    ):
        passes(stack, clock, 4.0, lambda status: status.reason == Reason.NO_IMAGE_YET)
        stack.wait_for_state(State.HOLDING, Reason.NO_FIRST_IMAGE)
        acts(stack, clock)


def test_an_instruction_that_is_not_repeated_expires() -> None:
    limits = {'max_instruction_age_s': 5.0, 'image_timeout_s': 60.0}
    clock = NodeTime()
    with node_with(FakePolicy(), clock=clock, instruction='go', **limits) as (stack, _):
        acts(stack, clock)
        passes(stack, clock, 5.0, is_running)
        stack.wait_for_state(State.HOLDING, Reason.INSTRUCTION_EXPIRED)
        assert stack.status.counters.instructions_expired == 1


def test_a_late_inference_holds_at_its_limit() -> None:
    limits = {'inference_timeout_s': 2.0, 'max_action_age_s': 9.0, 'image_timeout_s': 60.0}
    clock, gate = NodeTime(), Gate()
    with node_with(FakePolicy(gate), clock=clock, instruction='go', **limits) as (stack, _):
        stack.see(noise(), stamp_ns=clock.now_ns())
        assert gate.entered.acquire(timeout=30)
        passes(stack, clock, 2.0, lambda status: status.reason == Reason.NO_IMAGE_YET)
        stack.wait_for_state(State.HOLDING, Reason.INFERENCE_OVERRUN)
        stack.wait_for(lambda: stack.status.counters.overrun == 1)
        assert not stack.actions


def test_a_policy_that_does_not_load_in_time_is_an_error() -> None:
    clock, proceed = NodeTime(), threading.Event()

    def load(*_: object) -> FakePolicy:
        proceed.wait(60)
        return FakePolicy()

    with unstarted_node(load, clock=clock, load_timeout_s=6.0) as (stack, _):
        stack.wait_for_state(State.LOADING)
        passes(stack, clock, 6.0, lambda status: status.state == State.LOADING)
        stack.wait_for_state(State.ERROR, Reason.LOAD_TIMEOUT)
        proceed.set()


def test_a_jump_of_the_clock_holds_until_an_image_of_the_new_time() -> None:
    clock = NodeTime()
    with node_with(FakePolicy(), clock=clock, instruction='go') as (stack, _):
        for jump_s in (3.0, -5.0):
            acts(stack, clock)
            clock.jump(jump_s)
            stack.wait_for_state(State.HOLDING, Reason.CLOCK_JUMP)
        acts(stack, clock)
        assert stack.status.counters.clock_jumps == 2


class BusyMachine(ManualClock):
    """The thread does not run for a while after some readings."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times

    def now_ns(self) -> int:
        now_ns = super().now_ns()
        if self._times:
            self._times -= 1
            self.advance(0.02)
        return now_ns


@pytest.mark.parametrize('times', [0, 1, 2])
def test_both_clocks_are_read_at_one_moment(times: int) -> None:
    clock = BusyMachine(times + 1)  # the watch of jumps reads it first
    node_clock = NodeClock(cast('Node', None), clock)
    moment = node_clock.now()
    assert (moment.node_ns, moment.monotonic_s) == (clock.now_ns(), clock.monotonic_s())


def test_a_machine_that_is_always_busy_has_a_moment_nevertheless() -> None:
    clock = BusyMachine(100)
    moment = NodeClock(cast('Node', None), clock).now()
    assert moment.monotonic_s == clock.monotonic_s()
