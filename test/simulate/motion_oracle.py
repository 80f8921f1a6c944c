# SPDX-License-Identifier: Apache-2.0
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

from simulate.parts_oracle import MARGIN_S
from simulate.pose_oracle import Place, PoseOracle
from simulate.route_oracle import (
    Guide,
    History,
    Refused,
    Unsure,
    box_of,
    goals_of,
    progress,
)
from simulate.scheduler import NS
from vla_ros.motion import ActionContract
from vla_ros.motion.displacement import action_twist

_TICKS_PER_RAMP = 2  # a ramp is at least so long
MARGIN_NS = MARGIN_S * NS
_UNSURE_NS = 2_000_000  # of a moment: the node reads two clocks one after the other
_CLOSE_M = 1e-3  # to the workspace's bound
_CLOSED, _OPEN = 0.4, 0.6  # between them a gripper stays as it is

Vector = NDArray[np.float64]


@dataclass
class _Row:
    """A constant twist, before it is smoothed."""

    twist: Vector
    start_ns: float
    end_ns: float


class _Opening(NamedTuple):
    """The gripper of a row that the arm has not begun."""

    opening: float
    begins_ns: float  # when the row's command does
    due_ns: float  # a ramp later
    valid_until_ns: float  # it must have been told by then
    may_be_none: bool = False  # told already, or replaced


@dataclass(frozen=True)
class ChunkTimes:
    """When a chunk came.

    :param due_ns, start_ns: as for ``follow``, by the clock that motions run by.
    :param valid_ns: for how long row 0 is, from ``due_ns`` on.
    :param stamp_ns: of the action, by the node's clock.
    :param image_ns: of the image of the first camera.
    :param real_ns: now, by the scheduler's clock.
    """

    due_ns: int
    start_ns: int
    valid_ns: int
    stamp_ns: int
    image_ns: int
    real_ns: int


def valid_until(times: ChunkTimes, row: int, period_ns: float) -> float:
    """Until when the motion of a row is valid."""
    return times.due_ns + times.valid_ns + row * period_ns


