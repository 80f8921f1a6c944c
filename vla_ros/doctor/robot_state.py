# SPDX-License-Identifier: Apache-2.0
"""Judges the topics with the robot's state: ``state``, ``joint_states`` and ``ee_pose``.

Independent of ROS; ``listening.py`` hears them.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vla_ros.clock import MAX_CLOCK_SKEW_S
from vla_ros.doctor.camera import Offer
from vla_ros.doctor.facts import Facts
from vla_ros.doctor.findings import Finding, fail, ok, warn
from vla_ros.motion.state import EE_POSE, JOINT_STATES, Joints, state_topics
from vla_ros.motion.state_parts import state_of
from vla_ros.parameters.check import has_tf2
from vla_ros.parameters.definition import JOINT_MOTIONS, Parameters
from vla_ros.text import quoted
from vla_ros.types import PolicyError, PolicySpec

STATE = 'state'
_TYPES = {
    STATE: 'sensor_msgs/msg/JointState',
    JOINT_STATES: 'sensor_msgs/msg/JointState',
    EE_POSE: 'geometry_msgs/msg/PoseStamped',
}
_NAMES_SHOWN = 20
_NORM_TOLERANCE = 0.01  # of a quaternion


@dataclass(frozen=True)
class Need:
    """What the node needs of a topic.

    :param name: of the topic, without the robot's prefix.
    :param why: who needs it.
    :param limit: name of the parameter that bounds the time between two messages.
    :param most_s: that time [s].
    :param age_limit: name of the parameter that bounds the age of a message.
    :param most_age_s: that age [s].
    :param frame_id: frame that the messages must have; empty: any, or the topic has none.
    :param length: number of values that a message must have; None: any.
    :param joints: names of the joints that all messages together must have.
    """

    name: str
    why: str
    limit: str
    most_s: float
    age_limit: str
    most_age_s: float
    frame_id: str = ''
    length: int | None = None
    joints: tuple[str, ...] = ()

    @property
    def message_type(self) -> str:
        """Name of the type that the node subscribes to."""
        return _TYPES[self.name]


@dataclass(frozen=True)
class Sample:
    """A message that was heard.

    :param stamp_ns: of its header; 0: none.
    :param age_s: age on arrival, by its stamp.
    :param frame: of its header.
    :param fault: why the node would reject it; empty if it would not.
    :param cause: the likely cause of its age, and what to do; empty if unknown.
    :param joints: names of its joints.
    """

    stamp_ns: int
    age_s: float
    frame: str = ''
    fault: str = ''
    cause: str = ''
    joints: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeardState:
    """All that was heard on a topic.

    :param topic: full name.
    :param elsewhere: other topics of that type.
    :param seconds: duration of listening.
    """

    topic: str
    offers: Sequence[Offer]
    elsewhere: Sequence[str]
    samples: Sequence[Sample]
    seconds: float


def spec_of(facts: Facts) -> PolicySpec | None:
    """Return the spec of the policy; None if it is not known yet."""
    try:
        return facts.inspection.spec(facts.unnorm_key or None) if facts.inspection else None
    except PolicyError:  # the check of unnorm_key has said why
        return None


def needs_of(facts: Facts, parameters: Parameters, robot: int) -> list[Need]:
    """Return what one robot's state needs, and its motion.

    :param robot: its number in the parameter ``robots``.
    :raises ContractError: if the contract tells no state, or one of another length, and must.
    """
    spec, frame_id = spec_of(facts), parameters.frame_ids[robot]
    needs = []
    if spec is not None and spec.state_dim:
        parts = state_of(spec, facts.contract, parameters.state_from)
        # A state is as near to the images as the tolerance, before or after them.
        gap = 'sync_tolerance_s', 2 * parameters.sync_tolerance_s
        age = 'state_timeout_s', parameters.state_timeout_s
        for topic in state_topics(parts) or (STATE,):
            if topic == EE_POSE and parameters.tool_frames[robot]:
                continue  # tf2 has the pose
            of_tool = getattr(facts.contract, 'frame', '') == 'end_effector'
            is_any = topic != EE_POSE or (of_tool and parameters.motion != 'pose')
            frame = '' if is_any else frame_id
            length = spec.state_dim if topic == STATE else None
            of_parts = [part.joints for part in parts if isinstance(part, Joints)]
            joints = tuple(itertools.chain(*of_parts)) if topic == JOINT_STATES else ()
            needs.append(Need(topic, 'the state', *gap, *age, frame, length, joints))
    if parameters.motion in JOINT_MOTIONS:
        limit = 'max_joint_age_s', parameters.max_joint_age_s
        joints = getattr(facts.contract, 'moving_joints', ())
        motion = f'motion:={parameters.motion}'
        needs.append(Need(JOINT_STATES, motion, *limit, *limit, joints=joints))
    if reason := _motion_needs_pose(parameters, robot):
        limit = 'max_pose_age_s', parameters.max_pose_age_s
        of_tool = getattr(facts.contract, 'frame', '') == 'end_effector'
        if of_tool and parameters.motion == 'twist':
            frame_id = ''  # the twists are along the axes of the tool, wherever its pose is told
        needs.append(Need(EE_POSE, reason, *limit, *limit, frame_id))
    return needs


def _motion_needs_pose(parameters: Parameters, robot: int) -> str:
    """Return the parameter by which motions need the pose of the tool; empty if none does."""
    if parameters.motion not in ('twist', 'pose') or parameters.tool_frames[robot]:
        return ''
    if parameters.motion == 'pose':
        return 'motion:=pose'
    if parameters.chunk_timing == 'from_pose':
        return 'chunk_timing:=from_pose'
    return 'workspace_m' if parameters.workspaces[robot] else ''


def judge_state(heard: HeardState, need: Need) -> Iterator[Finding]:
    """Yield the findings about one topic."""
    for finding in _judge(heard, need):
        yield replace(finding, text=f'{heard.topic}: {finding.text}')


def _judge(heard: HeardState, need: Need) -> Iterator[Finding]:
    there = ', '.join(heard.elsewhere) or 'none'
    remap = f'or remap it (-r {need.name}:=TOPIC); topics of that type: {there}'
    others = sorted({offer.message_type for offer in heard.offers} - {need.message_type})
    if not heard.offers:
        yield fail(
            f'no publisher, and {need.why} needs it', f'publish {need.message_type} there, {remap}'
        )
    elif others:
        yield fail(
            f'it carries {", ".join(others)}, the node expects {need.message_type}',
            f'publish that type, {remap}',
        )
    elif not heard.samples:
        yield fail(
            f'no message arrived in {heard.seconds:g} s, and {need.why} needs it',
            'check that its publisher sends (ros2 topic hz), the network and ROS_DOMAIN_ID',
        )
    elif unusable := _unusable(heard.samples, need) or _unnamed(heard.samples, need):
        yield unusable
    else:
        if len(heard.offers) > 1 and need.name != JOINT_STATES:
            names = ', '.join(offer.node for offer in heard.offers)
            yield warn(
                f'messages of {len(heard.offers)} publishers mix: {names}',
                'stop all but one, or remap them',
            )
        yield _judge_rate(heard, need)


def _unusable(samples: Sequence[Sample], need: Need) -> Finding | None:
    """Return why the node would reject what comes there; None if it would not."""
    count, last = len(samples), samples[-1]
    if any(one.stamp_ns == 0 for one in samples):
        return fail(
            'its messages have no stamp', 'let the driver set header.stamp to when it measured'
        )
    faults = [one.fault for one in samples if one.fault]
    if faults:
        return fail(
            f'{len(faults)} of {count} messages are not usable: {faults[-1]}', 'correct the driver'
        )
    frames = dict.fromkeys(one.frame.lstrip('/') for one in samples)
    if need.frame_id and set(frames) != {need.frame_id.lstrip('/')}:
        found = f'it is in the frame {", ".join(map(repr, frames))}, and frame_id is '
        found += repr(need.frame_id)
        if len(frames) == 1 and has_tf2():
            return warn(f'{found}: tf2 must know how they lie', 'see ros2 run tf2_ros tf2_echo')
        return fail(found, 'publish the pose in that frame, correct frame_id, or install tf2_ros')
    age_s = statistics.median(one.age_s for one in samples)
    if not -MAX_CLOCK_SKEW_S <= age_s <= need.most_age_s:
        old = f'{age_s:.2g} s old on arrival' if age_s > 0 else f'{-age_s:.2g} s in the future'
        return fail(
            f'it is {old}; {need.age_limit} allows {need.most_age_s:g} s',
            last.cause or 'synchronise the clocks, or find the cause of the delay',
        )
    return None


def _unnamed(samples: Sequence[Sample], need: Need) -> Finding | None:
    """Return which joints no message names; None if all are named."""
    named = dict.fromkeys(name for one in samples for name in one.joints)
    missing = [name for name in need.joints if name not in named]
    if not missing:
        return None
    there = ', '.join(quoted(name) for name in list(named)[:_NAMES_SHOWN]) or 'none'
    return fail(
        f'no message names {", ".join(missing)}, which {need.why} needs; there are: {there}',
        "let the driver use the contract's names, or write a contract with the driver's "
        '(docs/contracts.md)',
    )


def _judge_rate(heard: HeardState, need: Need) -> Finding:
    stamps_s = [one.stamp_ns / 1e9 for one in heard.samples]
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(stamps_s)]
    if not gaps_s:
        return warn(
            f'1 message arrived in {heard.seconds:g} s',
            'publish it more often, or listen for longer: --seconds',
        )
    median_s, longest_s = statistics.median(gaps_s), max(gaps_s)
    rate = f'{1 / median_s:.3g} a second' if median_s > 0 else 'with equal stamps'
    advice = f'publish it more often, or raise {need.limit}'
    if median_s <= 0:
        return fail(f'its messages come {rate}', 'let the driver set header.stamp for each')
    if median_s > need.most_s:
        return fail(
            f'{rate}: too seldom for {need.why}; {need.limit} allows {need.most_s:g} s between two',
            advice,
        )
    if longest_s > need.most_s:
        return warn(
            f'{rate}, once {longest_s:.2g} s apart; {need.limit} allows {need.most_s:g} s', advice
        )
    frame = f', in {heard.samples[-1].frame!r}' if heard.samples[-1].frame else ''
    age_s = statistics.median(one.age_s for one in heard.samples)
    return ok(f'{rate}, {age_s:.2g} s old on arrival{frame}')


def fault_of(need: Need, message: Any) -> str:
    """Return why the node would reject a message, apart from its header; empty if it would not.

    :param message: a JointState or a PoseStamped.
    """
    if need.name == EE_POSE:
        point, turn = message.pose.position, message.pose.orientation
        norm = math.hypot(turn.x, turn.y, turn.z, turn.w)
        if not all(map(math.isfinite, (point.x, point.y, point.z))):
            return 'the position is not finite'
        sound = abs(norm - 1.0) <= _NORM_TOLERANCE
        return '' if sound else f'the quaternion has the norm {norm:g}, which must be 1'
    if need.name == JOINT_STATES:  # joints of others may have any values
        names, values = len(message.name), len(message.position)
        return '' if names == values else f'it has {names} names and {values} positions'
    if need.length is not None and len(message.position) != need.length:
        return f'it has {len(message.position)} values, and the policy reads {need.length}'
    return '' if all(map(math.isfinite, message.position)) else 'a value is not finite'
