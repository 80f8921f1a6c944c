# SPDX-License-Identifier: Apache-2.0
"""Set-ups for the doctor's tests, and what is a sound one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy

from support.graph import Robot, noise
from vla_ros.doctor.checkpoint import check_checkpoint, check_unnorm_key
from vla_ros.doctor.contract import check_contract
from vla_ros.doctor.facts import Facts, Setup
from vla_ros.doctor.findings import Finding, Level
from vla_ros.doctor.parameters import check_parameters


def about(model: str | Path = '', **assignments: str) -> Facts:
    """As after the check of these parameters."""
    return checked(Setup(str(model), assignments))


def checked(setup: Setup) -> Facts:
    """As after the check of its parameters."""
    facts = Facts(setup)
    list(check_parameters(facts))
    return facts


def prepared(model: str, namespace: str, seconds: float = 0.5, **parameters: str) -> Facts:
    """As after all checks before that of the graph."""
    arguments = ('-r', f'__ns:={namespace}')
    node = f'{namespace}/vla'
    setup = Setup(model, parameters, node=node, ros_arguments=arguments, seconds=seconds)
    facts = checked(setup)
    for check in (check_checkpoint, check_unnorm_key, check_contract):
        list(check(facts))
    return facts


def assert_sound(findings: Iterable[Finding]) -> None:
    told = list(findings)
    assert told
    assert not [one for one in told if one.level is not Level.OK], told


def show(
    stack: Robot,
    topic: str,
    rate_hz: float,
    make: Callable[[], Any] = noise,
    ahead_s: float = 0.0,
    reliable: bool = True,
) -> None:
    """A camera on a topic of its own."""
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    publisher = stack.create_publisher(
        type(make()), topic, QoSProfile(depth=1, reliability=reliability)
    )

    def publish() -> None:
        message = make()
        message.header.stamp = (stack.get_clock().now() + Duration(seconds=ahead_s)).to_msg()
        publisher.publish(message)

    stack.create_timer(1 / rate_hz, publish)
