# SPDX-License-Identifier: Apache-2.0
"""Names of topics on which the node and the other programs must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.node import Node

COMPRESSED = '/compressed'  # the suffix of the topic of compressed images


def image_topics(cameras: Sequence[str]) -> dict[str, str]:
    """Return the relative topic of each camera: ``image`` of a single one, otherwise NAME/image."""
    if len(cameras) == 1:
        return {cameras[0]: 'image'}
    return {name: f'{name}/image' for name in cameras}


def transport_topic(node: Node, topic: str, suffix: str) -> str:
    """Return the full name of a topic of images in another form, as image_transport names it.

    A remapping of the images' topic moves this topic along. So does a name that ends with the
    suffix already. A remapping of this topic itself comes first.

    :param suffix: ``/compressed``, or empty for the images' topic itself.
    """
    images = node.resolve_topic_name(topic)
    if not suffix:
        return images
    own = node.resolve_topic_name(f'{topic}{suffix}')
    if own != node.resolve_topic_name(f'{topic}{suffix}', only_expand=True):
        return own
    return images if images.endswith(suffix) else f'{images}{suffix}'
