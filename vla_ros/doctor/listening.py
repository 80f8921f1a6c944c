# SPDX-License-Identifier: Apache-2.0
"""Hears the topics with a robot's state as the node would. Used by the main thread."""

from __future__ import annotations

import importlib
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vla_ros.clock import age_s
from vla_ros.doctor.camera import Offer
from vla_ros.doctor.robot_state import HeardState, Need, Sample, fault_of
from vla_ros.graph.stamps import from_time
from vla_ros.ros.node_clock import NodeClock
from vla_ros.scheduling import clock_advice

_MOST_SAMPLES = 10_000  # 3 s at 1 kHz and more
_QUALITY = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


def offers_on(node: Node, topic: str) -> list[Offer]:
    """Return the publishers on a topic.

    :param topic: full name.
    """
    return [
        Offer(
            full_name(info),
            info.topic_type,
            words(info.qos_profile.reliability),
            words(info.qos_profile.durability),
            info.qos_profile.depth,
        )
        for info in node.get_publishers_info_by_topic(topic)
    ]


def topics_of(node: Node, type_name: str) -> list[str]:
    """Return the topics on which something of this type is published."""
    return [
        name
        for name, types in node.get_topic_names_and_types()
        if type_name in types and node.count_publishers(name)
    ]


def full_name(publisher: TopicEndpointInfo) -> str:
    """Return the full name of the node of a publisher."""
    return joined(publisher.node_namespace, publisher.node_name)


def joined(namespace: str, name: str) -> str:
    """Return the full name of a node."""
    return f'{namespace.rstrip("/")}/{name}'


def words(policy: Any) -> str:
    """Return the words of a quality of service, such as ``best effort``."""
    return str(policy.name).lower().replace('_', ' ')


class StateTopic:
    """Hears one topic, and keeps the facts to judge of each message."""

    def __init__(self, node: Node, prefix: str, need: Need, clock: NodeClock) -> None:
        """Prepare without a subscription.

        :param prefix: prefix of the topic's name.
        """
        self.need = need
        self._node, self._clock = node, clock
        self._name = f'{prefix}{need.name}'
        self._topic = node.resolve_topic_name(self._name)
        self._subscriptions: list[Subscription] = []
        self._samples: list[Sample] = []

    def offers(self) -> list[Offer]:
        """Return the publishers."""
        return offers_on(self._node, self._topic)

    def listen(self) -> None:
        """Subscribe, unless all that is published there is of another type."""
        if all(offer.message_type == self.need.message_type for offer in self.offers()):
            package, _, kind = self.need.message_type.partition('/msg/')
            message_type = getattr(importlib.import_module(f'{package}.msg'), kind)
            self._subscriptions.append(
                self._node.create_subscription(message_type, self._name, self._hear, _QUALITY)
            )

    def heard(self, seconds: float) -> HeardState:
        """Return what was heard.

        :param seconds: duration of listening.
        """
        elsewhere = topics_of(self._node, self.need.message_type)
        return HeardState(self._topic, self.offers(), elsewhere, self._samples, seconds)

    def _hear(self, message: Any) -> None:
        if len(self._samples) >= _MOST_SAMPLES:
            return
        self._clock.look()
        stamp_ns = from_time(message.header.stamp)
        self._samples.append(
            Sample(
                stamp_ns,
                age_s(stamp_ns, self._clock.now_ns()),
                message.header.frame_id,
                fault_of(self.need, message),
                clock_advice(stamp_ns, self._clock, ''),
                tuple(getattr(message, 'name', ())),
            )
        )
