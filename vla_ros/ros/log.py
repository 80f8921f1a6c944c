# SPDX-License-Identifier: Apache-2.0
"""The node's log: printable lines of bounded length, and no line repeated without limit.

Used by the executor's thread, and by the worker's while it loads.
"""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node

from vla_ros.clock import Clock
from vla_ros.text import printable

_MAX_CHARACTERS = 8000  # a traceback


class Log:
    """A logger whose lines are cleaned, and limited in rate if asked."""

    def __init__(self, node: Node, clock: Clock) -> None:
        self._logger = node.get_logger()
        self._clock = clock
        self._next_s: dict[str, float] = {}  # when a kind of line may be logged again

    # rclpy keeps one severity for each line of code that logs.

    def info(self, text: str, every_s: float = 0.0) -> None:
        """Log a line.

        :param every_s: shortest time between two lines that begin alike, up to ``: `` [s].
        """
        if self._may(text, every_s):
            self._logger.info(_clean(text))

    def warning(self, text: str, every_s: float = 0.0) -> None:
        """Log a warning, as :meth:`info` does."""
        if self._may(text, every_s):
            self._logger.warning(_clean(text))

    def error(self, text: str, every_s: float = 0.0) -> None:
        """Log an error, as :meth:`info` does."""
        if self._may(text, every_s):
            self._logger.error(_clean(text))

    def _may(self, text: str, every_s: float) -> bool:
        if not every_s:
            return True
        kind = text.partition(': ')[0]
        now_s = self._clock.monotonic_s()
        if now_s < self._next_s.get(kind, now_s):
            return False
        self._next_s[kind] = now_s + every_s
        return True


class WarningsToLog(logging.Handler):
    """Python's warnings and errors of this package as lines of the node's log, which is /rosout.

    Rooms that are independent of ROS write them. Any thread.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        """Forward to a logger of rclpy."""
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record."""
        if record.levelno >= logging.ERROR:
            self._logger.error(_clean(self.format(record)))
        else:
            self._logger.warning(_clean(self.format(record)))


def _clean(text: str) -> str:
    return printable(text, _MAX_CHARACTERS, keep_lines=True)
