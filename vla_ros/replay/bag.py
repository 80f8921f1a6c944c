# SPDX-License-Identifier: Apache-2.0
"""Reader of recordings: topics, and messages as they were recorded.

Independent of the meaning of messages. Every message of the files is either yielded or counted. A
recording may be damaged or malicious: every error while it is read becomes one error that names the
recording. The library `rosbags` decodes messages.
"""

from __future__ import annotations

import errno
import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vla_ros.errors import VlaError
from vla_ros.replay.folder import find_files, open_file
from vla_ros.replay.storage import (
    MAX_BYTES,
    ZSTD_MAGIC,
    Storage,
    StorageError,
    error_text,
    unpack,
)

_NS_PER_S = 10**9
_MORE_FILES = 'allow more open files than the recording has: `ulimit -n 4096`'
_COPY_AGAIN = 'check its permissions, or copy it again from where it was made'


class BagError(VlaError):
    """A recording that can't be read, or lacks a requested topic."""


class UnreadableMessage(VlaError, ValueError):
    """A message that can't be decoded as its type."""


@dataclass(frozen=True)
class Topic:
    """A recorded topic.

    :param message_types: such as ``sensor_msgs/msg/Image``; mostly one.
    :param count: number of messages in the files.
    :param announced: the same by the recording's metadata or the files' statistics.
    """

    message_types: Sequence[str]
    count: int
    announced: int = 0

    @property
    def missing(self) -> int:
        """Number of messages that are announced and not in the files."""
        return max(0, self.announced - self.count)

    @property
    def missing_message(self) -> str:
        """What is known of the missing messages, for a report."""
        return f'the recording announces {self.announced} messages and has {self.count}'


@dataclass(frozen=True)
class RawMessage:
    """A message that is not decoded.

    :param bag_time_ns: when it was recorded, nanoseconds of the recorder's clock.
    """

    topic: str
    message_type: str
    bag_time_ns: int
    data: bytes


