# SPDX-License-Identifier: Apache-2.0
"""A page's websocket of images: the newest of each view, at most two on their way.

The page tells which image has arrived. So a slow page or network gets fewer images, and what it
gets is new: none waits in a buffer behind others. Used by the thread of the server's loop.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from vla_ros.web.console import Console
from vla_ros.web.limits import IMAGES_UNDER_WAY, SEND_S, Bucket
from vla_ros.web.messages import ImageHeader, MessageError, Shown, Watch, from_json, image_frame
from vla_ros.web.sockets import converse, receive, too_many_messages

_RATE, _BURST = 200.0, 400.0  # messages of a page, most of them Shown


class ImagePage:
    """The images of one page, from its websocket's begin to its end."""

    def __init__(
        self, console: Console, socket: web.WebSocketResponse, bell: asyncio.Event
    ) -> None:
        self._console, self._socket, self._bell = console, socket, bell
        self._wanted: list[tuple[str, str]] = []
        self._sent: dict[tuple[str, str], int] = {}  # count of the last image
        self._number = self._shown = 0
        self._bucket = Bucket(console.clock, _RATE, _BURST)

    async def run(self) -> None:
        """Serve the page until it or the server ends it."""
        refused = self._console.access.refused
        receiving = receive(self._socket, self._take, refused)
        await converse(self._send(), receiving, lambda: self._watch(()), refused)

    def _take(self, text: str) -> None:
        if not self._bucket.take():
            raise too_many_messages()
        message = from_json(text)
        if isinstance(message, Watch):
            for robot, _ in message.images:
                self._console.desk(robot)
            self._watch(message.images)
        elif isinstance(message, Shown):
            self._shown = max(self._shown, min(message.number, self._number))
        else:
            raise MessageError('only images are sent here', expected='watch or shown')
        self._bell.set()

    def _watch(self, images: tuple[tuple[str, str], ...]) -> None:
        self._wanted = [*dict.fromkeys(images)]
        for robot, desk in self._console.desks.items():
            desk.watch(self, [view for name, view in self._wanted if name == robot])

    async def _send(self) -> None:
        while True:
            self._bell.clear()
            while self._number - self._shown < IMAGES_UNDER_WAY and (frame := self._next()):
                await asyncio.wait_for(self._socket.send_bytes(frame), SEND_S)
            await self._bell.wait()

    def _next(self) -> bytes | None:
        """Return the newest image that the page does not have, of each view in turns."""
        for one in self._wanted:
            robot, view = one
            newest = self._console.desk(robot).images.get(view)
            if newest is None or newest[0] == self._sent.get(one):
                continue
            count, arrived_s, image = newest
            self._sent[one] = count
            self._wanted.remove(one)
            self._wanted.append(one)
            self._number += 1
            age_s = self._console.clock.monotonic_s() - arrived_s
            header = ImageHeader(
                robot, view, self._number, image.stamp, age_s, image.width, image.height
            )
            return image_frame(header, image.jpeg)
        return None
