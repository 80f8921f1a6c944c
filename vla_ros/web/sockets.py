# SPDX-License-Identifier: Apache-2.0
"""Both directions of a page's websocket. Used by the thread of the server's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import WSMsgType, web

from vla_ros.web.access import Refusals, Refused
from vla_ros.web.messages import MessageError


async def converse(
    sending: Coroutine[Any, Any, None],
    receiving: Coroutine[Any, Any, None],
    leave: Callable[[], None],
    refused: Refusals,
) -> None:
    """Send and receive until one of them ends, or the server ends.

    What neither a page nor a network can cause is raised.

    :param leave: called then, before anything is waited for.
    :param refused: counts a page that takes nothing.
    """
    tasks = {asyncio.create_task(sending), asyncio.create_task(receiving)}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leave()
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ends:
        if isinstance(error, asyncio.TimeoutError):
            refused.too_slow += 1
        elif isinstance(error, Exception) and not isinstance(error, ConnectionError):
            raise error


async def receive(
    socket: web.WebSocketResponse, take: Callable[[str], None], refused: Refusals
) -> None:
    """Take the page's messages until it ends, or sends one that ends it.

    :param take: called with each text; may raise MessageError or Refused.
    :param refused: counts a message that ends the page.
    """
    async for message in socket:
        if message.type is WSMsgType.ERROR:  # above MESSAGE_BYTES
            refused.too_large += 1
            return
        try:
            if message.type is not WSMsgType.TEXT:
                raise MessageError('the message is no text', expected='JSON')
            take(message.data)
        except (MessageError, Refused) as error:
            refused.count(error.name if isinstance(error, Refused) else 'malformed')
            await socket.close(code=1008, message=str(error).encode()[:120])
            return


def too_many_messages() -> Refused:
    """Return the refusal of a page that sends more than its rate."""
    return Refused(429, 'too_many', 'the page sends too many messages', 'reload the page')
