"""Reader of recordings with the library `rosbags`: topics, and messages as they were recorded.

Independent of the meaning of messages. A recording may be damaged or malicious: every error while
it is read becomes one error that names the recording.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vla_ros.errors import VlaError

_NS_PER_S = 10**9
_SUFFIXES = ('.mcap', '.db3', '.zstd', '.yaml')
_REPAIR = 'record it again, or try `ros2 bag reindex` on it'


class BagError(VlaError):
    """A recording that can't be read, or lacks a requested topic."""


class UnreadableMessage(VlaError, ValueError):
    """A message that can't be decoded as its type."""


@dataclass(frozen=True)
class Topic:
    """A recorded topic.

    :param message_type: such as ``sensor_msgs/msg/Image``.
    :param count: number of messages, according to the recording's metadata.
    """

    message_type: str
    count: int


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
        if self.path.is_dir() and not (self.path / 'metadata.yaml').is_file():
            raise BagError(
                f'bag {self.path} has no metadata.yaml',
                'name the folder that ros2 bag wrote, or make the file with `ros2 bag reindex`',
            )
        for file in self.path.iterdir() if self.path.is_dir() else [self.path]:
            if file.suffix in _SUFFIXES and not file.is_file():  # a pipe would be waited for
                raise BagError(f'{file} is not a regular file', 'name a folder that ros2 bag wrote')
        try:
            self._reader = Reader(self.path)
            self._reader.open()
        except Exception as error:  # of sqlite3, struct, YAML, an assertion ...
            raise BagError(f'bag {self.path} cannot be read ({_text(error)})', _REPAIR) from error
        self.topics = {
            connection.topic: Topic(connection.msgtype, connection.msgcount)
            for connection in self._reader.connections
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def topics_of(self, *message_types: str) -> list[str]:
        """Return the topics of these message types, sorted."""
        return sorted(n for n, topic in self.topics.items() if topic.message_type in message_types)

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """Yield the messages on these topics, in the order of the recorder's clock.

        :raises BagError: where the recording is damaged.
        """
        connections = [one for one in self._reader.connections if one.topic in topics]
        if not connections:
            return
        messages = self._reader.messages(connections)
        while True:
            try:
                connection, bag_time_ns, data = next(messages)
            except StopIteration:
                return
            except Exception as error:
                raise BagError(
                    f'bag {self.path} is damaged within its messages ({_text(error)})', _REPAIR
                ) from error
            yield RawMessage(connection.topic, connection.msgtype, bag_time_ns, data)

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
                return types.deserialize_cdr(message.data, message.message_type)
            except Exception as error:  # too short, too long or not text: perhaps another version
                failure = error
        raise UnreadableMessage(
            f'a message on {message.topic} is not a {message.message_type} ({_text(failure)})'
        ) from failure

    def _stores(self, message_type: str) -> list[Typestore]:
        """Return the type as the recording defines it, or else by each of ``definitions``."""
        if message_type in self._common.fielddefs:
            return [self._common]
        if message_type not in self._types:
            recorded = [
                one.msgdef.data
                for one in self._reader.connections
                if one.msgtype == message_type
                and one.msgdef.format is MessageDefinitionFormat.MSG
                and one.msgdef.data
            ]
            texts = recorded[-1:] or self._definitions.get(message_type, ())
            self._types[message_type] = [_with_type(message_type, text) for text in texts]
        return self._types[message_type]


def _with_type(message_type: str, definition: str) -> Typestore:
    """Return ROS's common types and one more."""
    types = get_typestore(Stores.LATEST)
    new = get_types_from_msg(definition, message_type)
    types.register({k: v for k, v in new.items() if k not in types.fielddefs})
    return types


def nanoseconds(time: Any) -> int:
    """Return the nanoseconds of a builtin_interfaces/Time."""
    return int(time.sec) * _NS_PER_S + int(time.nanosec)


def _text(error: Exception) -> str:
    """Return the error's type and first line; some of the library's errors have no text."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0][:200]}' if lines else type(error).__name__
