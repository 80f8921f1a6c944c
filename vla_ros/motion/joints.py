# SPDX-License-Identifier: Apache-2.0
"""The motion of one robot's joints, from the chunks of positions that were published for it.

The sibling of ``motion.py``, for policies that give positions of joints. Independent of ROS and of
threads. Its inputs are chunks, the positions of the joints and the time, so every motion ends in
time, whatever the policy does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.contract import Contract, JointContract
from vla_ros.motion.gripper import GripperSwitch
from vla_ros.motion.joint_limits import JointBounds, JointLimits
from vla_ros.motion.joint_profile import JointProfile, Joints, JointSample
from vla_ros.motion.joint_states import JointsHeard
from vla_ros.motion.motion import MotionCounters
from vla_ros.motion.refused import NoMotion, known, no_contract, row_0_ends_s, rows_past
from vla_ros.motion.rows import Due
from vla_ros.reasons import Cause, Reason
from vla_ros.types import ActionSpace

_SAME_RAD = 0.1  # joints that are so near to the last command are still held there
_ARRIVING_S = 1.0  # for this long after a motion they may be further away: they follow with a delay


@dataclass
class ClippedJoints:
    """The counters of motions that the limits of joints have shortened.

    :param clipped_joint_position: motions that led out of the limits of a joint's position.
    :param clipped_joint_speed: motions in which a joint was too fast.
    """

    clipped_joint_position: int = 0
    clipped_joint_speed: int = 0


class JointMotion:
    """The motion of one robot's joints. Times are seconds of the robot's clock.

    :ivar cause: why actions cause no motion.
    :ivar limited: joints that the last motion would have led out of their limits.
    :ivar stops: number of motions that were stopped before their end.
    """

    def __init__(
        self,
        contracts: Mapping[str, Contract],
        limits: JointLimits,
        unnorm_key: str,
        heard: JointsHeard,
        prefixes: Sequence[str] = ('',),
        max_gap_s: float = np.inf,
    ) -> None:
        """Begin without a motion.

        :param contracts: by unnorm_key.
        :param limits: of the robot; tighter limits of a contract take precedence.
        :param unnorm_key: data set of the actions to come; empty: that of the first action.
        :param heard: where the joints are.
        :param prefixes: those of the names of each group of joints, which has its own controller.
        :param max_gap_s: maximum time between two calls of :meth:`positions` while joints move.
        """
        self.counters = MotionCounters()
        self.clipped = ClippedJoints()
        self.cause: Cause | None = None
        self.limited: tuple[str, ...] = ()
        self.stops = 0
        self._prefixes, self._max_gap_s = prefixes, max_gap_s
        self._contracts, self._limits, self._heard = contracts, limits, heard
        self._contract: JointContract | None = None
        self._arms = _Arms((), (), (), (), ())
        self._next: _Arms | None = None  # of the contract, while other joints come to rest
        self._grippers: tuple[GripperSwitch, ...] = ()
        self._profile: JointProfile | None = None
        self._last: _Sent | None = None  # the last of the positions that were asked for
        self._is_held = False  # nobody else has moved the joints since the last command
        if unnorm_key:
            self._choose(unnorm_key, 0.0)

    @property
    def contract(self) -> JointContract | None:
        """The current contract; None if there is none, or before the first action."""
        return self._contract

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the joints that are no grippers, in the contract's order."""
        return self._arms.joints

    @property
    def groups(self) -> Sequence[list[int]]:
        """Of each group, the numbers of its joints in :attr:`joints`."""
        return self._arms.groups

    @property
    def grippers(self) -> tuple[str, ...]:
        """Names of the grippers, in the contract's order."""
        return self._arms.grippers

    @property
    def openings(self) -> dict[str, float]:
        """State of each gripper that is known, by the name of its column: 1 open, 0 closed."""
        return {
            name: switch.opening
            for name, switch in zip(self._arms.grippers, self._grippers, strict=True)
            if switch.opening is not None
        }

    def execute(
        self,
        actions: NDArray[np.float64],
        unnorm_key: str,
        now_s: float,
        valid_until_s: float,
        now_ns: int,
        space: ActionSpace = ActionSpace.UNKNOWN,
        period_s: float | None = None,
        due_s: float | None = None,
    ) -> bool:
        """Begin a chunk, and return whether it is a motion.

        The chunk replaces the rest of the previous one. Row k is to be reached at the end of its
        period, and is a ramp later, since positions are averaged. The motion begins where the
        joints are commanded to be, and otherwise where they are. A chunk that is not a motion is
        counted, stops the robot, and sets ``cause``. So is one while the joints do not follow.

        :param actions: float64 [K, D], un-normalised; [D] is a chunk of one row.
        :param valid_until_s: time by which the motion of row 0 must end; that of row k may end k
            periods later.
        :param now_ns: the same moment as ``now_s``, by the clock that stamps ``joint_states``.
        :param space: action space; UNKNOWN: the contract's, which has positions of joints.
        :param period_s: time between two rows; None: the contract's.
        :param due_s: time at which row 0 is due, at the latest now; None: now.
        """
        self._end_after_gap(now_s)
        if self._contract is None or self._contract.unnorm_key != unnorm_key:
            self.stop(now_s)
            self._choose(unnorm_key, now_s)
        if space not in (ActionSpace.JOINT_POSITION, ActionSpace.UNKNOWN):
            self.cause = _not_positions(space)
        elif self._contract is not None:
            due = Due(now_s if due_s is None else min(due_s, now_s), now_s, valid_until_s)
            self.limited = ()
            try:
                self._take_over(now_s)
                rows, openings = _rows(np.atleast_2d(actions), self._contract, self._arms)
                period_s = period_s or self._contract.period_s
                self._begin(self._contract, rows, openings, due, period_s, now_ns)
                self.cause = None
            except NoMotion as refused:
                self.cause = refused.cause
        if self.cause:
            self.stop(now_s)
            self.counters.motions_refused += 1
        return not self.cause

    def interrupt(self, cause: Cause, now_s: float) -> None:
        """Stop, since the joints' positions are lost; actions may move them again later."""
        self.counters.motions_interrupted += self.is_moving(now_s)
        self.stop(now_s)
        self.cause = cause

    def why_lost(self, now_ns: int) -> Cause | None:
        """Return why the positions of the joints are unknown, or that they do not follow.

        :returns: None if all is well.
        """
        newest = self._heard.newest(self._arms.joints, now_ns)
        return newest if isinstance(newest, Cause) else self._why_behind(newest)

    def _why_behind(self, measured: Joints) -> Cause | None:
        """Return that a joint does not follow its command; None if all do."""
        if self._last is None:
            return None
        leads = np.abs(self._last.positions - measured)
        worst = int(leads.argmax())
        if leads[worst] <= self._limits.lead_rad:
            return None
        return Cause(
            Reason.MOTION_NOT_FOLLOWED,
            f'joint {self._arms.joints[worst]} is {leads[worst]:.3f} from its command (rad, '
            f'or m if it slides), and max_joint_lead_rad is {self._limits.lead_rad:g}; see '
            'whether its controller is active and nothing blocks the joint, or lower '
            'max_joint_speed_rad_s',
        )

    def adjust(self, contracts: Mapping[str, Contract], limits: JointLimits, now_s: float) -> None:
        """Apply other contracts and limits to the chunks to come.

        What changes for the current motion stops it.
        """
        before, self._contracts, self._limits = self._contract, contracts, limits
        if before is None:
            self.cause = None  # the next action finds its contract, or none
        elif contracts.get(before.unnorm_key) != before:
            self.stop(now_s)
            self._choose(before.unnorm_key, now_s)
        elif self._profile and not self._profile.is_over(now_s):
            bounds = self._bounds(before)
            if isinstance(bounds, Cause) or not bounds.same_as(self._profile.bounds):
                self.stop(now_s)

    def stop(self, now_s: float) -> None:
        """Stop each joint as fast as its limits allow, and discard the rows to come.

        The grippers stay as they are.
        """
        if self._profile and self.is_moving(now_s):
            self._profile.brake(now_s)
            self.stops += 1
        for switch in self._grippers:
            switch.stop()

    def forget(self) -> None:
        """Forget the last command and the grippers: the operator may have moved the robot."""
        self._is_held = False
        self._grippers = tuple(GripperSwitch() for _ in self._arms.grippers)

    def begin_rows(self, now_s: float) -> bool:
        """Turn the grippers of the rows that the joints begin; return whether there were any.

        If so, the grippers must be published.
        """
        return any([switch.begin_rows(now_s) for switch in self._grippers])

    def positions(self, now_s: float) -> Joints | None:
        """Return the commanded positions at a time, float64 [J]; None before the first motion.

        They are what a controller of positions is sent, so they make no step: if the time goes
        back, or too far on from the last call, the motion ends where the joints were commanded.
        """
        if self._profile is None:
            return None
        self._end_after_gap(now_s)
        self._last = _Sent(now_s, self._profile.at(now_s)[0])
        return self._last.positions

    def _end_after_gap(self, now_s: float) -> None:
        """End a motion whose positions were not asked for, for too long."""
        last = self._last
        if self._profile is None or last is None or self._profile.is_over(last.at_s):
            return
        passed_s = now_s - last.at_s
        if not 0.0 <= passed_s <= self._max_gap_s:
            self.cause = _delayed(passed_s, self._max_gap_s)
            self.counters.motions_interrupted += 1
            self.freeze()

    def freeze(self) -> None:
        """End the motion where the joints were commanded last: its clock is no more valid."""
        if self._profile is not None and self._last is not None:
            self._profile = JointProfile(self._last.positions, self._profile.bounds)
            self.stops += 1
        self._last = None
        for switch in self._grippers:
            switch.stop()

    def samples(self, now_s: float, step_s: float) -> list[JointSample]:
        """Return the motion to come, one sample after each step; empty before the first motion."""
        return self._profile.samples(now_s, step_s) if self._profile else []

    def is_moving(self, now_s: float) -> bool:
        """Return whether rows are being followed: the motion is neither over nor stopped."""
        return self._profile is not None and self._profile.follows(now_s)

    def is_over(self, now_s: float) -> bool:
        """Return whether the positions stay as they are until the next chunk."""
        return self._profile is None or self._profile.is_over(now_s)

    def _choose(self, unnorm_key: str, now_s: float) -> None:
        contract = self._contracts.get(unnorm_key)
        self._contract = self._next = None
        if contract is None:
            self.cause = no_contract(unnorm_key, self._contracts)
        elif not isinstance(contract, JointContract):
            self.cause = _not_positions(contract.action_space)
        else:
            groups = grouped(contract.moving_joints, self._prefixes)
            if isinstance(groups, Cause):
                self.cause = groups
                return
            self.cause, self._contract = None, contract
            self._next = _Arms.of(contract, groups)
            if self._next == self._arms or self.is_over(now_s):
                self._take_over(now_s)

    def _take_over(self, now_s: float) -> None:
        """Begin with the joints of the contract, if they are not those of the motion.

        :raises NoMotion: if other joints have not come to rest.
        """
        arms = self._next
        if arms is None:
            return
        if arms != self._arms:
            if not self.is_over(now_s):
                raise NoMotion(
                    Reason.MOTION_JOINT_LIMITS,
                    'the contract has other joints now, and the current motion stops; a later '
                    'chunk moves them',
                )
            self._profile = self._last = None
        self._arms, self._next = arms, None
        self._grippers = tuple(GripperSwitch() for _ in arms.grippers)

    def _begin(
        self,
        contract: JointContract,
        rows: NDArray[np.float64],
        openings: NDArray[np.float64],
        due: Due,
        period_s: float,
        now_ns: int,
    ) -> None:
        """Begin a chunk.

        :param rows: float64 [K, J], rad.
        :param openings: float64 [K, G].
        :raises NoMotion: if it is not a motion.
        """
        bounds = known(self._bounds(contract))
        measured = known(self._heard.newest(self._arms.joints, now_ns))
        profile = self._ready(bounds, measured, due.now_s)
        ready = due._replace(now_s=profile.ready_s(due.now_s))
        ends_s = row_0_ends_s(ready, period_s, 2 * bounds.ramp_s, ready.row_0_s)
        skipped = ready.past(len(rows), period_s, ends_s)
        self.counters.rows_skipped += skipped
        if skipped == len(rows):
            raise NoMotion(*rows_past(skipped, due.from_row(skipped, period_s), period_s))
        due, ready = due.from_row(skipped, period_s), ready.from_row(skipped, period_s)
        windows = ready.windows(len(rows) - skipped, period_s, ends_s + skipped * period_s)
        reached_s = [ready.row_0_s + (row + 1) * period_s for row in range(len(windows))]
        shortened = profile.follow(rows[skipped:], windows, reached_s)
        if profile is not self._profile:
            self._profile, self._last = profile, _Sent(due.now_s, profile.at(due.now_s)[0])
        self._is_held = True
        begins_s, valid_s = due.rows_s(len(windows), period_s)
        if ready.now_s > due.now_s:  # after a stop
            begins_s = [max(one_s, ready.now_s) for one_s in begins_s]
        for switch, column in zip(self._grippers, openings[skipped:].T, strict=True):
            switch.follow(column.tolist(), begins_s, valid_s, bounds.ramp_s)
        self.counters.motions += 1
        self.clipped.clipped_joint_position += bool(shortened.positions.any())
        self.clipped.clipped_joint_speed += shortened.speed
        self.limited = tuple(
            name
            for name, is_out in zip(self._arms.joints, shortened.positions, strict=True)
            if is_out
        )

    def _bounds(self, contract: JointContract) -> JointBounds | Cause:
        """Return the limits of the current joints, or why they must not move."""
        return self._limits.of(self._arms.joints, dict(contract.limits))

    def _ready(self, bounds: JointBounds, measured: Joints, now_s: float) -> JointProfile:
        """Return a profile that rows can follow; none while the joints do not follow it.

        While a motion goes on, it is that one. Later it begins at the last command, which the
        controller still holds: joints that sag a little under their load must not make a step.
        Joints that are elsewhere were moved by others, and begin where they are.
        """
        profile = self._profile
        if profile is None:
            return JointProfile(measured, bounds)
        behind = self._why_behind(measured)
        if not profile.is_over(now_s):
            if behind:
                raise NoMotion(*behind)
            if profile.bounds.same_as(bounds):
                return profile
            raise NoMotion(
                Reason.MOTION_JOINT_LIMITS,
                'the limits of the joints have changed, and the current motion stops; the next '
                'chunk moves by the new ones',
            )
        last = profile.at(now_s)[0]
        near = min(_SAME_RAD, self._limits.lead_rad)
        is_there = bool((np.abs(last - measured) <= near).all())
        is_there |= now_s < profile.end_s + _ARRIVING_S
        if not (is_there and self._is_held):
            return JointProfile(measured, bounds)
        if behind:
            raise NoMotion(*behind)
        return JointProfile(last, bounds)


