# SPDX-License-Identifier: Apache-2.0
"""The inputs of a replay: observations joined as in the node, each with its current instruction.

Every image of the recording either becomes part of a frame or is counted under the name of the
cause. Independent of policies.
"""

from __future__ import annotations

import bisect
import itertools
import math
import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

from vla_ros.clock import ManualClock
from vla_ros.console import Say
from vla_ros.images.raw import UnusableImage
from vla_ros.replay.bag import Bag, BagError, RawMessage, UnreadableMessage, nanoseconds
from vla_ros.replay.topics import TO_RGB, Topics
from vla_ros.scheduling.assembly import Assembler, AssemblyCounters, AssemblyLimits
from vla_ros.text import printable
from vla_ros.types import Observation, PolicySpec

_BEGINNING_OF_TIME_NS = -(2**63)
_NS_PER_S = 10**9


@dataclass(frozen=True)
class Frame:
    """An observation of the recording.

    :param number: number of the first camera's image in its topic, from 0.
    :param bag_time_ns: when the last part was recorded, nanoseconds of the recorder's clock.
    :param starts_over: whether the node would reset the session before it: the instruction changed,
        or an image or a state in between was not usable.
    """

    number: int
    bag_time_ns: int
    observation: Observation
    starts_over: bool


@dataclass(frozen=True)
class Sampling:
    """The selection of images.

    With several cameras, the first one's images are selected.

    :param every: take every n-th image, beginning with the first.
    :param rate_hz: take the images nearest to the ticks of this rate, by bag time; None: all.
    :param limit: maximum number of observations; None: no limit.
    """

    every: int = 1
    rate_hz: float | None = None
    limit: int | None = None


@dataclass
class Skipped:
    """Counters of the images that gave no action, by cause, with the message of each first one.

    :param what: name of the counted messages, for reports.
    """

    say: Say
    what: str = 'image'
    counts: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, message: str = '', number: int = 0, count: int = 1) -> None:
        """Count an image, and report the first one with a message.

        :param name: name of the counter.
        :param number: number of the image.
        :param count: number of images that are skipped together.
        """
        self.counts[name] += count
        if message and name not in self.messages:
            self.messages[name] = message
            text = f'{self.what} {number} is skipped, {name}: {message}'
            self.say(f'{text} (others are only counted)')

    def add_rest(self, name: str, count: int, message: str = '') -> None:
        """Count images that turn out to be skipped at the end; a count below 1 changes nothing."""
        if count < 1:
            return
        self.counts[name] += count
        if message:
            self.messages[name] = message
            self.say(f'{count} {self.what}s are skipped, {name}: {message}')

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
        differ = map(operator.ne, self._texts, ['', *self._texts])
        self._changes = list(itertools.accumulate(differ))

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

    def changes(self, bag_time_ns: int) -> int:
        """Return how often another instruction, or none, was given until this time."""
        index = bisect.bisect_right(self._times_ns, bag_time_ns)
        return self._changes[index - 1] if index else 0


