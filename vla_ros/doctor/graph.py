# SPDX-License-Identifier: Apache-2.0
"""Examines the ROS graph as the node will see it, and listens for some seconds. Moves nothing.

Used by the main thread; camera.py judges what was heard.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy
from rclpy.signals import SignalHandlerOptions

from vla_ros.client.vla_client import VlaClient
from vla_ros.clock import age_s
from vla_ros.doctor.camera import Heard, HeardImage, Offer, judge_camera
from vla_ros.doctor.facts import NODE_NAME, Facts
from vla_ros.doctor.findings import Finding, fail, ok, refused, warn
from vla_ros.doctor.listening import StateTopic, full_name, joined, offers_on, topics_of, words
from vla_ros.doctor.robot_state import judge_state, needs_of, spec_of
from vla_ros.errors import VlaError
from vla_ros.graph.stamps import from_time
from vla_ros.graph.topics import image_topics, transport_topic
from vla_ros.images.raw import UnusableImage
from vla_ros.msg import VlaStatus
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import State
from vla_ros.ros.image_subscription import (
    TRANSPORTS,
    TYPE_NAMES,
    ImageSubscription,
    other_transport,
)
from vla_ros.ros.node_clock import NodeClock
from vla_ros.ros.parameters import topic_prefix
from vla_ros.scheduling import CameraWatch, clock_advice

_DISCOVERY_S = 3.5  # a process that is there is found within that: it tells so every 3 s
_SETTLE_S = 0.3  # between the first publisher that is found and the others
_INSTRUCTION_TYPE = 'std_msgs/msg/String'


def check_graph(facts: Facts) -> Iterator[Finding]:
    """Cameras, states, who gives instructions or acts in the node's place; the node, if it runs."""
    arguments = _without_node_name(facts.setup.ros_arguments)
    context = rclpy.Context()
    rclpy.init(
        args=['--ros-args', *arguments] if arguments else [],
        context=context,
        signal_handler_options=SignalHandlerOptions.NO,
    )
    try:
        simulated = Parameter('use_sim_time', value=facts.overrides.get('use_sim_time') is True)
        node = Node('vla_doctor', context=context, parameter_overrides=[simulated])
        robots = (facts.parameters or Parameters()).robot_names
        clock = NodeClock(node)
        with contextlib.closing(VlaClient(robot=robots[0], node=node, clock=clock)) as client:
            yield from _look(facts, node, client, clock)
        node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)


def _look(facts: Facts, node: Node, client: VlaClient, clock: NodeClock) -> Iterator[Finding]:
    parameters = facts.parameters or Parameters()
    robots = parameters.robot_names
    prefixes = [topic_prefix(name) for name in robots]
    names = _camera_names(facts)
    own = [f'{prefix}{topic}' for prefix in prefixes for topic in image_topics(names).values()]
    topics = facts.setup.cameras or own
    cameras = [_Camera(node, topic, parameters, clock) for topic in topics]
    states, refusal = _state_topics(facts, node, prefixes, clock)
    heard: list[_Camera | StateTopic] = [*cameras, *states]

    known_s = clock.monotonic_s() + _DISCOVERY_S
    client.wait_until(lambda: all(one.offers() for one in heard), _DISCOVERY_S)
    client.wait_until(lambda: False, _SETTLE_S)
    for one in heard:
        one.listen()
    client.wait_until(lambda: False, facts.setup.seconds)
    client.wait_until(lambda: client.status is not None, known_s - clock.monotonic_s())
    if len(topics) != len(own):
        there = f'{", ".join(names)} of each' if len(names) > 1 else 'one for each'
        yield fail(
            f'{len(topics)} camera topics, and {len(robots)} in robots'
            + (f', each with {len(names)} cameras' if len(names) > 1 else ''),
            f'name {there}, in their order: --image TOPIC,TOPIC',
        )
    if refusal is not None:
        yield refused(refusal, 'correct the contract')
    fault = clock.look().fault
    if fault is not None:
        what, _, advice = fault.message.partition('; ')
        yield fail(what, advice)
    rate_hz = facts.contract.rate_hz if facts.contract else None
    for camera in cameras:
        yield from judge_camera(camera.heard(facts.setup.seconds), parameters, rate_hz)
    for state in states:
        yield from judge_state(state.heard(facts.setup.seconds), state.need)
    images = [image for camera in cameras for image in camera.images]
    if images:
        facts.image_bytes = max(image.byte_count for image in images)
        facts.image_age_s = max(0.0, float(np.median([image.age_s for image in images])))
    yield from _around(facts, node, client, prefixes)


