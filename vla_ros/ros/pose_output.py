# SPDX-License-Identifier: Apache-2.0
"""The topic ``target_pose``: where one robot's tool is to be, for MoveIt Servo's pose tracking.

Used by the executor's thread.
"""

from __future__ import annotations

from geometry_msgs.msg import Point, PoseStamped, Quaternion

from vla_ros.graph.stamps import to_time
from vla_ros.ros.motion_output import MotionOutput
from vla_ros.ros.node_clock import Moment
from vla_ros.ros.output import OutputSetup


class PoseOutput(MotionOutput):
    """A stream of targets, of which the last one is repeated at the end.

    A hold leaves the target where it is: the tool stops there, at most ``max_lead_m`` ahead.
    """

    def __init__(self, setup: OutputSetup) -> None:
        super().__init__(setup, PoseStamped, 'target_pose', leads=True)

    def _message(self, now: Moment, now_s: float) -> PoseStamped:
        target = self.motion.target(now_s)
        message = PoseStamped()
        message.header.stamp = to_time(now.node_ns)
        message.header.frame_id = target.frame
        (x, y, z), (qx, qy, qz, qw) = target.pose.position, target.pose.quaternion
        message.pose.position = Point(x=float(x), y=float(y), z=float(z))
        message.pose.orientation = Quaternion(x=float(qx), y=float(qy), z=float(qz), w=float(qw))
        return message
