# SPDX-License-Identifier: Apache-2.0
"""The node in this process, in a thread and a ROS context of its own; the policy is the test's."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from unittest import mock

import rclpy
from rclpy.parameter import Parameter

import vla_ros.ros.node
from support.fakes import FakePolicy, a_prediction
from support.graph import Robot, robot, spinning_node
from vla_ros.clock import ManualClock
from vla_ros.reasons import State
from vla_ros.ros.loading import LoadPolicy
from vla_ros.ros.node import VlaNode
from vla_ros.types import Cancel, InferenceCancelled, Prediction

_namespaces = (f'/in_process_{number}' for number in itertools.count())


class NodeTime(ManualClock):
    """The clock of a node that runs in a thread of this process; the test moves it.

    It moves in steps that are too short to be a stall of the node, and after each the node looks
    around. So a time-out of minutes takes a moment, and a slow machine changes nothing.
    """

    _STEP_S = 0.5

    def __init__(self) -> None:
        super().__init__(time.time_ns())
        self._looked = threading.Condition()
        self._looks = 0  # that the node has begun

    def beat(self, limit_s: float, why: str) -> None:
        """The node begins to look at what has taken too long; its watchdog is told of each look."""
        with self._looked:
            self._looks += 1
            self._looked.notify_all()

    def let_pass(self, seconds: float) -> None:
        """Return when the node has looked around at the end of that time."""
        whole, rest_s = divmod(seconds, self._STEP_S)
        for step_s in [self._STEP_S] * int(whole) + [rest_s]:
            with self._looked:
                self.advance(step_s)
                # The next look begins with the new time, and has ended when another begins.
                enough = self._looks + 2
                assert self._looked.wait_for(lambda enough=enough: self._looks >= enough, 30.0)


@contextlib.contextmanager
def unstarted_node(
    load_policy: LoadPolicy,
    reliable: bool = True,
    clock: NodeTime | None = None,
    **parameters: float | str,
) -> Iterator[tuple[Robot, VlaNode]]:
    """A node that has just been told to start, and the robot that it will listen to.

    :param clock: in place of the node's own.
    """
    namespace = next(_namespaces)
    context = rclpy.Context()
    rclpy.init(context=context)
    names = ('_CLEANUP_TIMEOUT_S', '_JOIN_TIMEOUT_S', '_RECORD_TIMEOUT_S')
    waits = dict.fromkeys(names, 30.0)  # for a slow machine
    with mock.patch.multiple(vla_ros.ros.node, **waits):
        node = VlaNode(
            load_policy,
            **({} if clock is None else {'clock': clock, 'beat': clock.beat}),
            context=context,
            namespace=namespace,
            parameter_overrides=[
                Parameter(name, value=value) for name, value in parameters.items()
            ],
        )
        node.autostart()
        with robot(namespace, reliable) as stack, spinning_node(context, node):
            yield stack, node
        assert node.close()
    rclpy.try_shutdown(context=context)


@contextlib.contextmanager
def node_with(
    policy: FakePolicy,
    reliable: bool = True,
    clock: NodeTime | None = None,
    **parameters: float | str,
) -> Iterator[tuple[Robot, VlaNode]]:
    """An active node, and the robot that it listens to."""
    with unstarted_node(lambda *_: policy, reliable, clock, **parameters) as (stack, node):
        stack.wait_for_state(State.HOLDING)
        stack.wait_until_heard()
        yield stack, node


def sleeping(seconds: float) -> FakePolicy:
    """Takes that long for an action, and stops when cancelled."""

    def act(cancel: Cancel) -> Prediction:
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s:
            if cancel.is_set():
                raise InferenceCancelled
            time.sleep(0.002)
        return a_prediction()

    return FakePolicy(act)
