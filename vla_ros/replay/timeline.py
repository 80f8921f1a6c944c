# SPDX-License-Identifier: Apache-2.0
"""A recording and the replays of it on one timeline, for the viewer of rerun.

Each message of a shown topic becomes rows of the file, or is counted as not shown.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from vla_ros.console import Say
from vla_ros.drawing import BLUE, GRAY, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILLION
from vla_ros.images.raw import UnusableImage
from vla_ros.reasons import Reason
from vla_ros.replay.actions import ActionRow
from vla_ros.replay.bag import Bag, RawMessage, UnreadableMessage, nanoseconds
from vla_ros.replay.frames import Skipped
from vla_ros.replay.moments import Moment, Moments
from vla_ros.replay.recorded import ACTION, STATUS, TWISTS
from vla_ros.replay.rerun_file import Parts, RerunFile
from vla_ros.replay.topics import STATE, STRING, TO_RGB, find_camera
from vla_ros.text import printable
from vla_ros.types import unknown_names

TIMELINE_NAME = 'replay.rrd'

_QUALITY = 85  # of JPEG
_RECORDED = 'recorded'
_COLORS = (BLUE, GREEN, PURPLE, SKY_BLUE, VERMILLION, GRAY)  # of replays
_COMPARED = ('action', 'token_probability', 'latency_s')  # with one series for each source
_VELOCITIES = tuple(f'{kind}_{axis}' for kind in ('linear', 'angular') for axis in 'xyz')
_NORMAL = (Reason.NONE, Reason.NO_INSTRUCTION, Reason.INSTRUCTION_CHANGED)
_FACTS = 'vla_ros.'  # what the node writes into metadata.yaml begins with it


@dataclass(frozen=True)
class Answers:
    """The answers of one policy.

    :param names: of the columns of an action; empty: unknown.
    """

    rows: Sequence[ActionRow]
    names: Sequence[str] = ()


def write_timeline(
    path: Path, bag: Bag, answers: Mapping[str, Answers], camera: str | None, say: Say
) -> dict[str, Any]:
    """Write the file.

    :param bag: open.
    :param answers: by the name of the replay.
    :param camera: topic whose images are counted as frames; None: the first topic of images.
    :returns: ``file``; ``messages``, numbers of messages by topic; ``not_shown``, of these by
        topic and cause; ``other_topics``, numbers of messages on topics that are not shown.
    :raises BagError: where the recording is damaged, or if it has no such topic.
    :raises OSError: if the file can't be written. So does RerunError, later.
    """
    camera = find_camera(bag, camera)
    with RerunFile(path, bag.path.name) as file:
        shown = _Shown(file, bag, camera, _known_columns(bag, answers), say)
        topics = [name for name, one in bag.topics.items() if _is_shown(name, one.message_types)]
        for raw in bag.messages(topics):
            shown.add(raw)
        for name, one in answers.items():
            shown.add_answers(name, one)
        shown.add_facts()
        _set_styles(file, [*answers])
    say(f'look at it: rerun {path}')
    return {
        'file': str(path),
        'messages': dict(sorted(shown.read.items())),
        'not_shown': {
            topic: dict(one.counts) for topic, one in sorted(shown.skipped.items()) if one.counts
        },
        'other_topics': {
            name: topic.count for name, topic in bag.topics.items() if name not in topics
        },
    }


def _is_shown(name: str, message_types: Sequence[str]) -> bool:
    kinds = {*message_types} & {*_SHOW}
    return bool(kinds - {STRING}) or (STRING in kinds and name.endswith('instruction'))


class _Shown:
    """The rows of a recording so far.

    :ivar read: number of messages by topic.
    :ivar skipped: counters of those that are not shown, by topic.
    """

    def __init__(
        self,
        file: RerunFile,
        bag: Bag,
        camera: str | None,
        columns: Mapping[int, Sequence[str]],
        say: Say,
    ) -> None:
        self.read: Counter[str] = Counter()
        self.skipped: dict[str, Skipped] = {}
        self._file, self._bag, self._say = file, bag, say
        self._camera, self._columns = camera, columns
        self._moments = _moments(bag, camera)
        self._last_ns = 0  # bag time of the last message
        self._has_several = len(bag.topics_of(ACTION)) > 1
        self._situations: dict[str, tuple[int, ...]] = {}  # the last one by topic of statuses

    def add(self, raw: RawMessage) -> None:
        """Show a message, or count it."""
        number = self.read[raw.topic]
        self.read[raw.topic] += 1
        self._last_ns = raw.bag_time_ns
        try:
            message = self._bag.decode(raw)
            show = _SHOW[raw.message_type]
            show(self, raw, self._moment(raw, number, message), message)
        except (UnreadableMessage, UnusableImage, MemoryError) as error:
            self._skip(raw, number, str(error))
        except (KeyError, AttributeError, TypeError, ValueError) as error:  # its own definition
            self._skip(raw, number, f'{raw.message_type} is unknown here ({error})')

    def _skip(self, raw: RawMessage, number: int, message: str) -> None:
        skipped = self.skipped.setdefault(
            raw.topic, Skipped(self._say, f'message on {raw.topic}, number')
        )
        skipped.add('unusable', printable(message, 200), number)

    def _moment(self, raw: RawMessage, number: int, message: Any) -> Moment:
        if raw.topic == self._camera:
            return self._moments.of_image(number)
        stamp_ns = _stamp_ns(message)
        if stamp_ns:
            return self._moments.of_stamp(stamp_ns, raw.bag_time_ns)
        return self._moments.of_bag_time(raw.bag_time_ns)

    def add_answers(self, name: str, answers: Answers) -> None:
        """Show the answers of a policy."""
        for row in answers.rows:
            moment = Moment(row.stamp_ns, row.bag_time_ns, row.frame)
            self._add_action(name, moment, row.action, answers.names, row.token_probabilities)
            if not row.valid:
                text = f'not valid: {printable(row.invalid_reason)}'
                self._file.text(('log', name), moment, text, is_warning=True)

    def add_facts(self) -> None:
        """Show what the node has written about the episode, if it recorded it."""
        facts = {
            name.removeprefix(_FACTS): printable(text, 20_000)
            for name, text in self._bag.custom_data.items()
            if name.startswith(_FACTS)
        }
        if not facts:
            return
        listed = '\n'.join(f'- **{name}**: {text}' for name, text in facts.items() if text)
        self._file.document(('episode',), listed)
        success = 'a success' if facts.get('success') == 'true' else 'not marked as a success'
        lost = int(facts.get('messages_lost') or 0)
        text = f'end of the episode: {facts.get("end") or "unknown"}; {success}'
        text += f'; {lost} messages were not recorded' if lost else ''
        moment = self._moments.of_bag_time(self._last_ns)
        self._file.text(('log', 'episode'), moment, text, is_warning=lost > 0)

    # -- kinds of messages -------------------------------------------------------------------------

    def image(self, raw: RawMessage, moment: Moment, message: Any) -> None:
        rgb = np.ascontiguousarray(TO_RGB[raw.message_type](message))
        jpeg = simplejpeg.encode_jpeg(rgb, _QUALITY, 'RGB', '420')
        self._file.jpeg(('image', *_parts(raw.topic)), moment, jpeg)

    def state(self, raw: RawMessage, moment: Moment, message: Any) -> None:
        values = [float(value) for value in message.position]
        for name, value in zip(_names(message.name, len(values)), values, strict=True):
            self._file.number(('state', *_parts(raw.topic), name), moment, value)

    def twist(self, raw: RawMessage, moment: Moment, message: Any) -> None:
        for name, value in zip(_VELOCITIES, TWISTS[raw.message_type](message), strict=True):
            self._file.number(('velocity', *_parts(raw.topic), name), moment, float(value))

    def instruction(self, raw: RawMessage, moment: Moment, message: Any) -> None:
        text = printable(message.data) or '(none: hold)'
        self._file.text(('log', *_parts(raw.topic)), moment, text)

    def action(self, raw: RawMessage, moment: Moment, message: Any) -> None:
        source = f'{_RECORDED} {raw.topic}' if self._has_several else _RECORDED
        names = getattr(message, 'names', ())  # not before 1.0
        self._add_action(source, moment, message.action, names, message.token_probabilities)
        for name, duration in (
            ('inference', message.inference_time),
            ('image to action', message.latency),
        ):
            self._file.number(('latency_s', name, source), moment, nanoseconds(duration) / 1e9)

    def _add_action(
        self,
        source: str,
        moment: Moment,
        values: Sequence[float],
        names: Sequence[str],
        probabilities: Sequence[float],
    ) -> None:
        """Show row 0 of a chunk, as the plot does."""
        columns = names if _are_known(names, len(values)) else self._unknown(len(values))
        for name, value in zip(columns, values, strict=True):
            self._file.number(('action', name, source), moment, float(value))
        for name, value in zip(columns, probabilities, strict=False):  # of all rows
            self._file.number(('token_probability', name, source), moment, float(value))

    def _unknown(self, count: int) -> Sequence[str]:
        """Return names for columns without names: those that another source has for them."""
        return self._columns.get(count) or unknown_names(count)

    def status(self, raw: RawMessage, moment: Moment, message: Any) -> None:
        """Show a status that differs from the last one in what it says of the robot."""
        parts = (message, message.motion, message.recording)
        situation = (message.state, *(part.reason for part in parts))
        if situation == self._situations.get(raw.topic):
            return
        self._situations[raw.topic] = situation
        text = '; '.join(printable(part.message) for part in parts if part.message)
        is_warning = any(part.reason not in _NORMAL for part in parts)
        self._file.text(('log', *_parts(raw.topic)), moment, text, is_warning)


_SHOW: Mapping[str, Callable[[_Shown, RawMessage, Moment, Any], None]] = {
    **dict.fromkeys(TO_RGB, _Shown.image),
    **dict.fromkeys(TWISTS, _Shown.twist),
    STATE: _Shown.state,
    STRING: _Shown.instruction,
    ACTION: _Shown.action,
    STATUS: _Shown.status,
}


def _moments(bag: Bag, camera: str | None) -> Moments:
    stamps_ns, bag_times_ns = [], []
    for raw in bag.messages([camera] if camera else []):
        try:
            stamp_ns = _stamp_ns(bag.decode(raw))
        except UnreadableMessage:
            stamp_ns = 0
        stamps_ns.append(stamp_ns or raw.bag_time_ns)
        bag_times_ns.append(raw.bag_time_ns)
    return Moments(stamps_ns, bag_times_ns)


def _stamp_ns(message: Any) -> int:
    """Return the capture time of a message; 0 if it has none."""
    header = getattr(message, 'header', None)
    stamp = getattr(message, 'observation_stamp', None if header is None else header.stamp)
    return 0 if stamp is None else nanoseconds(stamp)


def _parts(topic: str) -> Parts:
    return tuple(topic.strip('/').split('/'))


def _names(names: Sequence[str], count: int) -> Sequence[str]:
    """Return a name for each of so many values."""
    return names if _are_known(names, count) else unknown_names(count)


def _are_known(names: Sequence[str], count: int) -> bool:
    return len(names) == count and all(names) and tuple(names) != unknown_names(count)


def _known_columns(bag: Bag, answers: Mapping[str, Answers]) -> dict[int, Sequence[str]]:
    """Return the names that columns have in recorded actions or in answers, by their number."""
    sources = [one.names for one in answers.values()]
    for topic in bag.topics_of(ACTION):
        for raw in itertools.islice(bag.messages([topic]), 1):
            with contextlib.suppress(UnreadableMessage):  # counted when it is shown
                sources.insert(0, tuple(getattr(bag.decode(raw), 'names', ())))
    return {len(names): names for names in sources[::-1] if _are_known(names, len(names))}


def _set_styles(file: RerunFile, replays: Sequence[str]) -> None:
    """Give each source the same colour in all views."""
    colors = dict(zip(replays, itertools.cycle(_COLORS), strict=False))
    for parts in file.entities:
        if parts[0] in _COMPARED:
            file.style(parts, parts[-1], colors.get(parts[-1], ORANGE))