def _around(
    facts: Facts, node: Node, client: VlaClient, prefixes: Sequence[str]
) -> Iterator[Finding]:
    """Yield who instructs, who acts in the node's place, and the node, if it runs."""
    parameters = facts.parameters or Parameters()
    for prefix in prefixes:
        yield from _instructions(node, f'{prefix}instruction', parameters)
    own_name = joined(node.get_namespace(), facts.setup.node.rpartition('/')[2])
    yield from _rivals(node, own_name, parameters)
    for prefix in prefixes:
        yield from _goals(node, f'{own_name}/{prefix}execute', client.status is not None)
    yield from _running_node(client.status, facts)


def _state_topics(
    facts: Facts, node: Node, prefixes: Sequence[str], clock: NodeClock
) -> tuple[list[StateTopic], VlaError | None]:
    """Return the topics with each robot's state, or why they are unknown."""
    parameters = facts.parameters or Parameters()
    try:
        needs = [needs_of(facts, parameters, robot) for robot in range(len(prefixes))]
    except VlaError as error:
        return [], error
    pairs = zip(prefixes, needs, strict=True)
    return [StateTopic(node, prefix, one, clock) for prefix, own in pairs for one in own], None


def _camera_names(facts: Facts) -> tuple[str, ...]:
    """Return the policy's cameras; a policy that is not known yet has one."""
    spec = spec_of(facts)
    return spec.cameras if spec is not None else ('image',)


class _Camera:
    """Hears one camera as the node would, and keeps the facts to judge of each image."""

    def __init__(self, node: Node, topic: str, parameters: Parameters, clock: NodeClock) -> None:
        self._node = node
        self._parameters = parameters
        self._transport = parameters.image_transport
        self._to_rgb = TRANSPORTS[self._transport].to_rgb
        self._type_name = TYPE_NAMES[self._transport]
        self._images_topic = topic
        self._topic = transport_topic(node, topic, TRANSPORTS[self._transport].suffix)
        self._clock = clock
        self._watch = CameraWatch(0.0, self._clock)  # unchanged images are judged afterwards
        self._before: NDArray[np.uint8] | None = None
        self._subscription: ImageSubscription | None = None
        self.images: list[HeardImage] = []

    def offers(self) -> list[Offer]:
        return offers_on(self._node, self._topic)

    def listen(self) -> None:
        """Unless all that is published there is of another type."""
        if all(offer.message_type == self._type_name for offer in self.offers()):
            self._subscription = ImageSubscription(
                self._node,
                self._transport,
                self._images_topic,
                self._on_image,
                self._parameters.image_reliability,
            )

    def heard(self, seconds: float) -> Heard:
        elsewhere = topics_of(self._node, self._type_name)
        listened = ''
        if self._subscription is not None:
            self._subscription.follow_publishers()  # of which some may have been found late
            listened = words(self._subscription.reliability)
        return Heard(
            self._topic,
            self._type_name,
            self.offers(),
            listened,
            elsewhere,
            self.images,
            seconds,
            other_transport(self._node, self._topic, self._transport),
        )

    def _on_image(self, message: Any) -> None:
        self._clock.look()  # by which it knows the step of /clock
        stamp_ns, kind, changed = from_time(message.header.stamp), '', False
        refusal: VlaError | None
        try:
            image = self._to_rgb(message)
        except UnusableImage as error:
            refusal = error
        except MemoryError as error:
            refusal = VlaError(f'out of memory ({error})', 'let the camera send smaller images')
        else:
            height, width, _ = image.shape
            encoding = getattr(message, 'encoding', '') or message.format
            kind = f'{width}x{height} {encoding}'
            refusal = self._watch.judge(image, stamp_ns).refusal
            changed = self._before is None or not np.array_equal(image, self._before)
            self._before = image
        self.images.append(
            HeardImage(
                self._clock.monotonic_s(),
                age_s(stamp_ns, self._clock.now_ns()),
                len(message.data),
                kind,
                refusal,
                changed,
                clock_advice(stamp_ns, self._clock, ''),
            )
        )


