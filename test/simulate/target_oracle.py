# SPDX-License-Identifier: Apache-2.0
"""Where one robot's targets must be: the integral of the twists that its actions mean.

A target goes on from one message to the next. One that no controller follows any more begins where
the tool is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simulate.motion_oracle import MARGIN_NS, ChunkTimes, MotionOracle, Vector
from simulate.pose_oracle import Place, place_of
from simulate.route_oracle import Refused, Unsure
from simulate.scheduler import NS

_PATIENCE_NS = 100_000_000  # from one target to the next
_UNSURE_NS = 2_000_000  # of a moment
_CLOSE_M = 1e-3  # to the greatest lead
_EXACT = 1e-6


class TargetOracle(MotionOracle):
    """The target and the gripper that the chunks so far mean."""

    _target: Place | None = None
    _target_ns = 0.0  # when it was last moved

    def aim(self, message: Any, now_ns: int, is_sure: bool, must_move: bool) -> Vector:
        """A target was published; return the step from the one before.

        :param now_ns: by the clock that motions run by.
        :param is_sure, must_move: as for ``check_twist``.
        """
        heard, before, before_ns = place_of(message.pose), self._target, self._target_ns
        if heard is None:
            self._violation(f'a target that is no pose: {message.pose}')
            return np.zeros(6)
        told_ns, self._now_ns = self._now_ns, now_ns
        self._check_told(told_ns, must_move and self._must_move)
        self._must_move = must_move
        expected = None if before is None else self._advanced(before, before_ns, now_ns)
        self._target, self._target_ns = heard, now_ns
        if before is None or expected is None:
            return np.zeros(6)
        step = before.way_to(heard)
        is_late = now_ns - before_ns > _PATIENCE_NS - MARGIN_NS
        if not is_sure or is_late or now_ns < self._unsure_until_ns:
            self._is_adrift |= not step.any() and self._is_far(heard, expected)
            return step
        if not self._is_far(heard, expected):
            self._stands_still = False
        elif not self._is_far(heard, before):
            self._stand_still(now_ns, must_move)
        else:
            wanted = before.way_to(expected)
            self._violation(
                f'the target moves by {step.round(5).tolist()}, by its actions '
                f'{wanted.round(5).tolist()}'
            )
        return step

    def _is_far(self, heard: Place, expected: Place) -> bool:
        fastest = np.max([np.abs(row.twist) for row in self._rows], axis=0, initial=0.0)
        slack = np.sqrt(3) * fastest * 2 * _UNSURE_NS / NS + self._slack_ns * fastest / NS
        slack = slack + self._loose * _PATIENCE_NS / NS + _EXACT
        return bool((np.abs(heard.way_to(expected)) > slack.max()).any())

    def _advanced(self, place: Place, since_ns: float, now_ns: float) -> Place:
        since_ns, total = max(since_ns, now_ns - _PATIENCE_NS), np.zeros(6)
        for row in self._rows:
            total += row.twist * (
                self._area(now_ns - row.start_ns)
                - self._area(now_ns - row.end_ns)
                - self._area(since_ns - row.start_ns)
                + self._area(since_ns - row.end_ns)
            )
        moved = place.moved(total / NS)
        if self._box is None:
            return moved
        return Place(self._box.inside(moved.position, place.position), moved.rotation)

    def _at_rest(self, newest: Place, times: ChunkTimes) -> Place:
        """Where the target comes to rest if all rows end now."""
        now_ns, target = times.start_ns, self._target
        if target is not None and abs(now_ns - self._target_ns - _PATIENCE_NS) < MARGIN_NS:
            raise Unsure
        if target is None or now_ns - self._target_ns > _PATIENCE_NS:
            self._target = newest
        else:
            self._target = self._advanced(target, self._target_ns, now_ns)
        self._target_ns = now_ns
        lead_m, most_m = self._target.distance_to(newest), self._params['max_lead_m']
        if abs(lead_m - most_m) < _CLOSE_M:
            raise Unsure
        if lead_m > most_m:
            raise Refused
        return self._target.moved(self._to_come(now_ns, now_ns))

    def look_at_pose(self, real_ns: int, stamp_ns: int, is_sure: bool) -> None:
        super().look_at_pose(real_ns, stamp_ns, is_sure)
        newest = self.poses.newest(real_ns, stamp_ns).place
        if newest is None or self._target is None:
            return
        beyond_m = self._target.distance_to(newest) - self._params['max_lead_m']
        self.may_be_interrupted += beyond_m > -_CLOSE_M
        if beyond_m > _CLOSE_M:
            self.stop()
        elif beyond_m > -_CLOSE_M:
            self._is_adrift = True
            self.doubt()

    @property
    def is_guided(self) -> bool:
        return True