class Bag:
    """A recording, open within a ``with`` statement.

    :ivar topics: by name.
    :ivar custom_data: what the recorder says of it in metadata.yaml, texts by name.
    :raises BagError: on entering, if there is no such recording, or it can't be read.
    """

    def __init__(self, path: Path, definitions: Mapping[str, Sequence[str]] | None = None) -> None:
        """Prepare a recording, without opening it.

        :param path: a folder with metadata.yaml, or a single .mcap or .db3 file.
        :param definitions: texts of .msg files by message type, the newest first, for types that
            are neither among ROS's common ones nor defined in the recording.
        """
        self.path = path
        self._definitions = dict(definitions or {})
        self._common = get_typestore(Stores.LATEST)
        self._types: dict[str, list[Typestore]] = {}  # by message type, in the order of trial

    def __enter__(self) -> Bag:
        if not self.path.exists():
            raise BagError(f'bag {self.path} does not exist', 'name a folder that ros2 bag wrote')
        with ExitStack() as stack:
            try:
                files = find_files(self.path)
                self._files = [open_file(path, stack) for path in files.paths]
                self.topics = _topics(self._files, files.announced)
                self.custom_data = files.custom_data
            except StorageError as error:
                raise BagError(
                    f'bag {self.path} cannot be read: {error.what}', error.advice
                ) from error
            except Exception as error:  # mostly of the system
                text = f'bag {self.path} cannot be read ({error_text(error)})'
                too_many = isinstance(error, OSError) and error.errno == errno.EMFILE
                raise BagError(text, _MORE_FILES if too_many else _COPY_AGAIN) from error
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def topics_of(self, *message_types: str) -> list[str]:
        """Return the topics with messages of these types, sorted."""
        wanted = {*message_types}
        return sorted(name for name, one in self.topics.items() if wanted & {*one.message_types})

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """Yield the messages on these topics, in the order of the recorder's clock.

        :raises BagError: where the recording is damaged.
        """
        # Files overlap in time if recordings were merged.
        merged = heapq.merge(
            *(self._messages_of(file, topics) for file in self._files), key=itemgetter(0)
        )
        return (message for _, message in merged if message is not None)

    def _messages_of(
        self, file: Storage, topics: Collection[str]
    ) -> Iterator[tuple[int, RawMessage | None]]:
        """Yield the messages of a file with their times.

        None, at the time of the first message, comes before: so no file is read before its time.
        """
        wanted = {
            key: one
            for key, one in file.channels.items()
            if one.topic in topics and key in file.first_ns
        }
        if not wanted:
            return
        yield min(file.first_ns[key] for key in wanted), None
        try:
            for bag_time_ns, key, data in file.messages(wanted):
                one = wanted[key]
                yield (
                    bag_time_ns,
                    RawMessage(one.topic, one.message_type, bag_time_ns, data),
                )
        except StorageError as error:
            text = f'bag {self.path} is damaged within its messages: {error.what}'
            raise BagError(text, error.advice) from error
        except Exception as error:  # of sqlite3, struct, zstd ...
            text = f'bag {self.path} is damaged within its messages ({error_text(error)})'
            raise BagError(text, file.recovery) from error

    def decode(self, message: RawMessage) -> Any:
        """Return the message with ROS's names of its fields; arrays of numbers are NumPy's.

        :raises UnreadableMessage: if the message is not of its type, or that type is unknown.
        """
        failure: Exception = ValueError('the recording does not define it')
        try:
            stores = self._stores(message.message_type)
        except Exception as error:  # a malformed definition
            stores, failure = [], error
        for types in stores:
            try:
                data = message.data
                if data.startswith(ZSTD_MAGIC):  # CDR begins with 0
                    data = unpack(data, MAX_BYTES)
                return types.deserialize_cdr(data, message.message_type)
            except Exception as error:  # too short, too long or not text: perhaps another version
                failure = error
        raise UnreadableMessage(
            f'a message on {message.topic} is not a {message.message_type} ({error_text(failure)})'
        ) from failure

    def _stores(self, message_type: str) -> list[Typestore]:
        """Return the type as the recording defines it, or else by each of ``definitions``."""
        if message_type in self._common.fielddefs:
            return [self._common]
        if message_type not in self._types:
            recorded = {
                one.definition: None
                for file in self._files
                for one in file.channels.values()
                if one.message_type == message_type and one.definition
            }
            texts = list(recorded) or self._definitions.get(message_type, ())
            self._types[message_type] = [_with_type(message_type, text) for text in texts]
        return self._types[message_type]


def _topics(files: Sequence[Storage], announced: Mapping[tuple[str, str], int]) -> dict[str, Topic]:
    """Return the topics of all files, and those that only metadata.yaml announces, sorted.

    :param announced: messages by topic and type.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by topic, then type
    by_files: Counter[str] = Counter()
    for file in files:
        for key, one in file.channels.items():
            counts[one.topic][one.message_type] += file.counts[key]
            # What one file lacks is not made up for by another, which may have no statistics.
            by_files[one.topic] += max(file.announced.get(key, 0), file.counts[key])
    by_metadata: Counter[str] = Counter()
    for (topic, message_type), count in announced.items():
        by_metadata[topic] += count
        counts[topic][message_type] += 0
    return {
        topic: Topic(
            sorted(+types or types),  # a type without messages does not matter
            types.total(),
            max(by_files[topic], by_metadata[topic]),
        )
        for topic, types in sorted(counts.items())
    }


def _with_type(message_type: str, definition: str) -> Typestore:
    """Return ROS's common types and one more."""
    types = get_typestore(Stores.LATEST)
    new = get_types_from_msg(definition, message_type)
    types.register({k: v for k, v in new.items() if k not in types.fielddefs})
    return types


def nanoseconds(time: Any) -> int:
    """Return the nanoseconds of a builtin_interfaces/Time."""
    return int(time.sec) * _NS_PER_S + int(time.nanosec)
