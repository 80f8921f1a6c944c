# SPDX-License-Identifier: Apache-2.0
"""A page of the console as its script is one, without a browser."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

WAIT_S = 30.0


def be_patient(monkeypatch: pytest.MonkeyPatch, lapse_s: float = 7.5, lost_s: float = 20.0) -> None:
    """Let no lease and no node's silence end a test on a slow machine."""
    monkeypatch.setattr('vla_ros.web.lease._MAX_LAPSE_S', lapse_s)
    for module in ('lease', 'desk'):
        monkeypatch.setattr(f'vla_ros.web.{module}.LOST_AFTER_S', lost_s)


@dataclass
class Page:
    """The websocket of messages of one page."""

    socket: aiohttp.ClientWebSocketResponse
    robot: str = '-'
    last_id: int = 0

    @classmethod
    async def open(cls, client: aiohttp.ClientSession, url: str, robot: str = '-') -> Page:
        return cls(await client.ws_connect(f'{url}api/messages'), robot)

    async def until(self, kind: str, **wanted: Any) -> dict[str, Any]:
        """The next message of that type with these values, of the page's robot."""

        async def look() -> dict[str, Any]:
            while True:
                message = json.loads(await self.socket.receive_str())
                is_ours = message.get('robot', self.robot) == self.robot
                values = [message.get(name) == value for name, value in wanted.items()]
                if message['type'] == kind and is_ours and all(values):
                    return message

        return await asyncio.wait_for(look(), WAIT_S)

    async def recording(self, **wanted: Any) -> dict[str, Any]:
        """What is told of the recording, once it has these values."""

        async def look() -> dict[str, Any]:
            while True:
                told: dict[str, Any] = (await self.until('details'))['recording']
                if all(told[name] == value for name, value in wanted.items()):
                    return told

        return await asyncio.wait_for(look(), WAIT_S)

    async def here(self, now_ms: float = 0.0) -> None:
        message = {'type': 'here', 'now_ms': now_ms, 'robots': [self.robot]}
        await self.socket.send_json(message)

    async def stay(self) -> None:
        """Be there until cancelled."""
        while True:
            await self.here()
            await asyncio.sleep(0.3)

    async def ask(self, kind: str, **values: Any) -> dict[str, Any]:
        """Send a command or an instruction, and return its answer."""
        self.last_id += 1
        message = {'type': kind, 'id': self.last_id, 'robot': self.robot, **values}
        await self.socket.send_json(message)
        return await self.until('answer', id=self.last_id)


async def image_of(images: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """The header of the next image on a websocket of images."""
    frame = await asyncio.wait_for(images.receive_bytes(), WAIT_S)
    size = int.from_bytes(frame[:2], 'big')
    assert frame[2 + size :][:2] == b'\xff\xd8'
    header: dict[str, Any] = json.loads(frame[2 : 2 + size])
    return header
