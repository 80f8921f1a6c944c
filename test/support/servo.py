# SPDX-License-Identifier: Apache-2.0
"""A servo that hears twists, and the node that moves it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from geometry_msgs.msg import TwistStamped
from numpy.typing import NDArray
from rclpy.node import Node
from std_msgs.msg import Float64

from support import nodes
from support.graph import Running, running_node
from vla_ros.reasons import State

PERIOD_S = 0.5
RAMPS_S = 0.2  # both, by the default limits
HORIZON_S = PERIOD_S + RAMPS_S
COMMAND_TIMEOUT_S = 0.1  # a servo ignores what is older
RATE_HZ = 100.0
PATIENT = (*nodes.PATIENT, 'max_image_age_s:=2.0')
CONTRACT = {
    'robot': 'an arm',
    'period_s': PERIOD_S,
    'frame': 'base',
    'metres_per_unit': 1.0,
    'rotation': 'axis_angle',
    'radians_per_unit': 1.0,
    'gripper_closed': 0.0,
    'gripper_open': 1.0,
    'max_linear_m_s': 1.0,
    'max_angular_rad_s': 2.0,
    'center_crop': False,
    'source': 'this test',
}


def seconds(stamp: Any) -> float:
    return stamp.sec + stamp.nanosec / 1e9


class Servo:
    """Hears twists as MoveIt Servo does: what is late does not move the robot."""

    def __init__(self, node: Node, twist: str = 'twist') -> None:
        """
        :param twist: its topic.
        """
        self.heard: list[tuple[float, NDArray[np.float64]]] = []  # stamp and twist
        self.late = 0
        self.frames: set[str] = set()
        self.grippers: list[float] = []
        node.create_subscription(TwistStamped, twist, self._on_twist, 1000)
        node.create_subscription(Float64, 'gripper', lambda m: self.grippers.append(m.data), 1000)

    def _on_twist(self, message: TwistStamped, info: dict[str, int]) -> None:
        stamp_s = seconds(message.header.stamp)
        # When it was sent: how soon this process has heard it is not the node's affair.
        self.late += info['source_timestamp'] / 1e9 - stamp_s > COMMAND_TIMEOUT_S
        self.frames.add(message.header.frame_id)
        parts = (message.twist.linear, message.twist.angular)
        values = np.array([getattr(part, axis) for part in parts for axis in 'xyz'])
        self.heard.append((stamp_s, values))

    @property
    def moves(self) -> bool:
        return bool(self.heard) and bool(self.heard[-1][1].any())

    def within(self, start_s: float, end_s: float) -> tuple[NDArray, NDArray]:
        """Stamps [N] and twists [N, 6] of that time."""
        part = [one for one in self.heard if start_s <= one[0] <= end_s]
        return np.array([stamp for stamp, _ in part]), np.array([twist for _, twist in part])


def written(folder: Path, **changes: float) -> Path:
    path = folder / 'contracts.yaml'
    path.write_text(yaml.safe_dump({'scripted': {**CONTRACT, **changes}}))
    return path


@contextlib.contextmanager
def moving_node(contracts: Path, *parameters: str) -> Iterator[tuple[Running, Servo]]:
    with running_node(
        'motion:=twist',
        'frame_id:=arm_base',
        f'contracts:={contracts}',
        f'control_rate_hz:={RATE_HZ}',
        *parameters,
    ) as running:
        servo = Servo(running.robot)
        running.robot.wait_for_state(State.HOLDING)
        running.robot.wait_until_heard()
        yield running, servo
    assert 'Traceback' not in running.output
