"""What one robot shall do now, by the actions that were published for it.

Knows nothing of ROS and of threads. It is told of actions and of the time, and needs no more:
whatever the policy does meanwhile, a motion ends when it has to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion.contract import ActionContract
from vla_ros.motion.displacement import ACTION_DIM, action_twist
from vla_ros.motion.gripper import GripperSwitch
from vla_ros.motion.profile import MotionLimits, Twist, TwistProfile
from vla_ros.reasons import Cause, Reason


@dataclass
class MotionCounters:
    """
    :param motions: published actions that became a motion.
    :param motions_refused: that did not: no contract tells their meaning, or they are no motion.
    :param clipped_linear: of the motions, made shorter: too fast, m/s.
    :param clipped_angular: of the motions, made shorter: too fast, rad/s.
    """

    motions: int = 0
    motions_refused: int = 0
    clipped_linear: int = 0
    clipped_angular: int = 0


class Motion:
    """Times are seconds of the robot's clock."""

    def __init__(
        self, contracts: Mapping[str, ActionContract], limits: MotionLimits, unnorm_key: str
    ) -> None:
        """
        :param contracts: by unnorm_key.
        :param limits: of the robot; where a contract's are lower, those hold.
        :param unnorm_key: of the actions to come; empty: the first action tells it.
        """
        self.counters = MotionCounters()
        self.cause: Cause | None = None  # why the last action moved nothing, or the next will not
        self._contracts = contracts
        self._limits = limits
        self._gripper = GripperSwitch()
        self._profile = TwistProfile(limits)
        self._contract: ActionContract | None = None
        if unnorm_key:
            self._choose(unnorm_key)

    @property
    def contract(self) -> ActionContract | None:
        """The one in force; None: there is none, or no action has told yet which."""
        return self._contract

    @property
    def gripper(self) -> float | None:
        """1 open, 0 closed; None: not told yet."""
        return self._gripper.opening

    def execute(
        self,
        action: NDArray[np.float64],
        unnorm_key: str,
        now_s: float,
        valid_until_s: float,
    ) -> bool:
        """Begin to make the action's displacement, in place of what is left of the one before.

        It takes a period of the data set and the ramps; where the action's validity ends sooner,
        it is cut short, and the robot stands still by then. What can't be made is counted, stops
        the robot, and is the ``cause``.

        :param action: float64 [D], un-normalised.
        :param valid_until_s: when the robot has to stand still.
        """
        if self._contract is None or self._contract.unnorm_key != unnorm_key:
            self._choose(unnorm_key)
        if self._contract is not None:
            self._try(action, self._contract, now_s, valid_until_s)
        if self.cause:
            self.stop()
            self.counters.motions_refused += 1
        return not self.cause

    def stop(self) -> None:
        """Stand still from now on. The gripper stays as it is."""
        self._profile.stop()

    def forget_gripper(self) -> None:
        """Know nothing of the gripper any more: a person may have moved it."""
        self._gripper = GripperSwitch()

    def twist(self, now_s: float) -> Twist:
        """float64 [6], m/s and rad/s, along the axes of the contract's frame."""
        return self._profile.twist(now_s)

    def is_over(self, now_s: float) -> bool:
        """Whether the robot stands still until the next action."""
        return self._profile.is_over(now_s)

    def _choose(self, unnorm_key: str) -> None:
        contract = self._contract = self._contracts.get(unnorm_key)
        limits = self._limits
        if contract is None:
            self.cause = Cause(
                Reason.MOTION_NO_CONTRACT,
                f'no action contract for unnorm_key {unnorm_key!r}, so what its numbers mean is '
                f'not known; there are: {", ".join(sorted(self._contracts))}; add one of your own '
                'to a YAML file and name that in the parameter contracts (docs/contracts.md)',
            )
            return
        self.cause = None
        self._profile = TwistProfile(
            replace(
                limits,
                linear_m_s=min(limits.linear_m_s, contract.max_linear_m_s),
                angular_rad_s=min(limits.angular_rad_s, contract.max_angular_rad_s),
            )
        )

    def _try(
        self,
        action: NDArray[np.float64],
        contract: ActionContract,
        now_s: float,
        valid_until_s: float,
    ) -> None:
        if action.shape != (ACTION_DIM,):
            self.cause = Cause(
                Reason.MOTION_SHAPE,
                f'the action has {action.size} values; a motion needs {ACTION_DIM}',
            )
            return
        ramps_s = 2 * self._profile.limits.ramp_s
        end_s = min(now_s + contract.period_s, valid_until_s - ramps_s)
        if end_s <= now_s:
            self.cause = Cause(
                Reason.MOTION_NO_TIME,
                f'the action is valid for {valid_until_s - now_s:.3f} s more, and its motion needs '
                f'{ramps_s:.3f} s to ramp up and down; raise max_action_age_s',
            )
            return
        try:
            with np.errstate(over='ignore', invalid='ignore'):
                twist = action_twist(action, contract)
                opening = contract.opening(float(action[6]))
            clipped = self._profile.command(twist, now_s, end_s)
            self._gripper.turn(opening)
        except ValueError as error:
            self.cause = Cause(
                Reason.MOTION_NOT_FINITE, f'the action {action.tolist()} is not a motion: {error}'
            )
            return
        self.cause = None
        self.counters.motions += 1
        self.counters.clipped_linear += clipped.linear
        self.counters.clipped_angular += clipped.angular
