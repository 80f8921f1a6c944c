# SPDX-License-Identifier: Apache-2.0
"""What one robot records: the inputs of each answer of the policy, and the actions made of them.

Used by the executor's thread, which only hands over; the recorder's thread serializes the messages
and writes them.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from vla_ros.graph.stamps import to_time
from vla_ros.motion import Contract
from vla_ros.msg import VlaRecording, VlaStatus
from vla_ros.parameters.definition import Parameters
from vla_ros.recording import (
    Batch,
    Episode,
    Recorder,
    RecorderLimits,
    RecordingCounters,
    Track,
    episode_name,
    prepare,
)
from vla_ros.ros.image_subscription import TYPE_NAMES
from vla_ros.ros.latch import ros_home
from vla_ros.ros.log import Log
from vla_ros.ros.messages import action_message, recording_message
from vla_ros.ros.node_clock import NodeClock
from vla_ros.ros.output import Admitted
from vla_ros.scheduling import Outcome, Result
from vla_ros.types import Observation, PolicyInfo, PolicySpec

_HEAD_BYTES = 1000  # of a message in memory, beside its data
_WARN_EVERY_S = 10.0
# Parameters that vla_replay has as options.
REPLAY_OPTIONS = (
    *('revision', 'device', 'dtype', 'quantization', 'preprocessing', 'recomputed_patches'),
    *('contracts', 'sync_tolerance_s'),
    *('remote_token_file', 'remote_ca_file', 'remote_image'),
)


@dataclass(frozen=True)
class Heard(Observation):
    """An observation with the messages that it was made of.

    :param messages: image messages by camera, as they came.
    """

    messages: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordedPolicy:
    """The policy, as a recording names it.

    :param info: None if it is not known any more.
    :param contract: of the actions; None: there is none.
    """

    info: PolicyInfo | None
    spec: PolicySpec
    unnorm_key: str
    contract: Contract | None


@dataclass(frozen=True)
class RecordedTopics:
    """The names of the recorded topics.

    :param images: by camera.
    :param state: empty if the policy takes none.
    :param episode: of the facts that are known at the beginning.
    """

    images: Mapping[str, str]
    state: str
    instruction: str
    action: str
    status: str
    episode: str

    def types(self, transport: str) -> dict[str, str]:
        """Return the message type of each topic.

        :param transport: the parameter ``image_transport``.
        """
        strings = dict.fromkeys((self.episode, self.instruction), 'std_msgs/msg/String')
        states = {self.state: 'sensor_msgs/msg/JointState'} if self.state else {}
        images = dict.fromkeys(self.images.values(), TYPE_NAMES[transport])
        own = {self.action: 'vla_ros/msg/VlaAction', self.status: 'vla_ros/msg/VlaStatus'}
        return {**strings, **states, **images, **own}


def make_recorder(parameters: Parameters) -> Recorder:
    """Return the recorder that the parameters describe, not started."""
    folder = parameters.recording_folder
    recorder = Recorder(
        RecorderLimits(
            Path(folder).expanduser() if folder else ros_home() / 'vla_ros' / 'recordings',
            round(parameters.recording_min_free_gb * 1e9),
            round(parameters.recording_queue_mb * 1e6),
        )
    )
    recorder.put(prepare)
    return recorder


def make_track(recorder: Recorder) -> Track:
    """Return the track of one robot."""
    return Track(recorder, serialize_message)


class Recording:
    """Begins and ends the episodes of one robot, and records what belongs to them.

    An episode begins with the first answer of the policy to an instruction. It ends with the
    instruction, when the robot is switched off, when the clock jumps, and at deactivation.
    """

    def __init__(self, track: Track, clock: NodeClock, log: Log, robot: str, is_on: bool) -> None:
        """Begin without an episode.

        :param robot: its name; empty if it needs none.
        :param is_on: the parameter ``record``.
        """
        self._track, self._clock, self._log, self._robot = track, clock, log, robot
        self._is_on, self._awaits_instruction = is_on, False
        self._topics: RecordedTopics | None = None  # of the current episode
        self._may_mark = False  # whether the last episode is of the last instruction
        self._instruction = ''  # of the current episode
        self._starts_over = False  # whether the session was reset since the last answer
        self._last_ns = 0  # time of the episode's last message

    @property
    def awaits_episode(self) -> bool:
        """Whether the next answer begins an episode."""
        return self._is_on and not self._awaits_instruction and not self._track.is_open

    def switch(self, is_on: bool) -> None:
        """Record from the next instruction on, or nothing from now on.

        The session of the current instruction has begun already: a replay could not repeat it.
        """
        if is_on == self._is_on:
            return
        self._is_on = self._awaits_instruction = is_on
        self.end('RECORDING_OFF')

    def begin(
        self,
        instruction: str,
        topics: RecordedTopics,
        parameters: Parameters,
        policy: RecordedPolicy,
    ) -> None:
        """Begin an episode."""
        self._topics, self._instruction, self._starts_over = topics, instruction, False
        self._may_mark, self._last_ns = True, 0
        facts = _facts(self._robot, instruction, topics, parameters, policy)
        name = episode_name(self._clock.system_ns(), self._robot, instruction)
        self._track.begin(Episode(name, topics.types(parameters.image_transport), facts))
        first = [
            (topics.episode, String(data=json.dumps(facts))),
            (topics.instruction, String(data=instruction)),
        ]
        self._add(first)

    def end(self, why: str) -> None:
        """End the episode, if there is one.

        :param why: a reason's name, for the recording.
        """
        if self._topics is not None:
            self._add([(self._topics.instruction, String())])
        self._topics = None
        self._track.end(why)

    def expect(self) -> None:
        """Note that there is another instruction: a success will not be that of the last one."""
        self._may_mark = self._awaits_instruction = False

    def start_over(self) -> None:
        """Note that the session is reset: the next answer takes nothing from the one before."""
        self._starts_over = True

    def keep(self, result: Result, admitted: Admitted | None, frame_id: str) -> None:
        """Record the inputs of an answer, and its action.

        :param admitted: None if the action was not published.
        """
        topics, observation = self._topics, result.observation
        if topics is None or not isinstance(observation, Heard):
            return
        if result.outcome is not Outcome.PREDICTED:
            return
        if self._starts_over:
            self._add([(topics.instruction, String(data=one)) for one in ('', self._instruction)])
            self._starts_over = False
        data_bytes = sum(len(message.data) for message in observation.messages.values())
        # Made now: what waits for the disk must not keep the pixels, which no limit counts.
        self._add([*_messages(topics, observation, admitted, frame_id)], data_bytes)

    def keep_status(self, status: VlaStatus) -> None:
        """Record a status that was published."""
        if self._topics is not None:
            self._add([(self._topics.status, status)])

    def mark_success(self) -> str:
        """Mark the current episode, or else that of the last instruction, as a success.

        :returns: what to tell the operator; empty if there was none.
        """
        name = self._track.mark_success() if self._may_mark else ''
        if not name:
            return ''
        cause = self._track.report().cause
        told = f'the episode {name} is marked as a success'
        return told if cause is None else f'{told}, but it is not whole: {cause.message}'

    def report(self) -> tuple[tuple[RecordingCounters, ...], VlaRecording]:
        """Return the counters, and what the status says. Warn of what is not recorded."""
        told = self._track.report()
        cause = told.cause
        if cause is not None and self._is_on:
            self._log.warning(f'recording: {cause.message}', every_s=_WARN_EVERY_S)
        return (told.counters,), recording_message(self._is_on, told.episode, told.success, cause)

    def _add(self, messages: list[tuple[str, Any]], data_bytes: int = 0) -> None:
        """Record messages by their topics.

        :param data_bytes: of the images among them.
        """
        count = len(messages)
        size = count * _HEAD_BYTES + data_bytes
        self._track.add(Batch(self._times(count), size, messages))

    def _times(self, count: int) -> int:
        """Return the time of the first of so many messages; times only rise."""
        begin_ns = max(self._clock.now_ns(), self._last_ns + 1)
        self._last_ns = begin_ns + count
        return begin_ns


def _messages(
    topics: RecordedTopics, observation: Heard, admitted: Admitted | None, frame_id: str
) -> Iterator[tuple[str, Any]]:
    """Yield the parts of an observation, so that the last one completes it, and its action."""
    if observation.state is not None:
        state = JointState(position=observation.state.tolist())
        state.header.stamp = to_time(observation.state_stamp_ns or 0)
        yield topics.state, state
    for camera, message in observation.messages.items():
        yield topics.images[camera], message
    if admitted is not None:
        yield topics.action, action_message(admitted, frame_id)


def _facts(
    robot: str,
    instruction: str,
    topics: RecordedTopics,
    parameters: Parameters,
    policy: RecordedPolicy,
) -> dict[str, str]:
    """Return the facts of an episode that are known when it begins."""
    return {
        'robot': robot,
        'instruction': instruction,
        'unnorm_key': policy.unnorm_key,
        'cameras': json.dumps(dict(topics.images)),
        'policy': '' if policy.info is None else json.dumps(dataclasses.asdict(policy.info)),
        'spec': json.dumps(dataclasses.asdict(policy.spec)),
        'contract': _contract_text(policy.contract),
        'parameters': json.dumps(dataclasses.asdict(parameters)),
        'replay': _replay_command(topics, parameters, policy),
    }


def _contract_text(contract: Contract | None) -> str:
    return '' if contract is None else json.dumps(dataclasses.asdict(contract), default=str)


def _replay_command(topics: RecordedTopics, parameters: Parameters, policy: RecordedPolicy) -> str:
    """Return the command that gives the same actions from the recording, whose path is BAG."""
    differing = {
        name: getattr(parameters, name)
        for name in REPLAY_OPTIONS
        if getattr(parameters, name) != getattr(Parameters, name)
    }
    options = {
        'unnorm_key': policy.unnorm_key,
        **differing,
        'image': ','.join(topics.images.values()),
        'state': topics.state,
    }
    flags = [
        part
        for name, value in options.items()
        if value
        for part in (f'--{name.replace("_", "-").removesuffix("-s")}', f'{value}')
    ]
    rotated = ['--rotate-180'] if parameters.rotate_180 else []
    command = ['vla_replay', 'BAG', parameters.model, *flags, *rotated, '--output', 'REPLAYED']
    return shlex.join(command)
