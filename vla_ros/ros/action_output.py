"""The topic ``action``: each admitted chunk as a VlaAction."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile

from vla_ros.msg import VlaAction
from vla_ros.parameters.definition import Parameters
from vla_ros.ros.messages import action_message
from vla_ros.ros.output import Admitted, Output


class ActionOutput(Output):
    """Publishes the chunk as it is; a robot's driver does the rest."""

    def __init__(
        self, node: LifecycleNode, prefix: str, frame_id: str, parameters: Parameters
    ) -> None:
        """Create the publisher.

        :param prefix: prefix of the topic's name.
        :param frame_id: of the actions.
        """
        self._node, self._frame_id = node, frame_id
        # A message that is not delivered while it is valid must not be delivered later.
        lifespan = Duration(seconds=parameters.max_action_age_s)
        self._actions = node.create_lifecycle_publisher(
            VlaAction, f'{prefix}action', QoSProfile(depth=1, lifespan=lifespan)
        )
        self.topics = (self._actions.topic_name,)

    def publish(self, admitted: Admitted) -> None:
        self._actions.publish(action_message(admitted, self._frame_id))

    def close(self, flush_s: float) -> None:
        self._node.destroy_lifecycle_publisher(self._actions)
