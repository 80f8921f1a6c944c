# SPDX-License-Identifier: Apache-2.0
"""Texts that others publish are printable before any of our commands has them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.node import Node

from support.graph import robot
from vla_ros.client import VlaClient
from vla_ros.client.listener import Listener
from vla_ros.client.question import Question
from vla_ros.client.simulated_robot import SimulatedRobot
from vla_ros.demo.photographs import NAMESPACE, Operator
from vla_ros.doctor.findings import Level, fail, ok, warn
from vla_ros.graph.heard import cleaned
from vla_ros.graph.qos import latched
from vla_ros.msg import VlaAction, VlaMotion, VlaPolicyInfo, VlaRecording, VlaStatus

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
    motion = VlaMotion(**dict.fromkeys(texts_of(VlaMotion), EVIL))
    recording = VlaRecording(**dict.fromkeys(texts_of(VlaRecording), EVIL))
    parts = {'policy': policy, 'motion': motion, 'recording': recording}
    status = VlaStatus(**dict.fromkeys(texts_of(VlaStatus), EVIL), **parts)
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
    assert len(texts(status)) == 19
    assert (status.counters.published, status.policy.steady_inference_s) == (7, 0.25)
    sound = VlaStatus(message='HOLDING: no instruction on /instruction', robot='a')
    assert texts(cleaned(sound))[1:3] == ['a', sound.message]


@pytest.mark.parametrize(('make', 'level'), [(warn, Level.WARN), (fail, Level.FAIL)])
def test_a_finding_of_the_doctor_is_printable(make: Callable[..., Any], level: Level) -> None:
    found = make(EVIL, EVIL)
    assert found.level is level
    assert str(found).isprintable() and len(str(found)) < 2300
    assert str(ok(EVIL)).isprintable()


def black_picture() -> np.ndarray:
    return np.zeros((4, 6, 3), np.uint8)


# How the command listens, what it has heard, and how many messages that are.
LISTENERS: dict[str, tuple[Callable[[Node], VlaClient], Callable[[Any], list[Any]], int]] = {
    'vla_check': (
        lambda node: Question(node, black_picture(), 'go', print),
        lambda client: [client.status],
        1,
    ),
    'vla_bench --pipeline': (
        Listener,
        lambda client: [client.status, *client.actions[:1]],
        2,
    ),
    'vla_demo --photographs': (
        lambda node: Operator(node, 3, watches=False),
        lambda client: [client.status, *client.heard[:1]],
        2,
    ),
    'vla_eval, vla_demo, vla_simulation': (
        lambda node: SimulatedRobot(NAMESPACE),
        lambda client: [client.status, client.newest and client.newest.message],
        2,
    ),
    'vla_doctor, and any other client': (
        lambda node: VlaClient(node=node),
        lambda client: [client.status, client.newest and client.newest.message],
        2,
    ),
}


@pytest.fixture(scope='module')
def evil() -> Iterator[None]:
    """Somebody in the namespace of the demonstration who writes to the terminals of others."""
    with robot(NAMESPACE) as stack:
        statuses = stack.create_publisher(VlaStatus, 'status', latched())
        actions = stack.create_publisher(VlaAction, 'action', 1)
        status = evil_status()
        action = VlaAction(instruction=EVIL, unnorm_key=EVIL, names=[EVIL])
        action.horizon, action.actions, action.action = 1, [0.0], [0.0]
        stack.create_timer(0.05, lambda: statuses.publish(status))
        stack.create_timer(0.05, lambda: actions.publish(action))
        yield


@pytest.mark.parametrize('command', LISTENERS)
def test_every_command_that_listens_cleans_what_it_hears(
    evil: None, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, heard, count = LISTENERS[command]
    rclpy.init()
    try:
        node = Node('listens', namespace=NAMESPACE)
        with contextlib.closing(make(node)) as client:
            assert client.wait_until(lambda: len(list(filter(None, heard(client)))) == count, 20.0)
            messages = heard(client)
        for message in messages:
            assert all(text.isprintable() for text in texts(message))
            assert any('one\\x1b[2J' in text for text in texts(message))
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    assert capsys.readouterr().out.replace('\n', '').isprintable()
