# SPDX-License-Identifier: Apache-2.0
"""The topic ``gripper``: how far one robot's gripper is to be open.

Used by the executor's thread, by the outputs that move the robot.
"""

from __future__ import annotations

from std_msgs.msg import Float64

from vla_ros.ros.output import OutputSetup


class GripperOutput:
    """Publishes an opening from its beginning to :meth:`close`."""

    def __init__(self, setup: OutputSetup, topic: str = 'gripper') -> None:
        """Create the publisher.

        :param topic: its name, without the robot's prefix.
        """
        self._node = setup.node
        self._publisher = setup.node.create_publisher(Float64, f'{setup.prefix}{topic}', 1)

    def send(self, opening: float | None) -> None:
        """Publish an opening, 0 closed to 1 open; None is not known yet, and sends nothing."""
        if opening is not None:
            self._publisher.publish(Float64(data=opening))

    def close(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_publisher(self._publisher)
