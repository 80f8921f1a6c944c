"""The node in this process, in a thread and a ROS context of its own; the policy is the test's."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator

import rclpy
from rclpy.parameter import Parameter

from support.fakes import FakePolicy, a_prediction
from support.graph import Robot, robot, spinning_node
from vla_ros.msg import VlaStatus
from vla_ros.ros.loading import LoadPolicy
from vla_ros.ros.node import VlaNode
from vla_ros.types import Cancel, InferenceCancelled, Prediction

_namespaces = (f'/in_process_{number}' for number in itertools.count())


@contextlib.contextmanager
def unstarted_node(
    load_policy: LoadPolicy, reliable: bool = True, **parameters: float | str
) -> Iterator[tuple[Robot, VlaNode]]:
    """A node that has just been told to start, and the robot that it will listen to."""
    namespace = next(_namespaces)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = VlaNode(
        load_policy,
        context=context,
        namespace=namespace,
        parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()],
    )
    node.autostart()
    with robot(namespace, reliable) as stack, spinning_node(context, node):
        yield stack, node
    assert node.close()
    rclpy.try_shutdown(context=context)


@contextlib.contextmanager
def node_with(
    policy: FakePolicy, reliable: bool = True, **parameters: float | str
) -> Iterator[tuple[Robot, VlaNode]]:
    """An active node, and the robot that it listens to."""
    with unstarted_node(lambda *_: policy, reliable, **parameters) as (stack, node):
        stack.wait_for_state(VlaStatus.HOLDING)
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