def grouped(joints: Sequence[str], prefixes: Sequence[str]) -> list[list[int]] | Cause:
    """Return the numbers of the joints of each group, or why they are no groups.

    :param prefixes: the names of a group's joints begin with its prefix.
    """
    groups = [
        [number for number, name in enumerate(joints) if name.startswith(prefix)]
        for prefix in prefixes
    ]
    if all(groups) and sorted(chain.from_iterable(groups)) == list(range(len(joints))):
        return groups
    return Cause(
        Reason.MOTION_JOINT_GROUPS,
        f'joint_groups is {", ".join(prefixes)}, and the joints are {", ".join(joints)}: the name '
        'of each joint must begin with one of these prefixes, each prefix must have a joint',
    )


class _Sent(NamedTuple):
    """Positions that a controller was sent."""

    at_s: float
    positions: Joints


@dataclass(frozen=True)
class _Arms:
    """The columns of a contract.

    :param joints: names of the joints that are no grippers.
    :param columns: their columns.
    :param grippers: names of the grippers.
    :param gripper_columns: their columns.
    :param groups: of each group of joints, their numbers in ``joints``.
    """

    joints: tuple[str, ...]
    columns: tuple[int, ...]
    grippers: tuple[str, ...]
    gripper_columns: tuple[int, ...]
    groups: Sequence[list[int]]

    @classmethod
    def of(cls, contract: JointContract, groups: Sequence[list[int]]) -> _Arms:
        columns = tuple(
            index for index, name in enumerate(contract.joints) if name not in contract.grippers
        )
        return cls(
            contract.moving_joints, columns, contract.grippers, contract.gripper_columns, groups
        )


