# SPDX-License-Identifier: Apache-2.0
"""The clock of a server, which no one can set."""

from __future__ import annotations

import time

from vla_ros.clock import SystemClock


class ServerClock(SystemClock):
    """The system's clocks; images are stamped with their receipt on the monotonic one."""

    def now_ns(self) -> int:
        """Return nanoseconds since an arbitrary moment; they never decrease."""
        return time.monotonic_ns()
