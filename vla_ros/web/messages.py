# SPDX-License-Identifier: Apache-2.0
"""What goes between the server and a page: the one description of it, for both sides.

A page has two websockets. ``/api/messages`` carries JSON in both directions: every message is an
object whose ``type`` names one of the classes below, and its other keys are the fields of that
class. ``/api/images`` carries images to the page and :class:`Watch` and :class:`Shown` back, so
that no state and no stop ever waits behind an image.

Ages are seconds at the moment of sending, by the server's monotonic clock; a page adds the time
since the message arrived, by its own. No clock is shared, and no message has a time of day. NaN and
infinity are sent as null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from vla_ros.errors import VlaError
from vla_ros.reasons import State

# How often, seconds. A page that gets no State for 1.5 s has lost the server and must say so.
STATE_PERIOD_S = 0.5  # every robot's State, at least; at a change immediately
HERE_PERIOD_S = 0.5  # a page's Here
LOST_AFTER_S = 1.6  # a robot whose status is older is lost; the node sends one each second

WORDS: Mapping[State, str] = {
    State.UNKNOWN: 'nothing is known',
    State.UNCONFIGURED: 'no policy is loaded',
    State.LOADING: 'the policy is loading',
    State.WARMING_UP: 'the policy is warming up',
    State.READY: 'ready, not active',
    State.RUNNING: 'acting',
    State.HOLDING: 'holding',
    State.ERROR: 'failed',
}


class MessageError(VlaError, ValueError):
    """A message of a page that is not one of those below."""


# -- from the server to the page -------------------------------------------------------------------


@dataclass(frozen=True)
class RobotName:
    """A robot.

    :param robot: its key in all messages and paths: ``-``, ``left``, ``cell.left``.
    :param title: its name for people, ``/cell/left``.
    :param views: keys of its images: ``model`` (what the model saw, several cameras side by side),
        ``operator`` (drawn by the node, see docs/topics.md), and ``camera:TOPIC`` for each camera.
    """

    robot: str
    title: str
    views: tuple[str, ...] = ('model', 'operator')


@dataclass(frozen=True)
class Hello:
    """The first message, and again whenever a robot or a view comes or goes.

    :param page: this page's name for others, such as ``page 3``.
    :param robots: robots in the order of their titles.
    """

    page: str
    robots: tuple[RobotName, ...]
    state_period_s: float = STATE_PERIOD_S
    here_period_s: float = HERE_PERIOD_S


@dataclass(frozen=True)
class LeaseState:
    """Who holds the instruction of a robot (docs/console.md).

    :param holder: the page's name; empty: no page.
    :param is_yours: whether it is the page that gets this message.
    :param age_s: time since the last renewal; null without a holder.
    :param limit_s: the node's ``max_instruction_age_s``; 0: off; null: unknown.
    :param refusal: why no page can instruct now; empty: one can. With ``can_set_limit`` the command
        ``set_limit`` ends the cause.
    :param ended: why the last lease ended, one sentence; empty at first and while one holds.
    :param was_told: whether it ended by a command of an operator: stop, disable or hold.
    """

    holder: str = ''
    is_yours: bool = False
    age_s: float | None = None
    limit_s: float | None = None
    refusal: str = ''
    can_set_limit: bool = False
    ended: str = ''
    was_told: bool = False


@dataclass(frozen=True)
class RobotState:
    """The state of one robot, in each STATE_PERIOD_S and at each change (at most 10 a second).

    :param link: ``live``; ``lost``: no status for LOST_AFTER_S, so the rest is old and the robot's
        state unknown; ``never``: no status came yet.
    :param status_age_s: age of the node's last status; null if none came.
    :param state: name of the state, such as ``HOLDING``.
    :param words: the state in plain words; while the link is not live, what that means.
    :param reason: name of the reason, ``NONE`` without one; its number if this version lacks it.
    :param message: state and reason in a sentence, with what to do.
    :param elapsed_s: time in this state.
    :param instruction: the instruction in force; empty: none.
    :param action_age_s: time since the last action arrived; null if none came.
    :param actions_hz: actions a second, over the last two seconds.
    :param motion: reason why the last action moved nothing; empty if there is none.
    :param here_ms: ``now_ms`` of the last Here of this page that the server has read; null before
        the first. A page whose own clock is far beyond it is shown the past.
    """

    robot: str
    link: str = 'never'
    status_age_s: float | None = None
    state: str = 'UNKNOWN'
    words: str = WORDS[State.UNKNOWN]
    reason: str = 'NONE'
    message: str = ''
    elapsed_s: float | None = None
    instruction: str = ''
    action_age_s: float | None = None
    actions_hz: float = 0.0
    motion: str = ''
    lease: LeaseState = field(default_factory=LeaseState)
    here_ms: float | None = None


@dataclass(frozen=True)
class Details:
    """What changes slowly or matters less, once a second for each robot.

    :param policy: fields of msg/VlaPolicyInfo.msg.
    :param counters: fields of msg/VlaCounters.msg.
    :param latencies: ``image_to_action`` and ``inference``, each with p50_s, p95_s, p99_s.
    :param motion: fields of msg/VlaMotion.msg.
    :param recording: fields of msg/VlaRecording.msg, and ``folder``: the node's
        ``recording_folder``, or what that is by default.
    """

    robot: str
    policy: Mapping[str, Any] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    latencies: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    motion: Mapping[str, Any] = field(default_factory=dict)
    recording: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """The newest action of a robot, at most 10 a second.

    :param stamp: capture time of its observation [ns], as text: it is the ``stamp`` of the image of
        view ``model`` that the action belongs to.
    :param space: name of the action space, such as ``POSE_DELTA``.
    :param frame: frame of the displacements; may be empty.
    :param unnorm_key: data set that defines the units.
    :param names: of the columns.
    :param rows: the chunk, horizon x names, un-normalised.
    :param period_s: time between two rows; 0: unknown.
    :param gripper: column of the gripper and its values for closed and open; column -1: none.
    :param probabilities: of each token, row by row; empty if the policy has none.
    :param latency_s: from capture to publishing.
    :param valid_s: time from publishing until row 0 is no longer valid.
    """

    robot: str
    sequence: int
    stamp: str
    age_s: float
    instruction: str
    space: str
    frame: str
    unnorm_key: str
    names: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]
    period_s: float
    gripper: Mapping[str, float]
    probabilities: tuple[float, ...]
    inference_s: float
    latency_s: float
    valid_s: float


@dataclass(frozen=True)
class Samples:
    """Latency and rate over time: first the last five minutes, then one row a second.

    :param columns: ``age_s``, ``actions_hz``, ``image_to_action_s``, ``inference_s`` (the medians
        of that second; null without an action).
    :param rows: oldest first.
    """

    robot: str
    rows: tuple[tuple[float | None, ...], ...]
    columns: tuple[str, ...] = ('age_s', 'actions_hz', 'image_to_action_s', 'inference_s')


@dataclass(frozen=True)
class Event:
    """A span of the timeline in which state and reason stayed the same.

    :param number: 1, 2, 3, ...: the same number is the same span.
    :param age_s: time since it began.
    :param lasted_s: its duration; null: it lasts.
    :param is_fault: whether it is a fault and not the operator's decision or the normal course.
    :param times: how often it came in a row, with less than a second between.
    """

    number: int
    age_s: float
    lasted_s: float | None
    state: str
    reason: str
    message: str
    is_fault: bool
    times: int = 1


@dataclass(frozen=True)
class Events:
    """The newest 50 spans of a robot, oldest first; sent at first and at each change."""

    robot: str
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Answer:
    """The result of a command.

    :param id: that of the command; 0 for one by POST.
    :param ok: whether it was carried out.
    :param confirmed: whether the node answered. A stop that is not confirmed may not have happened:
        the page says so, and what to do.
    :param message: one line for people.
    :param took_s: time until the answer.
    """

    id: int
    robot: str
    command: str
    ok: bool
    confirmed: bool
    message: str
    took_s: float = 0.0


@dataclass(frozen=True)
class Finding:
    """A finding of the doctor; ``level`` is OK, WARN or FAIL."""

    level: str
    check: str
    text: str
    advice: str = ''


@dataclass(frozen=True)
class Doctor:
    """The doctor's findings on one robot's node; sent when it starts and ends.

    :param problem: why it could not run; empty if it could.
    """

    robot: str
    running: bool
    age_s: float | None = None
    findings: tuple[Finding, ...] = ()
    problem: str = ''


ToPage = Hello | RobotState | Details | Action | Samples | Events | Answer | Doctor


@dataclass(frozen=True)
class ImageHeader:
    """The header of a binary message on ``/api/images``.

    The message is two bytes, big-endian, with the length of this header as JSON; the header; and a
    JPEG.

    :param number: 1, 2, 3, ... on this websocket; :class:`Shown` tells it back.
    :param stamp: capture time [ns], as text.
    :param age_s: time since the server received the image.
    """

    robot: str
    view: str
    number: int
    stamp: str
    age_s: float
    width: int
    height: int


# -- from the page to the server -------------------------------------------------------------------


@dataclass(frozen=True)
class Here:
    """The page is open, and its user can see it: send it each HERE_PERIOD_S while it is visible.

    It renews the leases of the robots that it names and this page holds. A page in the background
    sends it without robots.

    :param now_ms: the page's own clock (``performance.now()``).
    """

    now_ms: float
    robots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Instruct:
    """Give an instruction, and take the robot's lease; answered by :class:`Answer`."""

    id: int
    robot: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command; answered by :class:`Answer`. Each can also be sent by POST.

    :param command: ``stop``, ``reset``, ``enable``, ``disable``, ``hold`` (end the instruction),
        ``set_limit`` (set ``max_instruction_age_s`` to LIMIT_S), ``record`` and ``record_off``
        (set the parameter ``record``), ``success`` (mark the recorded episode, and end a goal as
        reached), ``doctor``.
    """

    id: int
    robot: str
    command: str


@dataclass(frozen=True)
class Watch:
    """On ``/api/images``: the images that the page wants, in place of those before.

    :param images: pairs of robot and view; at most 8.
    """

    images: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Shown:
    """On ``/api/images``: the image of that number arrived. At most two are on their way."""

    number: int


FromPage = Here | Instruct | Command | Watch | Shown

COMMANDS = (
    *('stop', 'reset', 'enable', 'disable', 'hold', 'set_limit', 'record', 'record_off'),
    *('success', 'doctor'),
)
LIMIT_S = 2.0  # of set_limit

_TYPES: dict[type, str] = {
    Hello: 'hello',
    RobotState: 'state',
    Details: 'details',
    Action: 'action',
    Samples: 'samples',
    Events: 'events',
    Answer: 'answer',
    Doctor: 'doctor',
    Here: 'here',
    Instruct: 'instruct',
    Command: 'command',
    Watch: 'watch',
    Shown: 'shown',
}
_READERS = {_TYPES[kind]: kind for kind in (Here, Instruct, Command, Watch, Shown)}
_MAX_ROBOTS = 64
_MAX_TEXT = 4000


def to_json(message: ToPage | ImageHeader) -> str:
    """Return a message as JSON text."""
    content = _plain(message)
    if type(message) in _TYPES:
        content = {'type': _TYPES[type(message)], **content}
    return json.dumps(content, separators=(',', ':'), allow_nan=False)


def image_frame(header: ImageHeader, jpeg: bytes) -> bytes:
    """Return a binary message of ``/api/images``."""
    told = to_json(header).encode()
    return len(told).to_bytes(2, 'big') + told + jpeg


def from_json(text: str) -> FromPage:
    """Return a page's message.

    :raises MessageError: if it is none.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise MessageError('the message is not JSON', value=text[:80]) from None
    if not isinstance(content, dict):
        raise MessageError('the message is no object', value=text[:80])
    name = content.pop('type', None)
    kind = _READERS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise MessageError(
            'the message has an unknown type', value=name, expected=', '.join(_READERS)
        )
    wanted = {one.name for one in fields(kind)}
    if not content.keys() <= wanted:
        raise MessageError(f'a message {name} has unknown keys', expected=', '.join(wanted))
    try:
        return _checked(kind, content)
    except (KeyError, TypeError, ValueError, OverflowError):  # the last: of huge whole numbers
        raise MessageError(f'a message {name} has missing or wrong values', value=content) from None


def _checked(kind: type, content: Mapping[str, Any]) -> FromPage:
    """Return the message.

    :raises KeyError, TypeError, ValueError, OverflowError: if a value has another form.
    """
    if kind is Here:
        robots = content.get('robots', [])
        _require(isinstance(robots, list) and len(robots) <= _MAX_ROBOTS)
        return Here(_number(content['now_ms']), tuple(_text(one) for one in robots))
    if kind is Instruct:
        return Instruct(_whole(content['id']), _text(content['robot']), _text(content['text']))
    if kind is Command:
        command = _text(content['command'])
        _require(command in COMMANDS)
        return Command(_whole(content['id']), _text(content['robot']), command)
    if kind is Watch:
        images = content['images']
        _require(isinstance(images, list) and len(images) <= 8)
        return Watch(tuple((_text(robot), _text(view)) for robot, view in images))
    return Shown(_whole(content['number']))


def _require(is_so: bool) -> None:
    if not is_so:
        raise ValueError


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError
    return value


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _plain(value: Any) -> Any:
    """Return the value as JSON has it: without dataclasses, tuples and numbers that JSON lacks."""
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
