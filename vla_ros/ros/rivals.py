# SPDX-License-Identifier: Apache-2.0
"""Detection of other nodes that act in this node's place.

A second node of the same name answers its services: a stop may reach the wrong one. A second
publisher of a robot's actions or twists moves that robot whatever this node decides. Used by the
executor's thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rclpy.node import Node

from vla_ros.reasons import Cause, Reason


class Rivals:
    """The rivals that :meth:`look` has found; call it about once a second."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._second_node: Cause | None = None
        self._second_publishers: dict[str, Cause] = {}

    def look(self, topics: Sequence[str]) -> None:
        """Search the ROS graph.

        :param topics: full names of the topics that only this node may publish, once for each of
            its publishers.
        """
        self._second_node = self._find_second_node()
        found = {
            topic: self._find_second_publisher(topic, count)
            for topic, count in Counter(topics).items()
        }
        self._second_publishers = {topic: cause for topic, cause in found.items() if cause}

    def cause(self, topics: Sequence[str]) -> Cause | None:
        """Return why a robot with these topics must not act; None if it may."""
        if self._second_node:
            return self._second_node
        return next(filter(None, map(self._second_publishers.get, topics)), None)

    def _find_second_node(self) -> Cause | None:
        name, namespace = self._node.get_name(), self._node.get_namespace()
        count = self._node.get_node_names_and_namespaces().count((name, namespace))
        if count <= 1:
            return None
        full_name = self._node.get_fully_qualified_name()
        return Cause(
            Reason.SECOND_NODE,
            f'{count} nodes have the name {full_name}, so a stop may reach the wrong one; end the '
            'others, or start this one in a namespace of its own (a node that was killed is gone '
            'within 20 s)',
        )

    def _find_second_publisher(self, topic: str, own_count: int) -> Cause | None:
        publishers = self._node.get_publishers_info_by_topic(topic)
        if len(publishers) <= own_count:
            return None
        own = (self._node.get_name(), self._node.get_namespace())
        others = sorted(
            f'{publisher.node_namespace.rstrip("/")}/{publisher.node_name}'
            for publisher in publishers
            if (publisher.node_name, publisher.node_namespace) != own
        )
        return Cause(
            Reason.SECOND_PUBLISHER,
            f'{topic} is published by another node, too ({", ".join(others) or "of this name"}); '
            'end that, or have both publish topics of their own to a multiplexer such as twist_mux',
        )
