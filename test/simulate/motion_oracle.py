"""What one robot's motion must be, computed from the action messages alone.

A chunk's rows follow each other, none is made twice, and a new chunk replaces the rest of the one
before. Times are nanoseconds of the clock that the motion runs by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulate.scheduler import NS
from vla_ros.motion import ActionContract
from vla_ros.motion.displacement import action_twist

_TICKS_PER_RAMP = 2  # a ramp is at least so long
_UNSURE_NS = 2_000_000  # of a moment: the node reads two clocks one after the other
_CLOSED, _OPEN = 0.4, 0.6  # between them a gripper stays as it is

Vector = NDArray[np.float64]


@dataclass
class _Row:
    """A constant twist, before it is smoothed."""

    twist: Vector
    start_ns: float
    end_ns: float


class _Opening(NamedTuple):
    """The gripper of a row that has not begun."""

    opening: float
    due_ns: float
    valid_until_ns: float  # it must have begun by then


class MotionOracle:
    """The twist and the gripper that the chunks so far mean."""

    def __init__(self, parameters: dict[str, Any], violation: Callable[[str], None]) -> None:
        self._params = parameters
        self._violation = violation
        self._rows: list[_Row] = []
        self._openings: list[_Opening] = []
        self._perhaps_told = 0  # of the openings, the first ones
        self._gripper: float | None = None  # None: not known
        self._ramp_ns = 1.0
        self._unsure_until_ns = 0.0
        self._now_ns = 0  # of the last twist, or of the action after it
        self._start_ns = 0  # of the last chunk
        self._must_move = False  # at the last twist
        self._stands_still = False  # since the twist before, though it has to move

    # -- chunks ------------------------------------------------------------------------------------

    def follow(
        self,
        rows: Sequence[Sequence[float]],
        contract: ActionContract,
        due_ns: int,
        start_ns: int,
        valid_ns: int,
    ) -> None:
        """A chunk has been published.

        :param contract: with the chunk's own period.
        :param due_ns: of row 0, perhaps before ``start_ns``: what is past is not made.
        :param valid_ns: for how long row 0 is, from then on.
        """
        self._ramp_ns = self.ramp_s(contract) * NS
        self._start_ns = start_ns
        period_ns = contract.period_s * NS
        self._replace_from(start_ns)
        lasts_ns = min(period_ns, valid_ns - 2 * self._ramp_ns)
        self._openings.clear()
        for number, row in enumerate(rows):
            begin_ns = due_ns + number * period_ns
            if begin_ns + lasts_ns <= start_ns:
                continue
            twist = self._bounded(action_twist(np.array(row), contract), contract)
            self._rows.append(_Row(twist, max(begin_ns, start_ns), begin_ns + lasts_ns))
            self._openings.append(_Opening(contract.opening(row[6]), begin_ns, begin_ns + valid_ns))
        self._perhaps_told = 0
        self._now_ns = start_ns
        self._must_move = self._stands_still = False

    def doubt(self) -> None:
        """It may move or not, until the next chunk that is surely a motion."""
        self.stop()
        self._unsure_until_ns = math.inf

    def stop(self) -> None:
        """It stops now, and discards the rows that have not begun."""
        self._rows.clear()
        self._openings.clear()
        self._stands_still = False

    def _replace_from(self, start_ns: int) -> None:
        if math.isinf(self._unsure_until_ns):
            self._unsure_until_ns = start_ns + 2 * self._ramp_ns
        for row in self._rows:
            row.end_ns = min(row.end_ns, start_ns)
        self._rows = [
            row
            for row in self._rows
            if row.start_ns < row.end_ns and row.end_ns + 2 * self._ramp_ns > start_ns
        ]

    # -- twists ------------------------------------------------------------------------------------

    def check_twist(self, twist: Vector, now_ns: int, is_sure: bool, must_move: bool) -> None:
        """
        :param is_sure: whether the motion is that of the actions, or the robot stands still.
        :param must_move: whether nothing has happened for which the robot may stand still.
        """
        before_ns, self._now_ns = self._now_ns, now_ns
        self._check_told(before_ns, must_move and self._must_move)
        self._must_move = must_move
        if not is_sure or now_ns < self._unsure_until_ns:
            return
        if not self._is_other(twist, now_ns):
            self._stands_still = False
        elif not twist.any():
            self._stand_still(now_ns, must_move)
        else:
            expected = self._expected(now_ns)
            self._violation(
                f'twist {twist.round(4).tolist()}, by its actions {expected.round(4).tolist()}'
            )

    def _is_other(self, twist: Vector, now_ns: float) -> bool:
        steepest = self._steepest() * _UNSURE_NS + 1e-9
        return bool((np.abs(twist - self._expected(now_ns)) > steepest).any())

    def _stand_still(self, now_ns: int, must_move: bool) -> None:
        """It may once, as it stops; then its status says that it holds."""
        if must_move and not self._stands_still:
            self._stands_still = True
            return
        if must_move:
            self._violation('it stands still, though its action is not over')
        else:  # it may have stopped before its last action, which begins at zero then
            self._rows = [row for row in self._rows if row.start_ns >= self._start_ns]
        if must_move or self._is_other(np.zeros(6), now_ns):
            self.stop()

    def _expected(self, now_ns: float) -> Vector:
        """The average over the last two ramps, weighted by a triangle."""
        total = np.zeros(6)
        for row in self._rows:
            young = self._share(now_ns - row.start_ns) - self._share(now_ns - row.end_ns)
            total += young * row.twist
        return total

    def _share(self, age_ns: float) -> float:
        """How much of the triangle is younger."""
        x = min(max(age_ns / self._ramp_ns, 0.0), 2.0)
        return x * x / 2 if x <= 1 else 1 - (2 - x) ** 2 / 2

    def _steepest(self) -> Vector:
        """How fast the twist may change, for each part, per nanosecond."""
        fastest = np.max([np.abs(row.twist) for row in self._rows], axis=0, initial=0.0)
        steepest: Vector = 2 * fastest / self._ramp_ns if self._rows else np.zeros(6)
        return steepest

    def _bounded(self, twist: Vector, contract: ActionContract) -> Vector:
        linear, angular = self._limits(contract)
        return np.concatenate([_shortened(twist[:3], linear), _shortened(twist[3:], angular)])

    def _limits(self, contract: ActionContract) -> tuple[float, float]:
        return (
            min(self._params['max_linear_speed_m_s'], contract.max_linear_m_s),
            min(self._params['max_angular_speed_rad_s'], contract.max_angular_rad_s),
        )

    def ramp_s(self, contract: ActionContract) -> float:
        linear, angular = self._limits(contract)
        return max(
            2 * math.sqrt(linear / self._params['max_linear_jerk_m_s3']),
            2 * math.sqrt(angular / self._params['max_angular_jerk_rad_s3']),
            _TICKS_PER_RAMP / self._params['control_rate_hz'],
        )

    # -- the gripper -------------------------------------------------------------------------------

    def check_gripper(self, opening: float) -> None:
        """The gripper is told where to be, just after an action or a twist, as a row begins."""
        surely = max(1, self._begun(self._now_ns - _UNSURE_NS))
        perhaps = self._begun(self._now_ns + _UNSURE_NS)
        if not perhaps and not math.isinf(self._unsure_until_ns):
            self._violation('the gripper is told where to be, and no row of an action begins')
        allowed = {
            self._after(count, moment_ns)
            for count in range(surely, perhaps + 1)
            for moment_ns in (self._now_ns - _UNSURE_NS, self._now_ns + _UNSURE_NS)
        }
        if allowed and None not in allowed and opening not in allowed:
            self._violation(f'the gripper is to be open by {opening}, by its actions by {allowed}')
        self._gripper = opening
        self._openings = self._openings[surely:]
        self._perhaps_told = max(0, perhaps - surely)

    def _begun(self, moment_ns: int) -> int:
        return sum(row.due_ns <= moment_ns for row in self._openings)

    def _after(self, count: int, moment_ns: int) -> float | None:
        """Where it is when so many rows have begun by this moment; late ones move nothing."""
        gripper = self._gripper
        for row in self._openings[:count]:
            if moment_ns < row.valid_until_ns and not _CLOSED <= row.opening <= _OPEN:
                gripper = float(row.opening > _OPEN)
        return gripper

    def _check_told(self, before_ns: int, must_move: bool) -> None:
        """The rows that were due at the twist before have begun with that."""
        begun = self._begun(before_ns - _UNSURE_NS)
        due = self._openings[self._perhaps_told : begun]
        if must_move and any(not _CLOSED <= row.opening <= _OPEN for row in due):
            self._violation('the gripper is not told where to be, though a row has begun')
            self._openings = self._openings[begun:]


def with_period(contract: ActionContract, period_s: float) -> ActionContract:
    """Return the contract for rows that follow each other by this period; 0: its own."""
    return replace(contract, period_s=period_s) if period_s else contract


def _shortened(vector: Vector, limit: float) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector if length <= limit else vector * (limit / length)