class MotionOracle:
    """The twist and the gripper that the chunks so far mean."""

    def __init__(
        self, parameters: dict[str, Any], robot: int, violation: Callable[[str], None]
    ) -> None:
        self._params, self._robot = parameters, robot
        self._violation = violation
        self._rows: list[_Row] = []
        self._openings: list[_Opening] = []
        self._perhaps_told = 0  # of the openings, the first ones
        self._gripper: float | None = None  # None: not known
        self._ramp_ns = 1.0
        self._limits_in_doubt = False  # a motion may have begun by others, and kept its ramp
        self._unsure_until_ns = 0.0
        self._now_ns = 0  # of the last twist, or of the action after it
        self._start_ns = 0  # of the last chunk
        self._must_move = False  # at the last twist
        self._comes_with_action = False  # what the gripper is told next
        self.poses = PoseOracle(parameters, robot)
        self._keep_way()
        self._is_adrift = False  # what is commanded is not known
        self._loose: Vector = np.zeros(6)  # of the twists of the last chunk
        self._slack_ns = 0.0  # of its rows' times
        self._histories: list[History] = [[]]  # of the gripper, one of which is right
        self._stands_still = False  # since the twist before, though it has to move
        self.skipped = (0, 0)  # rows of the last chunk that goes by the pose, at least and at most
        self.clipped_by_box = (0, 0)  # whether it is surely, or perhaps
        self.may_be_interrupted = 0  # motions

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
        self._comes_with_action = False
        period_ns = contract.period_s * NS
        self._replace_from(start_ns)
        lasts_ns = min(period_ns, valid_ns - 2 * self._ramp_ns)
        begins_ns = [due_ns + number * period_ns for number in range(len(rows))]
        left_ns = [begin_ns for begin_ns in begins_ns if begin_ns + lasts_ns > start_ns]
        self._keep_openings(min(left_ns, default=start_ns))
        for row, begin_ns in zip(rows, begins_ns, strict=True):
            if begin_ns + lasts_ns <= start_ns:
                continue
            twist = self._bounded(action_twist(np.array(row), contract), contract)
            self._rows.append(_Row(twist, max(begin_ns, start_ns), begin_ns + lasts_ns))
            told_ns, until_ns = begin_ns + self._ramp_ns, begin_ns + valid_ns
            self._expect(_Opening(contract.opening(row[6]), begin_ns, told_ns, until_ns))
        if self._limits_in_doubt:
            self._unsure_until_ns = math.inf
        self._now_ns = start_ns
        self._must_move = self._stands_still = False

    def _keep_way(self) -> None:
        self._is_from_pose = self._params['chunk_timing'] == 'from_pose'
        self._box = box_of(self._params, self._robot)

    def change_way(self) -> None:
        """Another timing or workspace is in force; what is a motion by the other ends."""
        before = self._is_from_pose, self._box
        self._keep_way()
        if before != (self._is_from_pose, self._box):
            self.stop()
        if not self.is_guided:
            self.poses.begin()

    @property
    def is_guided(self) -> bool:
        """Whether it goes by the tool's pose."""
        return self._is_from_pose or self._box is not None

    def guided(
        self,
        rows: Sequence[Sequence[float]],
        contract: ActionContract,
        times: ChunkTimes,
    ) -> bool | None:
        """A chunk has been published that goes by the tool's pose.

        :param contract: with the chunk's own period.
        :returns: whether it is a motion; None: perhaps.
        """
        self._now_ns = self._start_ns = times.start_ns
        self._comes_with_action = self._is_from_pose
        self.skipped, self.clipped_by_box = (0, len(rows)), (0, int(self._box is not None))
        try:
            self._follow_guided(rows, contract, times)
        except Unsure:
            self._is_adrift = True
            self.doubt()
            return None
        except Refused:
            self.stop()
            return None if self._is_adrift or self._limits_in_doubt else False
        return not math.isinf(self._unsure_until_ns) or None

    def _follow_guided(
        self, rows: Sequence[Sequence[float]], contract: ActionContract, times: ChunkTimes
    ) -> None:
        now_ns, period_ns = times.start_ns, contract.period_s * NS
        self._ramp_ns = self.ramp_s(contract) * NS
        newest = self.poses.newest(times.real_ns, times.stamp_ns)
        if newest.place is None:
            raise Unsure if newest.is_unsure else Refused
        if not self.poses.is_in_frame:
            raise Refused
        twists = [action_twist(np.array(row), contract) for row in rows]
        openings = [contract.opening(row[6]) for row in rows]
        tool = self._at_rest(newest.place, times)
        guide = Guide(self.poses, now_ns, times.stamp_ns, times.image_ns, tool)
        goals: list[Place] = []
        done, due_ns, slack_ns = 0, times.due_ns, 0.0
        if self._is_from_pose:
            goals = goals_of(guide, [twist * contract.period_s for twist in twists])
            done, left = self._progress(guide, goals, openings)
            due_ns = now_ns - (1 - left) * period_ns
            length_m = goals[done].distance_to(goals[done + 1])
            slack_ns = 0.0 if left == 1.0 else period_ns * self._unsure_m(contract) / length_m
        ends_ns = min(due_ns + period_ns, valid_until(times, done, period_ns) - 2 * self._ramp_ns)
        begins_ns = now_ns if self._is_from_pose else due_ns
        if ends_ns < begins_ns - MARGIN_NS:
            raise Refused
        if ends_ns < begins_ns + MARGIN_NS:
            raise Unsure
        if not self._is_from_pose:
            left = [ends_ns + row * period_ns - now_ns for row in range(len(rows))]
            if any(abs(one) < MARGIN_NS for one in left):
                raise Unsure
            done = sum(one < 0 for one in left)
            if done == len(rows):
                raise Refused
            due_ns, ends_ns = due_ns + done * period_ns, ends_ns + done * period_ns
        if self._is_adrift or self._limits_in_doubt:
            raise Unsure
        self.skipped = (done, done)
        self._replace_from(now_ns)
        self._keep_openings(-math.inf if self._is_from_pose else due_ns)
        self._slack_ns = slack_ns
        self._must_move = self._stands_still = False
        self._loose = np.zeros(6)
        valid_ns = valid_until(times, done, period_ns)
        place = tool
        for number in range(len(rows) - done):
            begin_ns = max(now_ns, due_ns + number * period_ns)
            end_ns = min(ends_ns + number * period_ns, due_ns + (number + 1) * period_ns)
            lasts_s = (end_ns - begin_ns) / NS
            if self._is_from_pose:
                goal = goals[done + number + 1]
            else:
                goal = place.moved(self._bounded(twists[done + number], contract) * lasts_s)
            if self._box is not None:
                inside = self._box.inside(goal.position, place.position)
                outside_m = float(np.abs(inside - goal.position).max())
                if outside_m > _CLOSE_M:
                    self.clipped_by_box = (1, 1)
                goal = Place(inside, goal.rotation)
            twist = self._bounded(place.way_to(goal) / lasts_s, contract)
            self._rows.append(_Row(twist, begin_ns, end_ns))
            loose = np.repeat(2 * np.array(self._limits(contract)) * _UNSURE_NS / NS / lasts_s, 3)
            self._loose = np.maximum(self._loose, loose)
            place = place.moved(twist * lasts_s)
            row_ns = due_ns + number * period_ns
            is_there = self._is_from_pose and number == 0
            told_ns = row_ns + (0.0 if is_there else self._ramp_ns)
            opening = openings[done + number]
            until_ns = valid_ns + number * period_ns
            self._expect(_Opening(opening, row_ns, told_ns, until_ns))

    def _expect(self, opening: _Opening) -> None:
        """One that is kept, or replaced, may be due a moment later."""
        self._openings = sorted([*self._openings, opening], key=lambda one: one.due_ns)

    def _keep_openings(self, begins_ns: float) -> None:
        """Of the rows whose command begins before the next chunk's first one."""
        near_ns = 2 * _UNSURE_NS
        self._openings = [
            one._replace(
                may_be_none=one.may_be_none
                or number < self._perhaps_told
                or one.begins_ns > begins_ns - near_ns
            )
            for number, one in enumerate(self._openings)
            if one.begins_ns < begins_ns + near_ns
        ]
        self._perhaps_told = 0

    def _at_rest(self, newest: Place, times: ChunkTimes) -> Place:
        """Where the tool comes to rest if all rows end now."""
        since_ns = times.start_ns - (times.stamp_ns - self.poses.poses[-1][0])
        return newest.moved(self._to_come(since_ns, times.start_ns))

    def _progress(
        self, guide: Guide, goals: list[Place], openings: Sequence[float]
    ) -> tuple[int, float]:
        """The same by every history of the gripper, or unsure."""
        found: set[tuple[int, float] | None] = set()
        for history in self._histories:
            history[:] = [one for one in history if one[0] <= guide.now_ns]  # a clock was set back
            try:
                found.add(progress(guide, goals, openings, history, _UNSURE_NS))
            except Refused:
                found.add(None)
        if len(found) > 1:
            raise Unsure
        [answer] = found
        if answer is None:
            raise Refused
        return answer

    def _unsure_m(self, contract: ActionContract) -> float:
        linear, angular = self._limits(contract)
        return (linear + 0.1 * angular) * _UNSURE_NS / NS

    def _to_come(self, since_ns: float, now_ns: float) -> Vector:
        """The way from a moment on, if all rows end now: all of it, less what was made before."""
        total = np.zeros(6)
        for row in self._rows:
            end_ns = min(row.end_ns, now_ns)
            if end_ns <= row.start_ns:
                continue
            whole_ns = end_ns - row.start_ns
            made_ns = self._area(since_ns - row.start_ns) - self._area(since_ns - end_ns)
            total += row.twist * (whole_ns - made_ns) / NS
        return total

    def _area(self, age_ns: float) -> float:
        """The integral of the share."""
        x, ramp_ns = age_ns / self._ramp_ns, self._ramp_ns
        if x <= 0:
            return 0.0
        if x >= 2:
            return (x - 1) * ramp_ns
        return ramp_ns * (x**3 - 2 * max(0.0, x - 1) ** 3) / 6

    def lose_pose(self) -> None:
        """A pose has come that ends the motion."""
        self.may_be_interrupted += 1
        self.stop()

    def rest(self) -> None:
        """It surely holds: nothing is commanded."""
        self.stop()
        self._is_adrift = self._limits_in_doubt = False

    def perhaps_forget_gripper(self) -> None:
        """The node forgets the gripper, at this moment or not."""
        unique = [
            one for number, one in enumerate(self._histories) if one not in self._histories[:number]
        ]
        if [] not in unique:
            unique.append([])
        self._histories = unique

    def doubt(self) -> None:
        """It may move or not, until the next chunk that is surely a motion."""
        self.stop()
        self._unsure_until_ns = math.inf

    def lose_time(self) -> None:
        """Its clock stands still; it ends by that, soon or already."""
        self._is_adrift = True
        self.doubt()

    def change_limits(self) -> None:
        """Others hold from now on; the motion keeps its ramp until it is over, or ends."""
        self._limits_in_doubt = True
        self._is_adrift |= self.is_guided
        self.doubt()

    def stop(self) -> None:
        """It stops now, and discards the rows that have not begun."""
        self._rows.clear()
        self._openings.clear()
        self._stands_still = False

    def _replace_from(self, start_ns: int) -> None:
        if math.isinf(self._unsure_until_ns):
            self._unsure_until_ns = start_ns + 2 * self._ramp_ns
        kept_ns = self._params['max_pose_age_s'] * NS if self.is_guided else 0.0
        for row in self._rows:
            row.end_ns = min(row.end_ns, start_ns)
        self._rows = [
            row
            for row in self._rows
            if row.start_ns < row.end_ns and row.end_ns + 2 * self._ramp_ns > start_ns - kept_ns
        ]

    # -- twists ------------------------------------------------------------------------------------

    def look_at_pose(self, real_ns: int, stamp_ns: int, is_sure: bool) -> None:
        """A twist is about to be sent; the motion ends if the pose is lost.

        :param real_ns: by the scheduler's clock.
        :param stamp_ns: of the twist.
        """
        if not self.is_guided:
            return
        newest = self.poses.newest(real_ns, stamp_ns)
        self.may_be_interrupted += newest.is_unsure or newest.place is None
        if newest.is_unsure or not is_sure:
            self._is_adrift = True
            self.doubt()
        elif newest.place is None:
            self.stop()

    def check_twist(self, twist: Vector, now_ns: int, is_sure: bool, must_move: bool) -> None:
        """
        :param is_sure: whether the motion is that of the actions, or the robot stands still.
        :param must_move: whether nothing has happened for which the robot may stand still.
        """
        before_ns, self._now_ns = self._now_ns, now_ns
        is_known = before_ns >= self._unsure_until_ns  # and so its ramp
        self._check_told(before_ns, is_known and must_move and self._must_move)
        self._must_move = must_move
        if not is_sure or now_ns < self._unsure_until_ns:
            self._is_adrift |= self.is_guided and not twist.any() and self._is_other(twist, now_ns)
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
        steepest = self._steepest() * (_UNSURE_NS + self._slack_ns) + self._loose + 1e-9
        return bool((np.abs(twist - self._expected(now_ns)) > steepest).any())

    def _stand_still(self, now_ns: int, must_move: bool) -> None:
        """It may once, as it stops; then its status says that it holds."""
        if must_move and not self._stands_still:
            self._stands_still = True
            return
        if must_move:
            self._violation('it stands still, though its action is not over')
        else:  # it may have stopped before its last action, which begins at zero then
            before = len(self._rows)
            self._rows = [row for row in self._rows if row.start_ns >= self._start_ns]
            self._is_adrift |= self.is_guided and 0 < len(self._rows) < before
        if must_move or self._is_other(np.zeros(6), now_ns):
            self.stop()

    def _expected(self, now_ns: float) -> Vector:
        """The average over the last two ramps, weighted by a triangle."""
        total = np.zeros(6)
        for row in self._rows:
            young = self._share(now_ns - row.start_ns) - self._share(now_ns - row.end_ns)
            total += young * row.twist
        if self._box is not None and self.poses.poses:
            return self._box.inward(total, self.poses.poses[-1][1].position)
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
        near_ns = round(_UNSURE_NS + self._slack_ns)
        if (
            self._comes_with_action and self._openings
        ):  # that tells it in any case, and its rows' times are exact
            surely = self._begun(self._now_ns)
        else:
            surely = max(1, self._begun(self._now_ns - near_ns))
        perhaps = self._begun(self._now_ns + near_ns)
        is_due = perhaps or self._comes_with_action
        self._comes_with_action = False
        is_sure = self._now_ns >= self._unsure_until_ns  # no row of a doubtful chunk is left
        if not is_due and is_sure:
            self._violation('the gripper is told where to be, and no row of an action begins')
        allowed = {
            self._after(count, moment_ns, with_doubtful)
            for with_doubtful in (False, True)
            for count in range(surely, perhaps + 1)
            for moment_ns in (self._now_ns - near_ns, self._now_ns + near_ns)
        }
        if is_sure and allowed and None not in allowed and opening not in allowed:
            self._violation(f'the gripper is to be open by {opening}, by its actions by {allowed}')
        self.hear_gripper(opening)
        if is_due or is_sure:
            self._openings = self._openings[surely:]
            self._perhaps_told = max(0, perhaps - surely)

    def hear_gripper(self, opening: float) -> None:
        """The gripper is told where to be, perhaps by a motion that need not be."""
        self._gripper = opening
        for history in self._histories:
            del history[:-50]
            if not history or history[-1][1] != opening:
                history.append((self._now_ns, opening))

    def _begun(self, moment_ns: int) -> int:
        self._openings.sort(key=lambda row: row.due_ns)  # doubtful ones may be among the others
        return sum(row.due_ns <= moment_ns for row in self._openings)

    def _after(self, count: int, moment_ns: int, with_doubtful: bool) -> float | None:
        """Where it is when so many rows have begun by this moment; late ones move nothing."""
        gripper = self._gripper
        for row in self._openings[:count]:
            if row.may_be_none and not with_doubtful:
                continue
            if moment_ns < row.valid_until_ns and not _CLOSED <= row.opening <= _OPEN:
                gripper = float(row.opening > _OPEN)
        return gripper

    def _check_told(self, before_ns: int, must_move: bool) -> None:
        """The rows that were due at the twist before have begun with that."""
        begun = self._begun(round(before_ns - _UNSURE_NS - self._slack_ns))
        due = self._openings[self._perhaps_told : begun]
        due = [row for row in due if not row.may_be_none]
        if must_move and any(not _CLOSED <= row.opening <= _OPEN for row in due):
            self._violation('the gripper is not told where to be, though a row has begun')
            self._openings = self._openings[begun:]


def with_period(contract: ActionContract, period_s: float) -> ActionContract:
    """Return the contract for rows that follow each other by this period; 0: its own."""
    return replace(contract, period_s=period_s) if period_s else contract


def _shortened(vector: Vector, limit: float) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector if length <= limit else vector * (limit / length)
