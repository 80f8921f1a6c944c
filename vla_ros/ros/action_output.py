# SPDX-License-Identifier: Apache-2.0
"""The topic ``action``: each admitted chunk as a VlaAction."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile

from vla_ros.msg import VlaAction
from vla_ros.ros.messages import action_message
from vla_ros.ros.output import Admitted, Output, OutputSetup


class ActionOutput(Output):
    """Publishes the chunk as it is; a robot's driver does the rest."""

    def __init__(self, setup: OutputSetup) -> None:
        """Create the publisher."""
        self._node, self._prefix = setup.node, setup.prefix
        self._frame_id, self._max_age_s = setup.frame_id, setup.parameters.max_action_age_s
        self._publishers: list[Publisher] = []  # in use, and one that takes its place
        self._add()

    def _add(self) -> None:
        # A message that is not delivered while it is valid must not be delivered later. It is no
        # lifecycle publisher: an active node makes it when its policy is warm.
        lifespan = Duration(seconds=self._max_age_s)
        publisher = self._node.create_publisher(
            VlaAction, f'{self._prefix}action', QoSProfile(depth=1, lifespan=lifespan)
        )
        self._publishers.append(publisher)
        self.topics = [one.topic_name for one in self._publishers]

    def adjust(self, setup: OutputSetup) -> None:
        """Make another publisher if the lifespan changes; it is used when listeners have found it.

        So they miss no action.
        """
        self._frame_id = setup.frame_id
        if setup.parameters.max_action_age_s != self._max_age_s:
            self._max_age_s = setup.parameters.max_action_age_s
            self._keep(self._publishers[0])
            self._add()

    def publish(self, admitted: Admitted) -> None:
        before, newest = self._publishers[0], self._publishers[-1]
        message = action_message(admitted, self._frame_id)
        if newest.get_subscription_count() < before.get_subscription_count():
            before.publish(message)
        else:
            newest.publish(message)
            self._keep(newest)

    def _keep(self, one: Publisher) -> None:
        """Destroy all publishers but one."""
        for publisher in self._publishers:
            if publisher is not one:
                self._node.destroy_publisher(publisher)
        self._publishers, self.topics = [one], [one.topic_name]

    def close(self, flush_s: float) -> None:
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
