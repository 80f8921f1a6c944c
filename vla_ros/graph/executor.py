# SPDX-License-Identifier: Apache-2.0
"""A thread that spins an executor."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from rclpy.executors import Executor


@contextlib.contextmanager
def spinning(executor: Executor, name: str) -> Iterator[None]:
    """Spin the executor in a new thread, and end both with the block.

    The thread ends before the executor is shut down. ``Executor.shutdown`` of rclpy (Jazzy) sets
    the guard conditions to None, and a thread that is about to wait for them raises AttributeError.

    :param name: name of the thread.
    """
    ended = threading.Event()

    def spin() -> None:
        while executor.context.ok() and not ended.is_set():
            executor.spin_once()

    thread = threading.Thread(target=spin, name=name)
    thread.start()
    try:
        yield
    finally:
        executor.create_task(ended.set)
        thread.join()
        executor.shutdown()
