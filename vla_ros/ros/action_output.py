# SPDX-License-Identifier: Apache-2.0
"""The topic ``action``: each admitted chunk as a VlaAction."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.qos import QoSProfile

from vla_ros.msg import VlaAction
from vla_ros.ros.messages import action_message
from vla_ros.ros.output import Admitted, Output, OutputSetup


class ActionOutput(Output):
    """Publishes the chunk as it is; a robot's driver does the rest."""

    def __init__(self, setup: OutputSetup) -> None:
        """Create the publisher."""
        self._node, self._prefix = setup.node, setup.prefix
        self._begin(setup)

    def _begin(self, setup: OutputSetup) -> None:
        self._frame_id, self._max_age_s = setup.frame_id, setup.parameters.max_action_age_s
        # A message that is not delivered while it is valid must not be delivered later. It is no
        # lifecycle publisher: an active node makes it when its policy is warm.
        lifespan = Duration(seconds=self._max_age_s)
        self._actions = self._node.create_publisher(
            VlaAction, f'{self._prefix}action', QoSProfile(depth=1, lifespan=lifespan)
        )
        self.topics = (self._actions.topic_name,)

    def adjust(self, setup: OutputSetup) -> None:
        """Make the publisher anew if its lifespan changes; listeners find it within a moment."""
        if setup.parameters.max_action_age_s == self._max_age_s:
            self._frame_id = setup.frame_id
            return
        self._node.destroy_publisher(self._actions)
        self._begin(setup)

    def publish(self, admitted: Admitted) -> None:
        self._actions.publish(action_message(admitted, self._frame_id))

    def close(self, flush_s: float) -> None:
        self._node.destroy_publisher(self._actions)
