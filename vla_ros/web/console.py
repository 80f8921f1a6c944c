# SPDX-License-Identifier: Apache-2.0
"""All robots and pages of one server. Used by the thread of the server's loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator

from vla_ros.clock import Clock, SystemClock
from vla_ros.web.access import Access, Refused
from vla_ros.web.desk import Desk
from vla_ros.web.limits import PAGES
from vla_ros.web.messages import RobotName
from vla_ros.web.robot import Commands

MAX_ROBOTS = 16


class Console:
    """The desks of the robots, by key, and the bells of the pages."""

    def __init__(self, access: Access | None = None, clock: Clock = SystemClock()) -> None:
        self.access = access or Access(clock=clock)
        self.clock = clock
        self.desks: dict[str, Desk] = {}
        self.version = 0  # of the list of robots and their views
        self._bells: set[asyncio.Event] = set()
        self._numbers = itertools.count(1)

    def add(self, name: RobotName, commands: Commands) -> Desk:
        """Add a robot; the caller adds each key once, and MAX_ROBOTS at most."""
        desk = Desk(name, commands, self.ring, self.clock)
        self.desks = dict(
            sorted({**self.desks, name.robot: desk}.items(), key=lambda one: one[1].name.title)
        )
        self.version += 1
        self.ring()
        return desk

    def rename(self, name: RobotName) -> None:
        """Tell the pages of other views of a robot."""
        self.desks[name.robot].name = name
        self.version += 1
        self.ring()

    def desk(self, robot: str) -> Desk:
        """Return the desk of a robot.

        :raises Refused: if there is none.
        """
        desk = self.desks.get(robot)
        if desk is None:
            raise Refused(404, 'malformed', f'there is no robot {robot[:80]!r}')
        return desk

    def ring(self) -> None:
        """Wake the pages."""
        for bell in self._bells:
            bell.set()

    def tick(self) -> None:
        """Notice what time alone changes. Call it every 0.1 s."""
        for desk in self.desks.values():
            desk.tick()

    def next_page(self) -> str:
        """Return the name of a new page."""
        return f'page {next(self._numbers)}'

    @contextlib.contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """Provide the bell of one page's websocket.

        :raises Refused: if there are too many.
        """
        if len(self._bells) >= 2 * PAGES:
            raise Refused(503, 'too_many', f'{PAGES} pages are open', 'close some')
        bell = asyncio.Event()
        self._bells.add(bell)
        try:
            yield bell
        finally:
            self._bells.discard(bell)
