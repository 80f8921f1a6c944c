# SPDX-License-Identifier: Apache-2.0
"""The topic ``twist``: one robot's motion as velocities, for MoveIt Servo or a driver.

Used by the executor's thread.
"""

from __future__ import annotations

from geometry_msgs.msg import TwistStamped, Vector3

from vla_ros.graph.stamps import to_time
from vla_ros.motion import Twist
from vla_ros.ros.motion_output import MotionOutput
from vla_ros.ros.node_clock import Moment
from vla_ros.ros.output import OutputSetup


class TwistOutput(MotionOutput):
    """A stream of twists, of which the last ones are zero."""

    def __init__(self, setup: OutputSetup) -> None:
        super().__init__(setup, TwistStamped, 'twist', leads=False)

    def _message(self, now: Moment, now_s: float) -> TwistStamped:
        message = TwistStamped()
        message.header.stamp = to_time(now.node_ns)
        message.header.frame_id = self._frame_id
        message.twist.linear, message.twist.angular = _vectors(self.motion.twist(now_s))
        return message


def _vectors(twist: Twist) -> list[Vector3]:
    return [Vector3(x=x, y=y, z=z) for x, y, z in twist.reshape(2, 3).tolist()]