def _running_node(status: VlaStatus | None, facts: Facts) -> Iterator[Finding]:
    """Yield the state of a running node, and keep the duration of an inference there."""
    if status is None:
        return
    durations_s = {
        'latencies.inference.p50_s': status.latencies.inference.p50_s,
        'policy.steady_inference_s': status.policy.steady_inference_s,
    }
    for name, duration_s in durations_s.items():
        if duration_s > 0 and facts.inference_s is None:
            facts.inference_s = duration_s
            facts.inference_source = f'{name} of the node that runs'
    found = f'the node runs: {status.message}'
    if status.state == State.ERROR:
        yield fail(found, 'fix that, then configure it again (ros2 lifecycle set)')
    else:
        yield ok(found)


def _instructions(node: Node, name: str, parameters: Parameters) -> Iterator[Finding]:
    topic = node.resolve_topic_name(name)
    publishers = node.get_publishers_info_by_topic(topic)
    types = {info.topic_type for info in publishers}
    if types - {_INSTRUCTION_TYPE}:
        yield fail(
            f'{topic}: it carries {", ".join(sorted(types))}, the node expects {_INSTRUCTION_TYPE}',
            'publish that type, or remap one of the two',
        )
    elif len(publishers) > 1:
        names = ', '.join(sorted(map(full_name, publishers)))
        yield warn(
            f'{topic}: {len(publishers)} publishers instruct the robot: {names}; the last word '
            'counts, and each change starts the policy over',
            'let only one of them instruct, and end the others',
        )
    elif publishers:
        yield ok(f'{topic}: one publisher of instructions')
    elif parameters.instruction:
        yield ok(f'{topic}: no publisher; the parameter instruction is in effect')
    else:
        yield ok(f'{topic}: no publisher yet; the node holds until there is one')
    latched = [
        full_name(info)
        for info in publishers
        if info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    ]
    if latched:
        yield warn(
            f'{topic}: {", ".join(sorted(latched))} is transient local (latched), and a node that '
            'starts does not obey earlier instructions',
            'publish the instruction again once the node is up',
        )


def _goals(node: Node, action: str, is_heard: bool) -> Iterator[Finding]:
    """Yield who answers goals.

    :param action: full name of the action server.
    :param is_heard: whether the node's status is.
    """
    servers = node.count_services(f'{action}/_action/send_goal')
    if servers > 1:
        yield fail(
            f'{action}: {servers} action servers: a goal may reach the wrong one',
            'end all but one, or start each in a namespace of its own',
        )
    elif servers and not is_heard:
        yield warn(
            f'{action}: it is offered, and no status of the node is heard',
            'see whether the node hangs (ros2 topic echo status), or another node offers it',
        )
    elif servers:
        yield ok(f'{action}: the node takes goals')
    elif is_heard:
        yield warn(
            f'{action}: the node runs, and takes no goals there',
            'start it by the version of this doctor; a node of another name has another action',
        )


def _rivals(node: Node, own_name: str, parameters: Parameters) -> Iterator[Finding]:
    """Others in the node's place, by whom a robot would be moved whatever the node decides.

    :param own_name: the node's full name.
    """
    names = [joined(space, name) for name, space in node.get_node_names_and_namespaces()]
    if names.count(own_name) > 1:
        yield fail(
            f'{names.count(own_name)} nodes have the name {own_name}: a stop may reach the wrong '
            'one, so none of them acts',
            'end all but one, or start each in a namespace of its own; one that was killed is gone '
            'within 20 s',
        )
    for robot in parameters.robot_names:
        for output in parameters.moving_topics:
            topic = node.resolve_topic_name(f'{topic_prefix(robot)}{output}')
            publishers = map(full_name, node.get_publishers_info_by_topic(topic))
            others = sorted({name for name in publishers if name != own_name})
            if others:
                yield fail(
                    f'{topic}: {", ".join(others)} publishes there, and the node will hold',
                    'end that, or have both publish topics of their own to a multiplexer '
                    '(docs/motion.md)',
                )


def _without_node_name(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without a node name: with it the doctor would be a second such node."""
    kept: list[str] = []
    for word in arguments:
        if NODE_NAME.fullmatch(word) and kept and kept[-1] in ('-r', '--remap'):
            kept.pop()
        else:
            kept.append(word)
    return kept
