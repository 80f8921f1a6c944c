"""The inputs of a replay: the images of one topic, each with its current instruction.

Every image of the recording either becomes a frame or is counted under the name of the cause.
Independent of policies.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.images.compressed import compressed_to_rgb
from vla_ros.images.raw import UnusableImage, image_to_rgb
from vla_ros.replay.bag import Bag, BagError, UnreadableMessage, nanoseconds

_TO_RGB: Mapping[str, Callable[[Any], NDArray[np.uint8]]] = {
    'sensor_msgs/msg/Image': image_to_rgb,
    'sensor_msgs/msg/CompressedImage': compressed_to_rgb,
}
_STRING = 'std_msgs/msg/String'
_BEGINNING_OF_TIME_NS = -(2**63)
_NS_PER_S = 10**9

Say = Callable[[str], None]  # called with each report of progress


@dataclass(frozen=True)
class Frame:
    """An image with its instruction.

    :param number: number of the image in its topic, from 0.
    :param bag_time_ns: when it was recorded, nanoseconds of the recorder's clock.
    :param stamp_ns: when it was captured, by its header.
    :param image: uint8 [H, W, 3] RGB, read-only.
    :param starts_over: whether the node would reset the session before it: the instruction changed,
        or an image in between was not usable.
    """

    number: int
    bag_time_ns: int
    stamp_ns: int
    instruction: str
    image: NDArray[np.uint8]
    starts_over: bool


@dataclass(frozen=True)
class Sampling:
    """The selection of images.

    :param every: take every n-th image, beginning with the first.
    :param rate_hz: take the images nearest to the ticks of this rate, by bag time; None: all.
    :param limit: maximum number of images; None: no limit.
    """

    every: int = 1
    rate_hz: float | None = None
    limit: int | None = None


@dataclass
class Skipped:
    """Counters of the images that gave no action, by cause, with the message of each first one."""

    say: Say
    counts: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, message: str = '', number: int = 0) -> None:
        """Count an image, and report the first one with a message.

        :param name: name of the counter.
        :param number: number of the image.
        """
        self.counts[name] += 1
        if message and name not in self.messages:
            self.messages[name] = message
            self.say(f'image {number} is skipped, {name}: {message} (others are only counted)')

    def __str__(self) -> str:
        return ', '.join(
            f'{count} {name}' + (f' ({self.messages[name]})' if name in self.messages else '')
            for name, count in sorted(self.counts.items())
        )


class Instructions:
    """The instructions over time; an empty one means hold."""

    def __init__(self, given: Collection[tuple[int, str]]) -> None:
        """Keep the given instructions.

        :param given: bag times in nanoseconds, and texts, in the order of time.
        """
        self._times_ns = [bag_time_ns for bag_time_ns, _ in given]
        self._texts = [text for _, text in given]

    @classmethod
    def always(cls, text: str) -> Instructions:
        """Return a single instruction for the whole recording."""
        return cls([(_BEGINNING_OF_TIME_NS, text)])

    @classmethod
    def recorded(cls, bag: Bag, topic: str) -> Instructions:
        """Return the instructions of a recorded topic.

        :raises BagError: if one can't be read.
        """
        try:
            given = [(raw.bag_time_ns, bag.decode(raw).data) for raw in bag.messages([topic])]
        except UnreadableMessage as error:
            raise BagError(str(error), 'give the instruction with --instruction') from error
        return cls(sorted(given, key=lambda one: one[0]))

    def at(self, bag_time_ns: int) -> str:
        """Return the last instruction until this time; empty if there was none."""
        index = bisect.bisect_right(self._times_ns, bag_time_ns)
        return self._texts[index - 1] if index else ''


def find_image_topic(bag: Bag, topic: str | None) -> str:
    """Return the topic of images.

    :param topic: the requested topic; None: the only one.
    :raises BagError: if there is no such topic of images, or there are several.
    """
    return _find(bag, topic, bag.topics_of(*_TO_RGB), 'images', '--image')


def find_instruction_topic(bag: Bag, topic: str | None) -> str:
    """Return the topic of instructions.

    :param topic: the requested topic; None: the only one whose name ends in ``instruction``.
    :raises BagError: if there is no such topic of strings, or there are several.
    """
    topics = bag.topics_of(_STRING)
    if topic is None:
        topics = [name for name in topics if name.endswith('instruction')]
    return _find(bag, topic, topics, 'instructions', '--instruction-topic (or --instruction TEXT)')


def _find(bag: Bag, wanted: str | None, topics: list[str], what: str, option: str) -> str:
    listed = ', '.join(topics) or 'none'
    if wanted is not None and wanted not in topics:
        raise BagError(
            f'{wanted} is not a topic of {what} in bag {bag.path}',
            f'its topics of {what}: {listed}',
        )
    if wanted is None and len(topics) != 1:
        others = ', '.join(f'{name} ({one.message_type})' for name, one in bag.topics.items())
        raise BagError(
            f'bag {bag.path} has {len(topics)} topics of {what} ({listed})',
            f'name one with {option}; all its topics: {others or "none"}',
        )
    return wanted or topics[0]


def frames(
    bag: Bag, topic: str, instructions: Instructions, sampling: Sampling, skipped: Skipped
) -> Iterator[Frame]:
    """Yield the frames, in the order of the recorder's clock.

    After the last one, every recorded image was a frame or is counted in ``skipped``.

    :raises BagError: where the recording is damaged.
    """
    to_rgb = _TO_RGB[bag.topics[topic].message_type]
    is_due = _schedule(sampling)
    read, taken, rest = 0, 0, 'missing'
    instruction_before, starts_over = '', True
    for raw in bag.messages([topic]):
        if taken == sampling.limit:
            rest = 'after_limit'
            break
        number, read = read, read + 1
        if not is_due(number, raw.bag_time_ns):
            skipped.add('downsampled')
            continue
        instruction = instructions.at(raw.bag_time_ns)
        starts_over = starts_over or instruction != instruction_before
        instruction_before = instruction
        if not instruction.strip():
            skipped.add('no_instruction')
            continue
        try:
            message = bag.decode(raw)
            image, stamp_ns = to_rgb(message), nanoseconds(message.header.stamp)
        except (UnreadableMessage, UnusableImage, MemoryError) as error:
            skipped.add('unusable_picture', str(error), number)
            starts_over = True
            continue
        taken += 1
        yield Frame(number, raw.bag_time_ns, stamp_ns, instruction, image, starts_over)
        starts_over = False
    unread = bag.topics[topic].count - read  # according to the recording's metadata
    if unread > 0:
        skipped.counts[rest] += unread


def _schedule(sampling: Sampling) -> Callable[[int, int], bool]:
    """Return a function that decides by number and bag time whether an image is taken.

    It must be called for each image in order.
    """
    if sampling.rate_hz is None:
        return lambda number, bag_time_ns: number % sampling.every == 0
    period_ns = _NS_PER_S / sampling.rate_hz
    due_ns, before_ns = -math.inf, -math.inf

    def is_due(number: int, bag_time_ns: int) -> bool:
        nonlocal due_ns, before_ns
        gap_ns, before_ns = bag_time_ns - before_ns, bag_time_ns
        if bag_time_ns + gap_ns / 2 < due_ns:
            return False  # the next image will be nearer to the tick
        # The ticks stay aligned with the first image, except after a pause.
        due_ns = due_ns + period_ns if due_ns + period_ns > bag_time_ns else bag_time_ns + period_ns
        return True

    return is_due
