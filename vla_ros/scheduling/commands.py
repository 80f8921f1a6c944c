# SPDX-License-Identifier: Apache-2.0
"""The check whether a command came in time.

A command that starts a robot may be late: the process was suspended, the executor stalled, the link
was lost. Its sender no longer expects the robot to start then. Used by one thread.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from vla_ros.clock import Clock

_GRACE_S = 1.0  # after a stall, while messages that waited in the queues are delivered
_MAX_STALL_S = 1.0  # between two calls, which are 0.02 s apart
_APART_S = 1.0  # between two commands that distinguish a wrong clock from a delay
_JITTER_S = 0.5  # allowed difference between the distances sent and heard
_MOST_CLOCKS = 8


class StallWatch:
    """A detector of stalls of the calling thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looked_s = clock.monotonic_s()
        self._stalled_s = float('-inf')  # when the last stall was noticed

    def look(self, counts: bool = True) -> float:
        """Return how long the thread stalled since the last call [s]; mostly 0.

        :param counts: False where the thread was kept busy on purpose.
        """
        now_s = self._clock.monotonic_s()
        gap_s, self._looked_s = now_s - self._looked_s, now_s
        if gap_s <= _MAX_STALL_S or not counts:
            return 0.0
        self._stalled_s = now_s
        return gap_s

    @property
    def is_recent(self) -> bool:
        """Whether a message delivered now may have waited in a queue during a stall."""
        return self._clock.monotonic_s() - self._stalled_s <= _GRACE_S


@dataclass(frozen=True)
class _Sent:
    """A command, when it was sent and heard, and its apparent age."""

    sent_ns: int
    heard_s: float
    age_s: float


class CommandWatch:
    """A judge of the age of commands that start a robot.

    The age is this machine's system time minus the sender's time stamp, which the middleware takes
    from the sender's system clock. If the two clocks differ by more than the limit, every command
    seems too late by the same time. Therefore the first is rejected. A second command that was sent
    at least a second later, and heard later by the same time, is accepted: that sender's clock is
    wrong, and its offset is subtracted from then on.
    """

    def __init__(self, max_age_s: float, clock: Clock) -> None:
        self._max_age_s = max_age_s
        self._clock = clock
        # The last learned offsets, by which senders' clocks are behind this machine's.
        self._offsets_s: deque[float] = deque(maxlen=_MOST_CLOCKS)
        self._rejected: _Sent | None = None  # the last rejected command
        self.stall = StallWatch(clock)

    def adjust(self, max_age_s: float) -> None:
        """Apply another maximum age from now on."""
        self._max_age_s = max_age_s

    def why_not(self, sent_ns: int) -> str:
        """Return why the command is too late to be accepted, or an empty text.

        :param sent_ns: the sender's system time, nanoseconds; 0 if the middleware has none.
        """
        if self.stall.is_recent:
            return 'this node did not run for a while until just now; send it again'
        if sent_ns <= 0:
            return ''
        age_s = (self._clock.system_ns() - sent_ns) / 1e9
        if any(abs(age_s - offset_s) <= self._max_age_s for offset_s in (0.0, *self._offsets_s)):
            return ''
        before = self._rejected
        self._rejected = _Sent(sent_ns, self._clock.monotonic_s(), age_s)
        if before is not None and _same_distance(before, self._rejected):
            self._offsets_s.append(min(before.age_s, age_s))
            return ''
        when = f'{age_s:.1f} s ago' if age_s > 0 else f'{-age_s:.1f} s from now'
        return (
            f"it was sent {when} by its sender's clock, max_command_age_s is {self._max_age_s:g}; "
            'send it again, and synchronise the clocks if it was sent just now'
        )


def _same_distance(one: _Sent, other: _Sent) -> bool:
    """Return whether two commands were heard as far apart as they were sent."""
    sent_s = (other.sent_ns - one.sent_ns) / 1e9
    heard_s = other.heard_s - one.heard_s
    return sent_s >= _APART_S and abs(heard_s - sent_s) <= _JITTER_S