class Frames:
    """All frames of a recording, in the order of the recorder's clock. Iterate once.

    After the last one, every recorded image was part of a frame or is counted in ``skipped``, and
    every state was usable or is counted in ``skipped_states``. A state may be part of several
    frames.
    """

    def __init__(
        self,
        bag: Bag,
        topics: Topics,
        spec: PolicySpec,
        instructions: Instructions,
        sampling: Sampling,
        tolerance_s: float,
        say: Say,
    ) -> None:
        """Prepare the frames, without reading messages.

        :param spec: the cameras and the length of the state that the policy needs.
        :param tolerance_s: maximum time between the captures of the parts of one observation.
        """
        self.topics = topics
        self.skipped, self.skipped_states = Skipped(say), Skipped(say, 'state')
        self._bag = bag
        self._cameras = {topic: camera for camera, topic in topics.images.items()}
        self._leader = spec.cameras[0]
        self._instructions = instructions
        self._limit = sampling.limit
        self._is_due = _schedule(sampling)
        self._tolerance_s = tolerance_s
        limits = AssemblyLimits(tolerance_s, math.inf, math.inf)  # nothing is late in a replay
        self._assembler = Assembler(spec, limits, ManualClock(), AssemblyCounters())
        self._read: Counter[str] = Counter()  # messages by topic
        self._number = 0  # of the leader's last usable image
        self._changes = 0  # of the instruction, so far
        self._starts_over = True

    @property
    def count(self) -> int:
        """Number of the first camera's images in the recording."""
        return self._bag.topics[self.topics.images[self._leader]].count

    @property
    def states_used(self) -> int:
        """Number of the usable states so far."""
        counters = self._assembler.counters
        return counters.states_received - counters.states_rejected

    def skipped_text(self) -> str:
        """Return the counters of images and states as text; empty if nothing was skipped."""
        return ', '.join(str(one) for one in (self.skipped, self.skipped_states) if one.counts)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        :raises BagError: where the recording is damaged.
        """
        taken = 0
        state = [self.topics.state] if self.topics.state else []
        for raw in self._bag.messages([*self._cameras, *state]):
            if taken == self._limit:
                break
            observation = self._add(raw)
            if observation is not None:
                taken += 1
                yield Frame(self._number, raw.bag_time_ns, observation, self._starts_over)
                self._starts_over = False
        self._count_rest()

    def _add(self, raw: RawMessage) -> Observation | None:
        """Give a message to the assembler; return the observation that it completes."""
        number = self._read[raw.topic]
        self._read[raw.topic] += 1
        if raw.topic == self.topics.state:
            return self._add_state(raw, number)
        return self._add_image(self._cameras[raw.topic], raw, number)

    def _add_image(self, camera: str, raw: RawMessage, number: int) -> Observation | None:
        if camera == self._leader and not self._is_due(number, raw.bag_time_ns):
            self.skipped.add('downsampled')
            return None
        instruction = self._instruction_at(raw.bag_time_ns)
        if not instruction:
            self.skipped.add('no_instruction')
            return None
        try:
            message = self._bag.decode(raw)
            image = TO_RGB[raw.message_type](message)
        except (UnreadableMessage, UnusableImage, MemoryError) as error:
            self.skipped.add('unusable_image', str(error), number)
            self._start_over()
            return None
        if camera == self._leader:
            self._number = number
        stamp_ns = nanoseconds(message.header.stamp)
        return self._assembler.add_image(camera, image, stamp_ns, instruction)

    def _add_state(self, raw: RawMessage, number: int) -> Observation | None:
        instruction = self._instruction_at(raw.bag_time_ns)
        try:
            message = self._bag.decode(raw)
            values = np.array(message.position, np.float64)
            stamp_ns = nanoseconds(message.header.stamp)
            return self._assembler.add_state(values, stamp_ns, instruction)
        except ValueError as error:
            self.skipped_states.add('unusable_state', printable(str(error), 200), number)
            self._start_over()
            return None

    def _instruction_at(self, bag_time_ns: int) -> str:
        """Return the current instruction; empty if it means hold."""
        instruction = self._instructions.at(bag_time_ns)
        changes = self._instructions.changes(bag_time_ns)
        if changes != self._changes:  # also where the same one came again after a hold
            self._changes = changes
            self._start_over()
        return instruction if instruction.strip() else ''

    def _start_over(self) -> None:
        """Drop the images that wait, as the node does at a fault or a new instruction."""
        self._assembler.drop()
        self._starts_over = True

    def _count_rest(self) -> None:
        """Count the images that were not read, and those that found no other parts."""
        for topic in self._cameras:
            self._count_unread(topic, self.skipped)
        if self.topics.state:
            self._count_unread(self.topics.state, self.skipped_states)
        why = (
            f'the newest messages on {self.topics} were not captured within '
            f'--sync-tolerance, {self._tolerance_s:g} s'
        )
        self.skipped.add_rest('replaced', self._assembler.counters.replaced, why)
        self.skipped.add_rest('pending', self._assembler.counters.pending)

    def _count_unread(self, name: str, skipped: Skipped) -> None:
        topic = self._bag.topics[name]
        skipped.add_rest('after_limit', topic.count - self._read[name])
        skipped.add_rest('missing', topic.missing, topic.missing_message)


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
