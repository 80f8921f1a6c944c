# SPDX-License-Identifier: Apache-2.0
"""A robot as the server needs it: what it reports, and what can be told to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from vla_ros.reasons import State
from vla_ros.web.messages import Finding


@dataclass(frozen=True)
class Report:
    """The content of a VlaStatus.

    :param reason: its name, or its number as text if this version does not know it.
    :param rejected: how many instructions the node has rejected, or found too late.
    """

    state: State
    reason: str = 'NONE'
    message: str = ''
    elapsed_s: float = 0.0
    instruction: str = ''
    rejected: int = 0
    policy: Mapping[str, Any] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    latencies: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    motion: Mapping[str, Any] = field(default_factory=dict)
    recording: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JpegImage:
    """An image for pages.

    :param stamp: capture time [ns], as text.
    """

    jpeg: bytes
    width: int
    height: int
    stamp: str = '0'


@dataclass(frozen=True)
class Reply:
    """The node's answer to a command.

    :param confirmed: whether the node answered at all.
    """

    ok: bool
    confirmed: bool
    message: str


class Commands(Protocol):
    """What can be told to a robot. Called by the thread of the server's loop; nothing blocks."""

    def say(self, instruction: str) -> None:
        """Publish an instruction once; empty: hold."""

    def switch(self, command: str) -> asyncio.Future[Reply]:
        """Send ``stop``, ``reset``, ``enable``, ``disable`` or ``success`` before this returns.

        The future ends immediately if no node is there to answer.
        """

    def set(self, name: str, value: float | bool) -> asyncio.Future[Reply]:
        """Set a parameter of the node."""

    def watch(self, views: frozenset[str]) -> None:
        """Hand the images of these views to ``Desk.show`` from now on, and no others."""

    def examine(self) -> Awaitable[tuple[Finding, ...]]:
        """Run the doctor on the robot's node.

        :raises VlaError: if it can't run.
        """
