# SPDX-License-Identifier: Apache-2.0
"""The topic on which images are expected, and what is said where there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from support.inputs import shows
from vla_ros.graph.topics import transport_topic
from vla_ros.ros.image_subscription import publishers_text

RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
CLOUD = 'sensor_msgs/msg/PointCloud2'


def node(published: Mapping[str, Sequence[str]], **remapped: str) -> Any:
    """A node that sees publishers of these types by topic."""

    def resolve(name: str, only_expand: bool = False) -> str:
        return '/' + (name if only_expand else remapped.get(name, name)).lstrip('/')

    return SimpleNamespace(
        resolve_topic_name=resolve,
        get_publishers_info_by_topic=lambda topic: [
            SimpleNamespace(topic_type=one) for one in published.get(topic, ())
        ],
    )


@pytest.mark.parametrize(
    ('remapped', 'suffix', 'topic'),
    [
        ({}, '', '/image'),
        ({}, '/compressed', '/image/compressed'),
        ({'image': 'cam/image'}, '', '/cam/image'),
        ({'image': 'cam/image'}, '/compressed', '/cam/image/compressed'),
        ({'image': 'cam/image/compressed'}, '/compressed', '/cam/image/compressed'),
        ({'image/compressed': 'jpeg'}, '/compressed', '/jpeg'),
        ({'image': 'cam/image', 'image/compressed': 'jpeg'}, '/compressed', '/jpeg'),
    ],
)
def test_compressed_images_move_along_with_the_images(
    remapped: dict[str, str], suffix: str, topic: str
) -> None:
    assert transport_topic(node({}, **remapped), 'image', suffix) == topic


@shows(
    'Publishers',
    'the node holds, and the status names the type',
    'publishers of another type on the topic of the images',
)
@shows(
    'Publishers',
    'the status names the value for `image_transport`',
    'only compressed images, or only raw ones, and the node wants the other',
)
@pytest.mark.parametrize(
    ('published', 'transport', 'topic', 'told'),
    [
        ({'/a': [RAW]}, 'raw', '/a', 'publishers there: 1'),
        ({}, 'raw', '/a', 'publishers there: 0'),
        (
            {'/a/compressed': [COMPRESSED]},
            *('raw', '/a', 'publishers there: 0; set image_transport to compressed'),
        ),
        (
            {'/a': [RAW]},
            *('compressed', '/a/compressed', 'publishers there: 0; set image_transport to raw'),
        ),
        (
            {'/a/compressed': [COMPRESSED]},
            *(
                'raw',
                '/a/compressed',
                f'publishers there: 0, and 1 of another type: {COMPRESSED}; ',
            ),
        ),
        (
            {'/a': [CLOUD, RAW]},
            *('raw', '/a', f'publishers there: 1, and 1 of another type: {CLOUD}'),
        ),
    ],
)
def test_publishers_of_another_type_do_not_count(
    published: dict[str, list[str]], transport: str, topic: str, told: str
) -> None:
    text = publishers_text(node(published), topic, transport)
    assert text == told or text == f'{told}set image_transport to compressed'
