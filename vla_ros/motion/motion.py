"""The motion of one robot, from the chunks of actions that were published for it.

Independent of ROS and of threads. Its only inputs are chunks and the time, so every motion ends in
time, whatever the policy does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.contract import ActionContract, Contract
from vla_ros.motion.displacement import ACTION_DIM, action_twist
from vla_ros.motion.gripper import GripperSwitch
from vla_ros.motion.profile import MotionLimits, Twist, TwistProfile
from vla_ros.motion.rows import Due
from vla_ros.reasons import Cause, Reason
from vla_ros.types import ActionSpace


@dataclass
class MotionCounters:
    """The counters of one robot's motions.

    :param motions: published actions that became a motion; a chunk counts as one.
    :param motions_refused: published actions that did not, for lack of a contract or because they
        are not a motion.
    :param rows_skipped: rows that were not played, since their time was past.
    :param clipped_linear: motions that were shortened, since their linear speed was too high.
    :param clipped_angular: motions that were shortened, since their angular speed was too high.
    """

    motions: int = 0
    motions_refused: int = 0
    rows_skipped: int = 0
    clipped_linear: int = 0
    clipped_angular: int = 0


class Motion:
    """The motion of one robot. Times are seconds of the robot's clock.

    :param contracts: action contracts by unnorm_key.
    :param limits: limits of the robot; lower limits of a contract take precedence.
    :param unnorm_key: data set of the actions to come; empty: that of the first action.
    """

    def __init__(
        self, contracts: Mapping[str, Contract], limits: MotionLimits, unnorm_key: str
    ) -> None:
        self.counters = MotionCounters()
        self.cause: Cause | None = None  # why actions cause no motion
        self._contracts = contracts
        self._limits = limits
        self._gripper = GripperSwitch()
        self._profile = TwistProfile(limits)
        self._contract: ActionContract | None = None
        if unnorm_key:
            self._choose(unnorm_key)

    @property
    def contract(self) -> ActionContract | None:
        """The current contract; None if there is none, or before the first action."""
        return self._contract

    @property
    def gripper(self) -> float | None:
        """State of the gripper: 1 open, 0 closed; None if unknown."""
        return self._gripper.opening

    def execute(
        self,
        actions: NDArray[np.float64],
        unnorm_key: str,
        now_s: float,
        valid_until_s: float,
        space: ActionSpace = ActionSpace.UNKNOWN,
        period_s: float | None = None,
        due_s: float | None = None,
    ) -> bool:
        """Begin a chunk, and return whether it is a motion.

        The chunk replaces the rest of the previous one. Row k begins k periods after row 0 is due.
        It makes its displacement in one period and the ramps, or a part of it if its validity ends
        sooner. Of rows that were due before now, only what is left of their time is made.
        A chunk that is not a motion is counted, stops the robot, and sets ``cause``.

        :param actions: float64 [K, D], un-normalised; [D] is a chunk of one row.
        :param valid_until_s: time by which the motion of row 0 must end; that of row k may end k
            periods later.
        :param space: action space; UNKNOWN: the contract's, which has displacements.
        :param period_s: time between two rows; None: the contract's.
        :param due_s: time at which row 0 is due, at the latest now; None: now.
        """
        if self._contract is None or self._contract.unnorm_key != unnorm_key:
            self._choose(unnorm_key)
        if space not in (ActionSpace.POSE_DELTA, ActionSpace.UNKNOWN):
            self.cause = _not_a_displacement(space)
        elif self._contract is not None:
            period_s = period_s or self._contract.period_s
            contract = replace(self._contract, period_s=period_s)
            due_s = now_s if due_s is None else min(due_s, now_s)
            due = Due(due_s, now_s, valid_until_s)
            self.cause = self._begin(np.atleast_2d(actions), contract, due)
        if self.cause:
            self.stop()
            self.counters.motions_refused += 1
        return not self.cause

    def stop(self) -> None:
        """Stop immediately, and discard the rows to come. The gripper stays as it is."""
        self._profile.stop()
        self._gripper.stop()

    def forget_gripper(self) -> None:
        """Forget the state of the gripper: the operator may have moved it."""
        self._gripper = GripperSwitch()

    def begin_rows(self, now_s: float) -> bool:
        """Begin the rows that are due, and return whether there were any.

        If so, the gripper must be published. :meth:`execute` begins row 0.
        """
        return self._gripper.begin_rows(now_s)

    def twist(self, now_s: float) -> Twist:
        """Return the twist at a time.

        :returns: float64 [6], m/s and rad/s, along the axes of the contract's frame.
        """
        return self._profile.twist(now_s)

    def is_over(self, now_s: float) -> bool:
        """Return whether the twist stays zero until the next chunk."""
        return self._profile.is_over(now_s)

    def _choose(self, unnorm_key: str) -> None:
        contract = self._contracts.get(unnorm_key)
        limits, self._contract = self._limits, None
        if contract is None:
            self.cause = Cause(
                Reason.MOTION_NO_CONTRACT,
                f'no action contract for unnorm_key {unnorm_key!r}, so the meaning of its actions '
                f'is unknown; there are: {", ".join(sorted(self._contracts))}; add yours to a YAML '
                'file, and set the parameter contracts to its path (docs/contracts.md)',
            )
            return
        if not isinstance(contract, ActionContract):
            self.cause = _not_a_displacement(contract.action_space)
            return
        self.cause, self._contract = None, contract
        self._profile = TwistProfile(
            replace(
                limits,
                linear_m_s=min(limits.linear_m_s, contract.max_linear_m_s),
                angular_rad_s=min(limits.angular_rad_s, contract.max_angular_rad_s),
            )
        )

    def _begin(
        self, actions: NDArray[np.float64], contract: ActionContract, due: Due
    ) -> Cause | None:
        """Begin a chunk; return why it is not a motion, or None if it is."""
        if actions.shape[1] != ACTION_DIM:
            text = f'the action has {actions.shape[1]} values; a motion needs {ACTION_DIM}'
            return Cause(Reason.MOTION_SHAPE, text)
        period_s, ramps_s = contract.period_s, 2 * self._profile.limits.ramp_s
        ends_s = due.ends_s(period_s, ramps_s)
        if ends_s <= due.row_0_s:
            return Cause(
                Reason.MOTION_NO_TIME,
                f'the action is valid for another {due.valid_until_s - due.now_s:.3f} s, and its '
                f'motion needs {ramps_s:.3f} s to ramp up and down; increase max_action_age_s',
            )
        with np.errstate(over='ignore', invalid='ignore'):
            twists = np.array([action_twist(row, contract) for row in actions])
        openings = [contract.opening(float(row[6])) for row in actions]
        finite = np.isfinite(twists).all(axis=1) & np.isfinite(openings)
        if not finite.all():
            row = actions[int(finite.argmin())]
            return Cause(
                Reason.MOTION_NOT_FINITE,
                f'the action {row.tolist()} is not a motion: its displacement or its gripper is '
                'not finite',
            )
        past = due.past(len(twists), period_s, ends_s)
        self.counters.rows_skipped += past
        if past == len(twists):
            return _rows_past(past, due, period_s)
        later_s = past * period_s
        due = due.from_row(past, period_s)
        clipped = self._profile.follow(
            twists[past:], due.row_0_s, period_s, ends_s + later_s, due.now_s
        )
        self._gripper.follow(openings[past:], due.row_0_s, period_s, due.valid_until_s)
        self._gripper.begin_rows(due.now_s)
        self.counters.motions += 1
        self.counters.clipped_linear += clipped.linear
        self.counters.clipped_angular += clipped.angular
        return None


def _rows_past(rows: int, due: Due, period_s: float) -> Cause:
    return Cause(
        Reason.MOTION_ROWS_PAST,
        f'the chunk is {due.now_s - due.row_0_s:.2f} s old, and its {rows} rows take '
        f'{rows * period_s:.2f} s from its observation on, so all of them are past their time; use '
        'a faster policy, or another chunk_timing',
    )


def _not_a_displacement(space: ActionSpace) -> Cause:
    return Cause(
        Reason.MOTION_NOT_A_DISPLACEMENT,
        f'the action space is {space.name}, and a motion needs POSE_DELTA; set '
        'the parameter motion to none, and use the topic action',
    )
