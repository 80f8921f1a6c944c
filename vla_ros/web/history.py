# SPDX-License-Identifier: Apache-2.0
"""The recent past of one robot: latency and rate by the second, and a timeline of its states.

Pure, with a clock. Used by the thread of the server's loop.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

from vla_ros.clock import Clock
from vla_ros.reasons import State
from vla_ros.web.messages import Event
from vla_ros.web.robot import Report

_SECONDS = 300
_SPANS = 200
SHOWN_SPANS = 50
_REPEATS_WITHIN_S = 1.0
_RATE_S = 2.0
# The normal course, and what the operator wanted.
_NO_FAULT = (
    *('NONE', 'STOPPED', 'DISABLED', 'NO_INSTRUCTION', 'INSTRUCTION_CHANGED', 'NO_IMAGE_YET'),
    'SHUT_DOWN',
)


@dataclass(frozen=True)
class _Sample:
    at_s: float
    actions_hz: float
    image_to_action_s: float | None
    inference_s: float | None


class Samples:
    """Latency and rate, one sample a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._samples: deque[_Sample] = deque(maxlen=_SECONDS)
        self._latencies: list[float] = []
        self._inferences: list[float] = []
        self._arrivals_s: deque[float] = deque(maxlen=1000)
        self._begun_s = clock.monotonic_s()
        self.count = 0  # samples so far

    def note(self, latency_s: float, inference_s: float) -> None:
        """Note an action."""
        self._arrivals_s.append(self._clock.monotonic_s())
        self._latencies.append(latency_s)
        self._inferences.append(inference_s)

    def rate_hz(self) -> float:
        """Return the rate of actions over the last two seconds."""
        since_s = self._clock.monotonic_s() - _RATE_S
        return sum(at_s > since_s for at_s in self._arrivals_s) / _RATE_S

    def tick(self) -> bool:
        """Close the sample of a second that is over, and return whether one was. Call it often."""
        now_s = self._clock.monotonic_s()
        if now_s - self._begun_s < 1.0:
            return False
        made = len(self._latencies) / (now_s - self._begun_s)
        sample = _Sample(now_s, made, _median(self._latencies), _median(self._inferences))
        self._samples.append(sample)
        self._latencies, self._inferences, self._begun_s = [], [], now_s
        self.count += 1
        return True

    def rows(self, seen: int) -> tuple[tuple[float | None, ...], ...]:
        """Return the samples after the first ``seen`` of all, as in :class:`messages.Samples`."""
        now_s = self._clock.monotonic_s()
        new = min(self.count - seen, len(self._samples))
        return tuple(
            (round(now_s - one.at_s, 3), one.actions_hz, one.image_to_action_s, one.inference_s)
            for one in [*self._samples][len(self._samples) - new :]
        )


@dataclass
class _Span:
    number: int
    begun_s: float
    report: Report
    ended_s: float | None = None
    times: int = 1


class Timeline:
    """Spans of one state and reason. A span that returns soon is the same one, counted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spans: deque[_Span] = deque(maxlen=_SPANS)
        self.version = 0

    def note(self, report: Report) -> None:
        """Note a report; another state or reason begins a span."""
        now_s = self._clock.monotonic_s()
        last = self._spans[-1] if self._spans else None
        if last is not None and last.ended_s is None:
            if (last.report.state, last.report.reason) == (report.state, report.reason):
                last.report = report
                return
            last.ended_s = now_s
        self.version += 1
        for index in (-2, -3):  # RUNNING and one hold in turns, as with a slow camera
            old = self._spans[index] if len(self._spans) >= -index else None
            if old is not None and self._continues(old, report, now_s):
                del self._spans[index]
                old.ended_s, old.times, old.report = None, old.times + 1, report
                self._spans.append(old)
                return
        number = max((span.number for span in self._spans), default=0) + 1
        self._spans.append(_Span(number, now_s, report))

    def lose(self) -> None:
        """End the span: nothing is known of the robot from now on."""
        if self._spans and self._spans[-1].ended_s is None:
            self._spans[-1].ended_s = self._clock.monotonic_s()
            self.version += 1

    def events(self) -> tuple[Event, ...]:
        """Return the newest spans, oldest first."""
        now_s = self._clock.monotonic_s()
        return tuple(
            Event(
                span.number,
                now_s - span.begun_s,
                None if span.ended_s is None else span.ended_s - span.begun_s,
                span.report.state.name,
                span.report.reason,
                span.report.message,
                span.report.state is State.ERROR or span.report.reason not in _NO_FAULT,
                span.times,
            )
            for span in [*self._spans][-SHOWN_SPANS:]
        )

    def _continues(self, span: _Span, report: Report, now_s: float) -> bool:
        same = (span.report.state, span.report.reason) == (report.state, report.reason)
        return same and span.ended_s is not None and now_s - span.ended_s < _REPEATS_WITHIN_S


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