def _rows(
    actions: NDArray[np.float64], contract: JointContract, arms: _Arms
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the positions of each row, float64 [K, J], rad, and the openings, [K, G].

    :raises NoMotion: if they have another size, or are not finite.
    """
    if actions.shape[1] != len(contract.joints):
        raise NoMotion(
            Reason.MOTION_SHAPE,
            f'the action has {actions.shape[1]} values; the contract has {len(contract.joints)}',
        )
    with np.errstate(over='ignore', invalid='ignore'):
        rows = actions[:, arms.columns] * contract.radians_per_unit
    grippers: Sequence[NDArray[np.float64]] = [
        np.array([contract.opening(float(value)) for value in actions[:, column]])
        for column in arms.gripper_columns
    ]
    openings = np.array(grippers).T.reshape(len(actions), len(grippers))
    finite = np.isfinite(rows).all(axis=1) & np.isfinite(openings).all(axis=1)
    if not finite.all():
        row = actions[int(finite.argmin())]
        raise NoMotion(
            Reason.MOTION_NOT_FINITE,
            f'the action {row.tolist()} is not a motion: a position or a gripper is not finite',
        )
    return rows, openings


def _delayed(passed_s: float, max_gap_s: float) -> Cause:
    return Cause(
        Reason.MOTION_DELAYED,
        f'{passed_s:.3f} s passed between two positions that were to be sent, and at most '
        f'{max_gap_s:g} s may: the motion ended, since the joints would make a step; check the '
        "load of the machine, or the simulation's clock",
    )


def _not_positions(space: ActionSpace) -> Cause:
    return Cause(
        Reason.MOTION_NOT_JOINT_POSITIONS,
        f'the action space is {space.name}, and this motion needs JOINT_POSITION; set the '
        'parameter motion to twist or pose for POSE_DELTA, or to none, and use the topic action',
    )
