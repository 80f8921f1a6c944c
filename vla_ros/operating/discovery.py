# SPDX-License-Identifier: Apache-2.0
"""Robots and their cameras, found on the graph. Used by the thread that spins the node."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rclpy.node import Node

from vla_ros.operating.robot import Place

_STATUS = 'vla_ros/msg/VlaStatus'
_IMAGE, _COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
_MAX_CAMERAS = 16
_NAME = re.compile('[A-Za-z_][A-Za-z0-9_]*')  # a part of a ROS name


def find_places(node: Node) -> Iterator[Place]:
    """Yield the place of each robot whose node publishes a status now.

    There are several of one robot while a node of another name takes over.
    """
    for topic, types in node.get_topic_names_and_types():
        is_named = all(map(_NAME.fullmatch, topic.removeprefix('/').split('/')))
        if _STATUS not in types or not topic.endswith('/status') or not is_named:
            continue  # rclpy raises an error for other names, which a program without rcl may use
        for info in node.get_publishers_info_by_topic(topic):
            namespace = info.node_namespace
            base = f'{namespace.rstrip("/")}/'
            robot = topic.removesuffix('status').removeprefix(base).strip('/')
            # The name of a node that is not discovered completely has other characters.
            is_ours = topic.startswith(base) and '/' not in robot
            if is_ours and _NAME.fullmatch(info.node_name):
                yield Place(namespace, info.node_name, robot)


def find_cameras(node: Node, place: Place) -> tuple[dict[str, bool], bool]:
    """Return the topics of images that a node hears, and whether the node was found.

    :returns: by full name, whether the images are compressed.
    """
    try:
        heard = node.get_subscriber_names_and_types_by_node(place.node, place.namespace)
    except Exception:  # rclpy's NodeNameNonExistentError, and its older forms
        return {}, False
    topics = {
        topic: _COMPRESSED in types
        for topic, types in sorted(heard)
        if _IMAGE in types or _COMPRESSED in types
    }
    return dict([*topics.items()][:_MAX_CAMERAS]), True
