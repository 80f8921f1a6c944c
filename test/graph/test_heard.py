"""Texts that others publish are printable before any of our commands has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from support.graph import robot
from vla_ros.cli.check import CheckNode
from vla_ros.client.listener import Listener
from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.demo.photographs import NAMESPACE, Operator
from vla_ros.doctor.findings import Level, fail, ok, warn
from vla_ros.doctor.graph import _Statuses
from vla_ros.graph.heard import cleaned
from vla_ros.msg import VlaAction, VlaMotion, VlaPolicyInfo, VlaStatus

EVIL = 'one\x1b[2J\x1b]0;two\x07\rthree\nfour\u202efive' + 'x' * 5000


def texts(message: Any) -> list[str]:
    """All texts of the message, and of messages in it."""
    found: list[str] = []
    for name, kind in message.get_fields_and_field_types().items():
        value = getattr(message, name)
        if kind == 'string':
            found.append(value)
        elif kind == 'sequence<string>':
            found += value
        elif hasattr(value, 'get_fields_and_field_types'):
            found += texts(value)
    return found


def evil_status() -> VlaStatus:
    """A status whose every text is evil."""
    policy = VlaPolicyInfo(
        **dict.fromkeys(texts_of(VlaPolicyInfo), EVIL), cameras=[EVIL], steady_inference_s=0.25
    )
    motion = VlaMotion(mode=EVIL, message=EVIL)
    status = VlaStatus(**dict.fromkeys(texts_of(VlaStatus), EVIL), policy=policy, motion=motion)
    status.header.frame_id = EVIL
    status.counters.published = 7
    return status


def texts_of(kind: Any) -> list[str]:
    return [name for name, of in kind.get_fields_and_field_types().items() if of == 'string']


def test_a_message_s_texts_are_cleaned_and_nothing_else() -> None:
    status = evil_status()
    assert cleaned(status) is status
    for text in texts(status):
        assert text.startswith('one\\x1b[2J\\x1b]0;two\\x07\\x0dthree\\x0afour\\u202efive')
        assert text.isprintable() and len(text) < 1100
    assert len(texts(status)) == 14
    assert (status.counters.published, status.policy.steady_inference_s) == (7, 0.25)
    sound = VlaStatus(message='HOLDING: no instruction on /instruction', robot='a')
    assert texts(cleaned(sound))[1:3] == ['a', sound.message]


@pytest.mark.parametrize(('make', 'level'), [(warn, Level.WARN), (fail, Level.FAIL)])
def test_a_finding_of_the_doctor_is_printable(make: Callable[..., Any], level: Level) -> None:
    found = make(EVIL, EVIL)
    assert found.level is level
    assert str(found).isprintable() and len(str(found)) < 2300
    assert str(ok(EVIL)).isprintable()


class Doctor(Node):
    """What the doctor hears the node by."""

    def __init__(self) -> None:
        super().__init__('doctor')
        self.statuses = _Statuses(self, '')


def black_picture() -> np.ndarray:
    return np.zeros((4, 6, 3), np.uint8)


# How the command listens, what it has heard, and how many messages that are.
LISTENERS: dict[str, tuple[Callable[[], Node], Callable[[Any], list[Any]], int]] = {
    'vla_check': (lambda: CheckNode(black_picture(), 'go'), lambda node: [node.status], 1),
    'vla_bench --pipeline': (
        lambda: Listener(rclpy.get_default_context(), NAMESPACE),
        lambda node: [node.status, *node.actions[:1]],
        2,
    ),
    'vla_demo --photographs': (
        lambda: Operator(3, watches=False),
        lambda node: [node.status, *node.heard[:1]],
        2,
    ),
    'vla_eval, vla_demo, vla_simulation': (SimulatedRobot, lambda node: [node.status], 1),
    'vla_doctor': (Doctor, lambda node: [node.statuses.last], 1),
}


@pytest.fixture(scope='module')
def evil() -> Iterator[None]:
    """Somebody in the namespace of the demonstration who writes to the terminals of others."""
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    with robot(NAMESPACE) as stack:
        statuses = stack.create_publisher(VlaStatus, 'status', latched)
        actions = stack.create_publisher(VlaAction, 'action', 1)
        status = evil_status()
        action = VlaAction(instruction=EVIL, unnorm_key=EVIL, names=[EVIL])
        stack.create_timer(0.05, lambda: statuses.publish(status))
        stack.create_timer(0.05, lambda: actions.publish(action))
        yield


@pytest.mark.parametrize('command', LISTENERS)
def test_every_command_that_listens_cleans_what_it_hears(
    evil: None, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, heard, count = LISTENERS[command]
    rclpy.init(args=['--ros-args', '-r', f'__ns:={NAMESPACE}'])
    try:
        node = make()
        ends_s = time.monotonic() + 20.0
        while not (len(heard(node)) == count and heard(node)[0] and heard(node)[0].message):
            assert time.monotonic() < ends_s
            if isinstance(node, SimulatedRobot):  # it has an executor of its own
                node.spin_until(time.monotonic() + 0.05)
            else:
                rclpy.spin_once(node, timeout_sec=0.05)
        for message in heard(node):
            assert all(text.isprintable() for text in texts(message))
            assert any('one\\x1b[2J' in text for text in texts(message))
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    assert capsys.readouterr().out.replace('\n', '').isprintable()
