# SPDX-License-Identifier: Apache-2.0
"""A robot with two joints and a gripper, its contract, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import JointState

from support.fakes import SPEC, a_prediction
from support.outputs import IMAGE, Clock, StandIn, a_setup, admitted_result
from vla_ros.graph.stamps import to_time
from vla_ros.motion import JointContract, describe, load_contracts
from vla_ros.motion.joint_limits import JointLimit, JointLimits
from vla_ros.motion.joint_states import JointsHeard
from vla_ros.motion.joints import JointMotion
from vla_ros.motion.state import JointPositions
from vla_ros.ros.node_clock import Moment
from vla_ros.ros.output import Admitted, OutputSetup
from vla_ros.scheduling import Outcome, Result
from vla_ros.types import Observation

RATE_HZ = 50.0
PERIOD_S = 0.04
NAMES = ('turn', 'lift')
KEY = 'two_joints'
CONTRACT = JointContract(
    unnorm_key=KEY,
    robot='two joints',
    period_s=PERIOD_S,
    joints=('turn', 'hand', 'lift'),
    grippers=('hand',),
    radians_per_unit=0.5,
    gripper_closed=0.0,
    gripper_open=1.0,
    center_crop=False,
    source='this test',
    limits=(('lift', JointLimit(-0.5, 0.5)),),
)
ACCELERATION = 8.0
LIMITS = JointLimits(1.0, ACCELERATION, 0.04, {'turn': JointLimit(-1.0, 1.0, 0.8)}, np.inf)
RAMP_S = 0.25
NS = 10**9


class Robot:
    """A motion, and the joint states that it hears."""

    def __init__(self, limits: JointLimits = LIMITS, at: Sequence[float] = (0.0, 0.0)) -> None:
        self.heard = JointsHeard(max_age_s=0.2)
        self.motion = JointMotion({KEY: CONTRACT}, limits, KEY, self.heard)
        self.tell(at, 0.0)

    def tell(self, at: Sequence[float], now_s: float) -> None:
        self.heard.hear(JointPositions(NAMES, at), ns(now_s), ns(now_s))

    def acts(self, rows: Any, now_s: float, valid_s: float = 1.5, **options: Any) -> bool:
        """
        :param rows: [K, 2] radians, or [K, 3] with the gripper last.
        """
        return self.motion.execute(chunk(rows), KEY, now_s, now_s + valid_s, ns(now_s), **options)

    def sampled(self, from_s: float, seconds: float, step_s: float = 0.002) -> NDArray[np.float64]:
        times_s = from_s + np.arange(round(seconds / step_s) + 1) * step_s
        return np.array([self.motion.positions(float(at_s)) for at_s in times_s])


def ns(seconds: float) -> int:
    return round((seconds + 1.0) * NS)


def chunk(rows: Any) -> NDArray[np.float64]:
    """[K, 3] in the contract's units and order."""
    rows = np.atleast_2d(np.array(rows, np.float64))
    hand = rows[:, 2] if rows.shape[1] > 2 else np.zeros(len(rows))
    return np.stack([rows[:, 0] / 0.5, hand, rows[:, 1] / 0.5], axis=1)


# -- an output around it -----------------------------------------------------------------------


def joint_setup(node: StandIn, clock: Clock, **options: Any) -> OutputSetup:
    """
    :param options: parameters.
    """
    options = {
        'max_joint_speed_rad_s': 1.0,
        'max_joint_acceleration_rad_s2': ACCELERATION,
        'control_rate_hz': RATE_HZ,
        'frame_id': '',
        'unnorm_key': KEY,
        **options,
    }
    contracts = {**load_contracts(), KEY: CONTRACT}
    description = {'turn': JointLimit(-1.0, 1.0, 0.8)}
    setup = a_setup(node, clock, **options)
    return replace(setup, contracts=contracts, description=description)


def admitted_joints(
    now: Moment, rows: Any, valid_s: float = 1.5, age_s: float = 0.0, key: str = KEY
) -> Admitted:
    """
    :param rows: [K, 2] radians, or [K, 3] with the gripper last.
    :param age_s: how long ago row 0 was due.
    """
    actions = chunk(rows)
    observation = Observation.of_one(IMAGE, 'go', now.node_ns)
    spec = replace(SPEC, horizon=len(actions), action_dim=3, names=tuple('abc'))
    prediction = a_prediction(actions=actions, unnorm_key=key)
    return admitted_result(
        Result(observation, Outcome.PREDICTED, prediction),
        describe(spec, CONTRACT),
        now,
        valid_s,
        age_s,
    )


def joint_message(positions: Any, stamp_ns: int, names: Sequence[str] = NAMES) -> JointState:
    message = JointState(name=list(names), position=[float(one) for one in positions])
    message.header.stamp = to_time(stamp_ns)
    return message
