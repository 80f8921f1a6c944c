# SPDX-License-Identifier: Apache-2.0
"""Percentiles of recent durations."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Percentiles:
    """Percentiles in seconds; zero if there are no durations."""

    p50_s: float = 0.0
    p95_s: float = 0.0
    p99_s: float = 0.0


class LatencyWindow:
    """The last ``size`` durations. One thread."""

    def __init__(self, size: int = 512) -> None:
        self._durations_s: deque[float] = deque(maxlen=size)

    def add(self, duration_s: float) -> None:
        self._durations_s.append(duration_s)

    def percentiles(self) -> Percentiles:
        """Return the percentiles by nearest rank, so that each is a duration that occurred."""
        ordered = sorted(self._durations_s)
        if not ordered:
            return Percentiles()

        def rank(percent: int) -> float:
            return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]

        return Percentiles(rank(50), rank(95), rank(99))
