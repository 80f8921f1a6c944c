# SPDX-License-Identifier: Apache-2.0
"""The heartbeat for nav2's lifecycle manager, with a stand-in for the package ``bond``."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from support.fakes import FakePolicy
from support.in_process import unstarted_node
from vla_ros.reasons import State
from vla_ros.ros.bond import Bond


class Status(SimpleNamespace):
    """As bond/msg/Status."""

    def __init__(self, **fields: object) -> None:
        super().__init__(header=SimpleNamespace(stamp=None), **fields)


class StandInNode:
    """Keeps what is published; the test calls the timer."""

    def __init__(self) -> None:
        self.published: list[Status] = []
        self.timers: list[Any] = []

    def get_name(self) -> str:
        return 'vla'

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: 'now'))

    def create_publisher(self, kind: type, topic: str, depth: int) -> Any:
        assert (kind, topic) == (Status, 'bond')
        return SimpleNamespace(publish=self.published.append)

    def create_timer(self, period_s: float, callback: Any, clock: object) -> Any:
        assert period_s == 0.1
        self.timers.append(callback)
        return callback

    def destroy_timer(self, timer: Any) -> None:
        self.timers.remove(timer)


def test_an_active_node_sends_heartbeats_and_takes_its_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package, messages = ModuleType('bond'), ModuleType('bond.msg')
    vars(messages)['Status'] = Status
    monkeypatch.setitem(sys.modules, 'bond', package)
    monkeypatch.setitem(sys.modules, 'bond.msg', messages)
    node: Any = StandInNode()
    bond = Bond(node)
    bond.end()
    assert not node.published
    bond.begin()
    bond.begin()
    [beat] = node.timers
    beat()
    assert [(one.id, one.active) for one in node.published] == [('vla', True)] * 2
    bond.end()
    bond.end()
    assert not node.timers
    assert [one.active for one in node.published] == [True, True, False]
    assert len({one.instance_id for one in node.published}) == 1


def test_the_node_is_bound_while_it_is_active(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it loads: the manager waits for the bond right after the activation."""
    told: list[str] = []
    monkeypatch.setattr(Bond, 'begin', lambda self: told.append('begin'))
    monkeypatch.setattr(Bond, 'end', lambda self: told.append('end'))
    with unstarted_node(lambda *_: FakePolicy()) as (stack, _):
        assert told == ['begin']
        stack.wait_for_state(State.HOLDING)
    assert told[-1] == 'end'


def test_without_the_package_there_is_no_heartbeat() -> None:
    with unstarted_node(lambda *_: FakePolicy()) as (stack, node):
        stack.wait_for_state(State.HOLDING)
        assert not node.count_publishers(f'{node.get_namespace()}/bond')
