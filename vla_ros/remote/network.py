# SPDX-License-Identifier: Apache-2.0
"""The thread that owns all connections of a policy, and how other threads ask it.

Everything that touches a socket runs in its asyncio loop. The policy's thread hands over a task and
waits for its result. It never blocks in a socket: a server that stops reading would keep it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from vla_ros.types import InferenceCancelled

T = TypeVar('T')

_LOOK_S = 0.005  # a Cancel can only be asked, not waited for; a result ends the wait immediately
_END_S = 2.0  # within which a cancelled task, or the thread, ends


class Network:
    """An asyncio loop in a thread of its own."""

    def __init__(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name='vla-remote', daemon=True)
        self._thread.start()

    def run(
        self, task: Coroutine[Any, Any, T], is_cancelled: Callable[[], bool] = lambda: False
    ) -> T:
        """Run a task in the loop, and return its result; any other thread.

        :param is_cancelled: asked while waiting; may raise, which cancels as well.
        :raises InferenceCancelled: soon after it is cancelled; the task has ended then.
        """
        future = asyncio.run_coroutine_threadsafe(task, self._loop)
        try:
            while True:
                done, _ = concurrent.futures.wait([future], _LOOK_S)
                if done:
                    return future.result()
                if is_cancelled():
                    raise InferenceCancelled
        finally:
            if not future.done():
                future.cancel()
                # The loop marks the future immediately, but the task still has to clean up.
                with contextlib.suppress(concurrent.futures.TimeoutError):
                    asyncio.run_coroutine_threadsafe(_pass(), self._loop).result(_END_S)

    def close(self) -> None:
        """End all tasks and the thread; any other thread, once."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=1.0) if tasks else _pass())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()


async def _pass() -> None:
    """Let tasks run that were cancelled before."""
    for _ in range(3):
        await asyncio.sleep(0)
