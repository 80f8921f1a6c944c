# SPDX-License-Identifier: Apache-2.0
"""The state that ``vla_check`` gives to a node whose policy reads one.

Topics with another publisher, such as the robot's own driver, are left to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import PoseStamped, Quaternion
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState

from vla_ros.console import Say
from vla_ros.graph.stamps import to_time
from vla_ros.motion import load_contracts
from vla_ros.motion.state import EE_POSE, JOINT_STATES, Joints

if TYPE_CHECKING:
    from vla_ros.client.question import Question

_TYPES: dict[str, type] = {'state': JointState, JOINT_STATES: JointState, EE_POSE: PoseStamped}


class StateQuestion:
    """A robot at rest: all joints at the zero of the contract, the tool at the origin."""

    def __init__(self, robot: Question, contracts: str, frame_id: str) -> None:
        """Read the contracts.

        :param contracts: file of the user's contracts; empty: the shipped ones only.
        :param frame_id: frame of ``ee_pose``.
        :raises ContractError: if the file cannot be used.
        """
        self._robot = robot
        self._contracts = load_contracts(contracts or None)
        self._frame_id = frame_id
        self._publishers: dict[str, Publisher] = {}
        self._said: set[str] = set()

    def send(self, stamp_ns: int, say: Say) -> None:
        """Publish the parts of the state that the node hears and nobody else publishes.

        :param stamp_ns: of the images.
        :param say: called once with each part.
        """
        node, policy = self._robot.node, self._robot.latest.policy
        if not policy.state_dim:
            return
        for name in _TYPES:
            topic = node.resolve_topic_name(self._robot.topic(name))
            if not node.count_subscribers(topic):
                continue
            own = int(name in self._publishers)
            if node.count_publishers(topic) > own:
                self._tell(say, name, f'{name}: left to its publisher on {topic}')
                continue
            message = self._message(name)
            if message is None:
                self._tell(
                    say,
                    name,
                    f'{name}: nobody publishes it on {topic}; name the contract (--contracts)',
                )
                continue
            self._tell(say, name, f'{name}: a robot at rest on {topic}')
            if not own:
                self._publishers[name] = node.create_publisher(_TYPES[name], topic, 10)
            message.header.stamp = to_time(stamp_ns)
            self._publishers[name].publish(message)

    def _message(self, name: str) -> Any:
        policy = self._robot.latest.policy
        if name == 'state':
            return JointState(position=[0.0] * policy.state_dim)
        contract = self._contracts.get(policy.unnorm_key)
        if contract is None or not contract.state:
            return None
        if name == EE_POSE:
            pose = PoseStamped()
            pose.header.frame_id = self._frame_id
            pose.pose.orientation = Quaternion(x=1.0, y=0.0, z=0.0, w=0.0)  # pointing down
            return pose
        joints = {
            joint: part.zero
            for part in contract.state
            if isinstance(part, Joints)
            for joint in part.joints
        }
        return JointState(name=list(joints), position=list(joints.values()))

    def _tell(self, say: Say, name: str, text: str) -> None:
        if name not in self._said:
            self._said.add(name)
            say(text)
