# SPDX-License-Identifier: Apache-2.0
"""The lease of a robot's instruction: it is in force only while the page that gave it is there.

Each :class:`Here` of the page that holds the lease renews it: the server then publishes the
instruction once, and the node's ``max_instruction_age_s`` begins anew. There is no other cause of a
renewal, so the lease ends with the page, the network, or the server. A page whose messages come too
late does not revive a lease: it must instruct again.

Pure, with a clock. Used by the thread of the server's loop.
"""

from __future__ import annotations

from vla_ros.clock import Clock
from vla_ros.reasons import State
from vla_ros.text import is_blank, printable
from vla_ros.web.messages import LIMIT_S, LOST_AFTER_S, LeaseState
from vla_ros.web.robot import Report

MIN_LIMIT_S, MAX_LIMIT_S = 1.0, 10.0  # of the node's max_instruction_age_s
_MAX_LAPSE_S = 1.5
_LAPSE_SHARE = 0.75  # of the node's limit, so that no renewal comes after the node held by itself
_SETTLE_S = 2.0  # until the node's status shows a new instruction
_OFF = ('STOPPED', 'DISABLED')


class Lease:
    """Who keeps the instruction of one robot in force."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.limit_s: float | None = None  # max_instruction_age_s of the node; None: unknown
        self.holder = ''  # name of the page
        self.text = ''
        self.ended = ''  # why the last one ended
        self.was_told = False  # whether a command ended it
        self._taken_s = self._renewed_s = 0.0
        self._rejected = 0
        self._was_in_force = False

    @property
    def lapse_s(self) -> float:
        """Time without a renewal after which the lease ends."""
        return min(_MAX_LAPSE_S, _LAPSE_SHARE * (self.limit_s or LIMIT_S))

    def refusal(self, report: Report | None, age_s: float | None) -> str:
        """Return why nobody can instruct the robot now; empty if one can.

        :param age_s: of the report.
        """
        if report is None or age_s is None or age_s > LOST_AFTER_S:
            return 'the node does not report'
        if self.limit_s is None:
            return "the node's max_instruction_age_s is not known yet"
        if not MIN_LIMIT_S <= self.limit_s <= MAX_LIMIT_S:
            return (
                f"the node's max_instruction_age_s is {self.limit_s:g} s; a page instructs only "
                f'if the node holds by itself {MIN_LIMIT_S:g} to {MAX_LIMIT_S:g} s after the last '
                f'sign of it: set it, for example to {LIMIT_S:g} s'
            )
        if report.state not in (State.RUNNING, State.HOLDING):
            return f'the node is {report.state.name}'
        if report.reason in _OFF:
            return f'the robot is {report.reason.lower()}: {report.message}'
        return ''

    @property
    def can_set_limit(self) -> bool:
        """Whether another limit would let a page instruct."""
        return self.limit_s is not None and not MIN_LIMIT_S <= self.limit_s <= MAX_LIMIT_S

    def take(self, page: str, text: str, report: Report) -> None:
        """Give the lease to a page; the caller has asked :meth:`refusal` and publishes the text."""
        self.holder, self.text, self.ended, self.was_told = page, text, '', False
        self._taken_s = self._renewed_s = self._clock.monotonic_s()
        self._rejected, self._was_in_force = report.rejected, False

    def renew(self, page: str) -> bool:
        """Return whether the page's sign of life renews the lease: the caller then publishes."""
        now_s = self._clock.monotonic_s()
        if not self.holder or page != self.holder or now_s - self._renewed_s > self.lapse_s:
            return False
        self._renewed_s = now_s
        return True

    def end(self, why: str, was_told: bool = False) -> None:
        """End the lease, if one is held.

        :param was_told: whether a command of an operator ends it.
        """
        if self.holder:
            self.holder, self.ended, self.was_told = '', why, was_told

    def check(self, report: Report | None, age_s: float | None) -> bool:
        """End the lease if it is over; return whether the robot must be told to hold.

        Call it often, and with each report.
        """
        if not self.holder:
            return False
        why = self._why_over(report, age_s)
        if not why:
            return False
        # Another's instruction, or none, is not ours to end.
        ours = report is None or not self._was_in_force or self.is_in_force(report)
        self.end(why)
        return ours

    def shown(self, page: str, refusal: str) -> LeaseState:
        """Return the lease as a page sees it."""
        return LeaseState(
            holder=self.holder,
            is_yours=bool(self.holder) and self.holder == page,
            age_s=self._clock.monotonic_s() - self._renewed_s if self.holder else None,
            limit_s=self.limit_s,
            refusal=refusal,
            can_set_limit=self.can_set_limit,
            ended=self.ended,
            was_told=self.was_told,
        )

    def is_in_force(self, report: Report) -> bool:
        """Return whether the node has the instruction of the lease."""
        return report.instruction == ('' if is_blank(self.text) else printable(self.text))

    def _why_over(self, report: Report | None, age_s: float | None) -> str:
        now_s = self._clock.monotonic_s()
        if now_s - self._renewed_s > self.lapse_s:
            return f'{self.holder} gave no sign of life for {self.lapse_s:g} s'
        if report is None or age_s is None or age_s > LOST_AFTER_S:
            return f'the node did not report for {LOST_AFTER_S:g} s'
        if self.limit_s is None or self.can_set_limit:
            return "the node's max_instruction_age_s was changed"
        if report.state not in (State.RUNNING, State.HOLDING) or report.reason in _OFF:
            return f'the robot is {report.state.name}: {report.message}'
        if self.is_in_force(report):
            self._was_in_force = True
            return ''
        if report.rejected > self._rejected:
            return f'the node rejected the instruction: {report.message}'
        if not self._was_in_force and now_s - self._taken_s <= _SETTLE_S:
            return ''
        if report.instruction:
            return f'the instruction came from somewhere else: {report.instruction!r}'
        return f'the node no longer has the instruction: {report.message}'
