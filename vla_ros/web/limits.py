# SPDX-License-Identifier: Apache-2.0
"""Limits of what pages and strangers may take from the server."""

from __future__ import annotations

from vla_ros.clock import Clock

CONNECTIONS = 160  # open; beyond it the longest idle one is closed for the new one
PAGES = 32  # websockets of each kind
IDLE_S = 10.0  # a connection without a request, also one that is slow to send its first headers
HANDSHAKE_S = 5.0  # of TLS
BODY_S = 5.0  # a request's body
BODY_BYTES = 4096
MESSAGE_BYTES = 8192  # of a websocket
SEND_S = 5.0  # a page that takes no message for this time is closed
SILENT_S = 10.0  # a page that sends nothing for this time is closed
COMMANDS = 8  # of one page that wait, beside stops
IMAGES_UNDER_WAY = 2  # of one page
SESSION_S = 12 * 3600.0  # a sign-in


class Bucket:
    """Allows ``rate`` messages a second, and a burst. Used by one thread."""

    def __init__(self, clock: Clock, rate: float, burst: float) -> None:
        self._clock, self._rate, self._burst = clock, rate, burst
        self._left, self._at_s = burst, clock.monotonic_s()

    def take(self) -> bool:
        """Count one message, and return whether it is allowed."""
        now_s = self._clock.monotonic_s()
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
