# SPDX-License-Identifier: Apache-2.0
"""The topics of a recording that hold the inputs of a policy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.images.compressed import compressed_to_rgb
from vla_ros.images.raw import image_to_rgb
from vla_ros.replay.bag import Bag, BagError
from vla_ros.types import PolicySpec

STATE, STRING = 'sensor_msgs/msg/JointState', 'std_msgs/msg/String'
TO_RGB: Mapping[str, Callable[[Any], NDArray[np.uint8]]] = {
    'sensor_msgs/msg/Image': image_to_rgb,
    'sensor_msgs/msg/CompressedImage': compressed_to_rgb,
}


@dataclass(frozen=True)
class _Input:
    """An input of a policy, as messages about it name it.

    :param option: names its topic.
    :param absent: advice for a recording without it.
    """

    name: str
    message_types: Collection[str]
    option: str
    absent: str


_TEXT_OPTION = '--instruction-topic (or --instruction TEXT)'
_IMAGES = _Input('images', TO_RGB, '--image', f'record a topic of {" or ".join(TO_RGB)}')
_STATES = _Input('states', [STATE], '--state', f'record a topic of {STATE}')
_INSTRUCTIONS = _Input('instructions', [STRING], _TEXT_OPTION, f'name one with {_TEXT_OPTION}')


@dataclass(frozen=True)
class Topics:
    """The topics of one policy's observations.

    :param images: topic by camera, in the order of the policy's cameras.
    :param state: None if the policy takes no state.
    """

    images: Mapping[str, str]
    state: str | None = None

    @property
    def are_joined(self) -> bool:
        """Whether an observation has more parts than one image."""
        return len(self.images) > 1 or self.state is not None

    def __str__(self) -> str:
        return ', '.join([*self.images.values(), *([self.state] if self.state else [])])


def find_topics(bag: Bag, images: Sequence[str], state: str | None, spec: PolicySpec) -> Topics:
    """Return the topics of what a policy needs.

    :param images: the requested topics, one for each camera of the policy, in its order. Empty:
        the only topic of images, or for each of several cameras the only one with its name.
    :param state: the requested topic of states; None: the only one.
    :raises BagError: if the recording has no such topics, or several, or the policy needs others.
    """
    if state is not None and not spec.state_dim:
        raise BagError(f'{state} is of no use, since the policy takes no state', 'omit --state')
    return Topics(
        _image_topics(bag, images, spec.cameras),
        _find(bag, state, _STATES) if spec.state_dim else None,
    )


def find_camera(bag: Bag, wanted: str | None) -> str | None:
    """Return the wanted topic of images, or else the first one; None if there are no images.

    :raises BagError: if the wanted topic has no images.
    """
    if wanted is not None:
        return _find(bag, wanted, _IMAGES)
    return next(iter(bag.topics_of(*TO_RGB)), None)


def _image_topics(bag: Bag, wanted: Sequence[str], cameras: Sequence[str]) -> dict[str, str]:
    topics = bag.topics_of(*TO_RGB)
    listed = ', '.join(cameras)
    if not wanted and len(cameras) == 1:
        return {cameras[0]: _find(bag, None, _IMAGES)}
    if not wanted:
        return {camera: _named_topic(bag, topics, camera, listed) for camera in cameras}
    if len(wanted) != len(cameras) or len(set(wanted)) != len(wanted):
        raise BagError(
            f'--image names {", ".join(wanted)}; the policy needs {len(cameras)} different topics',
            f'name one for each of its cameras, in this order: {listed}',
        )
    found = [_find(bag, topic, _IMAGES) for topic in wanted]
    return dict(zip(cameras, found, strict=True))


def _named_topic(bag: Bag, topics: Sequence[str], camera: str, listed: str) -> str:
    """Return the only topic with the camera's name between its slashes."""
    named = [topic for topic in topics if camera in topic.split('/')]
    if len(named) != 1:
        raise BagError(
            f'bag {bag.path} has {len(named)} topics of images with the name {camera} '
            f'({", ".join(named) or "none"})',
            f'name one for each camera ({listed}) with --image; its topics of images: '
            f'{", ".join(topics) or "none"}',
        )
    return _find(bag, named[0], _IMAGES)


def find_instruction_topic(bag: Bag, topic: str | None) -> str:
    """Return the topic of instructions.

    :param topic: the requested topic; None: the only one whose name ends in ``instruction``.
    :raises BagError: if there is no such topic of strings, or there are several.
    """
    if topic is not None:
        return _find(bag, topic, _INSTRUCTIONS)
    topics = bag.topics_of(*_INSTRUCTIONS.message_types)
    named = [name for name in topics if name.endswith('instruction')]
    return _find(bag, None, _INSTRUCTIONS, named)


def _find(
    bag: Bag, wanted: str | None, kind: _Input, candidates: Sequence[str] | None = None
) -> str:
    """Return the wanted topic, or the only candidate.

    :param candidates: by default all topics with messages of the types.
    :raises BagError: if there is none, or several; if it also has messages of other types.
    """
    topics = bag.topics_of(*kind.message_types) if candidates is None else candidates
    listed = ', '.join(topics) or 'none'
    if wanted is not None and wanted not in topics:
        raise BagError(
            f'{wanted} is not a topic of {kind.name} in bag {bag.path}{_types(bag, wanted)}',
            f'its topics of {kind.name}: {listed}',
        )
    if wanted is None and len(topics) != 1:
        others = ', '.join(f'{name}{_types(bag, name)}' for name in bag.topics)
        advice = f'name one with {kind.option}' if topics else kind.absent
        raise BagError(
            f'bag {bag.path} has {len(topics)} topics of {kind.name} ({listed})',
            f'{advice}; all its topics: {others or "none"}',
        )
    topic = wanted or topics[0]
    if set(bag.topics[topic].message_types) - set(kind.message_types):
        raise BagError(
            f'{topic} in bag {bag.path} has messages of several types{_types(bag, topic)}',
            f'name another topic with {kind.option}, or record one type on each topic',
        )
    return topic


def _types(bag: Bag, topic: str) -> str:
    """Return the types on a topic in brackets; empty if there is no such topic."""
    types = bag.topics[topic].message_types if topic in bag.topics else ()
    return f' ({", ".join(types)})' if types else ''
