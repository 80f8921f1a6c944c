# SPDX-License-Identifier: Apache-2.0
"""What one robot's commands of joints promise: they rest where they must, and end in time.

That they begin where the joints are, make no step, and keep the limits of position, speed and
acceleration, the arm's controller watches (``arms.py``). Times are the scheduler's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from simulate.arms import JOINTS
from simulate.live_faults import ACCELERATIONS, SPEEDS
from simulate.parts_oracle import NOTICE_S
from simulate.scheduler import NS

_BRAKES_S = max(SPEEDS) / min(ACCELERATIONS) + 0.05  # from the highest speed
_ENDING_S = 0.2  # for which the last command is repeated
_MARGIN_S = 0.05
_RAMP_S = 2 * max(SPEEDS) / min(ACCELERATIONS)
_SAME = 1e-9
_SOUND_S = 0.3  # after a fault of the joints their positions are known again


class JointOracle:
    """The rules for the joints of one robot, in one configuration."""

    def __init__(
        self,
        parameters: dict[str, Any],
        now_ns: Callable[[], int],
        violation: Callable[[str], None],
    ) -> None:
        self._params, self._now_ns, self._violation = parameters, now_ns, violation
        self._command: list[float] = []
        self._repeated = 0
        self._held_ns: int | None = now_ns()  # since when it must rest
        self._ends_ns = 0  # of the last chunk
        self._unsure_ns = now_ns()  # when a chunk last may have been refused
        self._heard_ns = -NS
        self._planned_ns = self._plan_ends_ns = 0  # of the last trajectory
        self.moves = 0  # commands that differ from the one before

    def _age_s(self, since_ns: int) -> float:
        return (self._now_ns() - since_ns) / NS

    def hold(self) -> None:
        """It must come to rest."""
        if self._held_ns is None:
            self._held_ns = self._now_ns()

    def doubt(self) -> None:
        """The positions of the joints are perhaps not known, or other limits are in force."""
        self._unsure_ns = self._now_ns()

    def hear(self, message: Any, node_ns: int) -> None:
        """The node takes positions of joints."""
        stamp_ns = message.header.stamp.sec * NS + message.header.stamp.nanosec
        age_s = (node_ns - stamp_ns) / NS
        is_fresh = -0.05 < age_s < self._params['max_joint_age_s'] / 2
        is_whole = tuple(message.name) == JOINTS and len(message.position) == len(JOINTS)
        if not (is_fresh and is_whole and np.isfinite(message.position).all()):
            self.doubt()
        elif self._command:
            behind = np.abs(np.array(message.position) - self._command).max()
            if behind > self._params['max_joint_lead_rad'] / 2:
                self.doubt()
        self._heard_ns = self._now_ns()

    def act(self, due_s: float, valid_s: float, period_s: float, rows: int) -> bool:
        """A chunk was published; return whether it surely is a motion.

        :param due_s: how long ago row 0 was due.
        :param valid_s: for how long row 0 is valid, from then on.
        """
        self._held_ns = None
        ends_s = rows * period_s + 2 * _RAMP_S + _BRAKES_S
        self._ends_ns = max(self._ends_ns, self._now_ns() + round(ends_s * NS))
        is_known = self._age_s(self._heard_ns) < 0.1 and self._age_s(self._unsure_ns) > _SOUND_S
        has_time = min(period_s, valid_s - 2 * _RAMP_S) - due_s > _BRAKES_S
        return is_known and has_time

    def command(self, positions: list[float], is_sure: bool) -> None:
        """The joints are sent somewhere."""
        before, self._command = self._command, positions
        is_same = len(before) == len(positions) and np.allclose(before, positions, 0.0, _SAME)
        self._repeated = self._repeated + 1 if is_same else 0
        rests = self._held_ns is not None or self._now_ns() > self._ends_ns
        if is_same:
            most = math.ceil(_ENDING_S * self._params['control_rate_hz']) + 3
            if rests and self._repeated > most and is_sure:
                self._violation(f'{self._repeated} equal commands of joints; {most} are enough')
            return
        self.moves += 1
        if not before or not is_sure:
            return
        if self._held_ns is not None and self._age_s(self._held_ns) > _BRAKES_S + _MARGIN_S:
            self._violation(f'joints move {self._age_s(self._held_ns):.3f} s after a hold')
        elif self._now_ns() > self._ends_ns:
            self._violation(f'joints move {self._age_s(self._ends_ns):.3f} s after the last chunk')

    def plan(self, message: Any, is_sure: bool) -> None:
        """The joints are sent along a trajectory."""
        points = message.points
        first_s = _seconds(points[0].time_from_start)
        self._planned_ns = self._now_ns()
        lasts_ns = round(_seconds(points[-1].time_from_start) * NS)
        self._plan_ends_ns = self._planned_ns + lasts_ns if len(points) > 1 else 0
        if first_s < 0.1 - 1e-6:
            self._violation(f'a trajectory begins after {first_s:.3f} s')
        if self._held_ns is not None and is_sure:
            lasts_s = _seconds(points[-1].time_from_start)
            if self._age_s(self._held_ns) + lasts_s > max(0.1, _BRAKES_S) + _MARGIN_S + _ENDING_S:
                self._violation(f'a trajectory of {lasts_s:.3f} s, and the robot holds')
        self.moves += 1

    def look(self) -> None:
        """A hold ends the last trajectory by another one."""
        held_ns = self._held_ns
        if held_ns is None or self._age_s(held_ns) < NOTICE_S:
            return
        if self._planned_ns < held_ns - _MARGIN_S * NS and self._plan_ends_ns > self._now_ns():
            self._plan_ends_ns = 0
            self._violation('a trajectory goes on, though the robot holds')


def _seconds(time: Any) -> float:
    seconds: float = time.sec + time.nanosec / NS
    return seconds
