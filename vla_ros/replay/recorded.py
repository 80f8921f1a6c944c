# SPDX-License-Identifier: Apache-2.0
"""The actions of the node and the velocities in a recording."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.console import Say
from vla_ros.replay.bag import Bag, UnreadableMessage
from vla_ros.share import share_file

ACTION, STATUS = 'vla_ros/msg/VlaAction', 'vla_ros/msg/VlaStatus'
_Values = Callable[[Any], Sequence[float]]
_OLD_ACTIONS = ('VlaAction_0.1.msg',)  # the newest first


def message_definitions() -> dict[str, list[str]]:
    """Return the definitions of our messages by type, of each the newest first.

    Recordings in sqlite3 do not contain the definitions of their messages.
    """
    return {ACTION: action_definitions(), STATUS: [_status_definition()]}


def _status_definition() -> str:
    """Return the definition of VlaStatus with those of its parts, as mcap has it."""
    status = share_file('msg/VlaStatus.msg')
    parts = (file for file in sorted(status.parent.glob('Vla*.msg')) if file != status)
    texts = [f'MSG: vla_ros/{file.stem}\n{file.read_text()}' for file in parts]
    return f'\n{"=" * 80}\n'.join([status.read_text(), *texts])


def action_definitions() -> list[str]:
    """Return all definitions of VlaAction, the newest first."""
    folder = Path(__file__).with_name('old_messages')
    files = [share_file('msg/VlaAction.msg'), *(folder / name for name in _OLD_ACTIONS)]
    return [file.read_text() for file in files]


@dataclass(frozen=True)
class Recorded:
    """The values of one topic.

    :param is_action: whether the values have the units of actions; otherwise they are velocities,
        along x, y, z in m/s and about x, y, z in rad/s.
    :param bag_times_ns: [N], when each was recorded, by the recorder's clock.
    :param values: [N][D].
    """

    topic: str
    is_action: bool
    bag_times_ns: Sequence[int]
    values: Sequence[Sequence[float]]


def read_recorded(bag: Bag, say: Say) -> list[Recorded]:
    """Return all actions on topics whose name ends in ``action``, and all twists.

    Messages that can't be read are dropped and reported.

    :raises BagError: where the recording is damaged.
    """
    actions = [name for name in bag.topics_of(ACTION) if name.endswith('action')]
    twists = bag.topics_of(*TWISTS)
    return [
        *(_read(bag, topic, {ACTION: _action_values}, say) for topic in actions),
        *(_read(bag, topic, TWISTS, say) for topic in twists),
    ]


def _read(bag: Bag, topic: str, values_of: Mapping[str, _Values], say: Say) -> Recorded:
    """Return the values of a topic.

    :param values_of: the values of a message, by type; messages of other types are reported.
    """
    times_ns, values, unreadable, others = [], [], 0, 0
    for raw in bag.messages([topic]):
        if raw.message_type not in values_of:
            others += 1
            continue
        try:
            numbers = [float(one) for one in values_of[raw.message_type](bag.decode(raw))]
        except (UnreadableMessage, AttributeError, TypeError) as error:  # its own definition
            if not unreadable:
                say(f'{error}; the plot does not show it')
            unreadable += 1
            continue
        times_ns.append(raw.bag_time_ns)
        values.append(numbers)
    if unreadable:
        say(f'{unreadable} messages on {topic} could not be read')
    if others:
        say(f'{others} messages on {topic} are of other types; the plot does not show them')
    if bag.topics[topic].missing:
        say(f'{topic}: {bag.topics[topic].missing_message}')
    return Recorded(topic, ACTION in values_of, times_ns, values)


def _action_values(message: Any) -> list[float]:
    return list(message.action)


def _twist_values(twist: Any) -> list[float]:
    linear, angular = twist.linear, twist.angular
    return [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]


TWISTS: Mapping[str, _Values] = {
    'geometry_msgs/msg/Twist': _twist_values,
    'geometry_msgs/msg/TwistStamped': lambda message: _twist_values(message.twist),
}


def column(recorded: Recorded, index: int) -> list[float]:
    """Return one dimension over time, [N]; NaN where an action is shorter."""
    return [row[index] if index < len(row) else math.nan for row in recorded.values]
