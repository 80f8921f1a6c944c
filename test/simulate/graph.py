# SPDX-License-Identifier: Apache-2.0
"""The fake ROS graph: who is on it, and what reaches whom.

One side is the node's, through ``rclpy_fake``; the other is the world's: cameras, operators, other
nodes. Messages of the world take their time and may arrive out of order or never; what the node
publishes is heard at once by the observer, who also sees what the node takes.

Quality of service: KEEP_LAST queues in which the oldest message is overwritten; reliability and
durability decide who matches whom; transient-local publishers deliver what they kept to later
subscriptions that ask for it. A new subscription is discovered some milliseconds after it is made.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from simulate.scheduler import Scheduler

RELIABLE, BEST_EFFORT = 1, 2  # rmw's numbers
TRANSIENT_LOCAL, VOLATILE = 1, 2
_KEEP_ALL = 2
_DISCOVERY_NS = 20_000_000


class Observer(Protocol):
    """Told of all that goes into the node and comes out, in the order in which it does."""

    def took(self, topic: str, message: Any, info: dict[str, Any]) -> None: ...

    def published(self, topic: str, message: Any) -> None: ...

    def took_request(self, service: str, request: Any, header: Header) -> None: ...

    def answered(self, service: str, response: Any, header: Header) -> None: ...

    def changed_state(self, state: str, transition: str) -> None:
        """The lifecycle's."""

    def logged(self, severity: int, text: str) -> None: ...

    def callback_begins(self) -> None:
        """The executor hands out the next callback; the one before has ended."""


class Sample(NamedTuple):
    """
    :param sent_ns: the sender's system time.
    :param published_ns: the scheduler's.
    """

    message: Any
    sent_ns: int
    published_ns: int


@dataclass
class Endpoint:
    """A publisher or a subscription.

    :param qos: rmw's profile as a dict of numbers.
    """

    topic: str
    message_type: type
    qos: dict[str, Any]
    node: tuple[str, str]  # name, namespace
    gid: int
    since_ns: int
    is_publisher: bool

    def info(self) -> dict[str, Any]:
        """As rclpy's extension module gives it. Like DDS it does not know the depth."""
        module, _, name = self.message_type.__module__.rpartition('.')
        package = module.partition('.')[0]
        return {
            'node_name': self.node[0],
            'node_namespace': self.node[1],
            'topic_type': f'{package}/msg/{self.message_type.__name__ or name}',
            'topic_type_hash': {'version': 1, 'value': bytes(32)},
            'endpoint_type': 1 if self.is_publisher else 2,
            'endpoint_gid': [*self.gid.to_bytes(4, 'big'), *bytes(12)],
            'qos_profile': {**self.qos, 'depth': 0, 'history': 3},
        }


@dataclass
class Header:
    """Of a service's request; has the fields that rclpy's extension module gives.

    :param client: gets the response; None: it is gone by then.
    """

    source_timestamp: int
    received_timestamp: int
    sequence_number: int
    client: Callable[[Any], None] | None = None
    request_id: Any = field(init=False)

    def __post_init__(self) -> None:
        self.request_id = self


class Queue:
    """What waits at a subscription or a service of the node."""

    def __init__(self, qos: dict[str, Any]) -> None:
        depth = None if qos['history'] == _KEEP_ALL else max(1, qos['depth'])
        self.items: deque[Any] = deque(maxlen=depth)


def matches(publisher: dict[str, Any], subscription: dict[str, Any]) -> bool:
    """Whether the publisher offers what the subscription requests."""
    if publisher['reliability'] == BEST_EFFORT and subscription['reliability'] == RELIABLE:
        return False
    return not (
        publisher['durability'] == VOLATILE and subscription['durability'] == TRANSIENT_LOCAL
    )


class Graph:
    """All endpoints, services and nodes. ``wake`` is called when something waits for the node."""

    def __init__(self, scheduler: Scheduler, observer: Observer) -> None:
        self.scheduler = scheduler
        self.observer = observer
        self.wake: Callable[[], None] = lambda: None
        self.nodes: list[tuple[str, str]] = []
        self.own_nodes = 0  # of these, the process's own
        self.publishers: list[Endpoint] = []
        self.subscriptions: list[Endpoint] = []  # the node's have a ``queue``
        self.services: dict[str, Queue] = {}  # of the node, by full name
        self.waiting_requests = 0
        self.deaf_subscribers = False  # reliable ones of the node's topics that acknowledge nothing
        self._gids = 0
        self._sequence = 0

    def endpoint(
        self,
        topic: str,
        message_type: type,
        qos: dict[str, Any],
        node: tuple[str, str],
        is_publisher: bool,
    ) -> Endpoint:
        """Make one and add it."""
        self._gids += 1
        one = Endpoint(
            topic, message_type, qos, node, self._gids, self.scheduler.now_ns, is_publisher
        )
        (self.publishers if is_publisher else self.subscriptions).append(one)
        return one

    def remove(self, endpoint: Endpoint) -> None:
        ends = self.publishers if endpoint.is_publisher else self.subscriptions
        ends[:] = [one for one in ends if one is not endpoint]

    def listen(self, endpoint: Endpoint, queue: Queue) -> None:
        """The node's subscription: fill its queue, first with what publishers have kept."""
        endpoint.queue = queue  # type: ignore[attr-defined]
        qos = endpoint.qos
        if qos['durability'] != TRANSIENT_LOCAL or qos['reliability'] != RELIABLE:
            return  # Fast DDS keeps nothing for who may lose it
        for publisher in self.publishers:
            if publisher.topic == endpoint.topic and matches(publisher.qos, qos):
                queue.items.extend(getattr(publisher, 'kept', ()))

    def deliver(self, publisher: Endpoint, sample: Sample) -> None:
        """Put it into the queues of those subscriptions that were there when it was sent."""
        for one in self.subscriptions:
            if (
                one.topic == publisher.topic
                and one.message_type is publisher.message_type
                and one.since_ns + _DISCOVERY_NS <= sample.published_ns
                and matches(publisher.qos, one.qos)
            ):
                one.queue.items.append(sample)  # type: ignore[attr-defined]
                self.wake()

    def request(
        self,
        service: str,
        request: Any,
        client: Callable[[Any], None] | None,
        sent_ns: int,
        delay_s: float = 0.001,
    ) -> None:
        """Send one; who asks for a service that is not there gets no answer."""
        self._sequence += 1
        sequence = self._sequence

        def arrive() -> None:
            queue = self.services.get(service)
            if queue is not None:
                header = Header(sent_ns, self.scheduler.system_ns(), sequence, client)
                if len(queue.items) < (queue.items.maxlen or sys.maxsize):
                    self.waiting_requests += 1  # else the oldest is overwritten
                queue.items.append((request, header))
                self.wake()

        self.scheduler.after(delay_s, arrive)

    def count(self, topic: str, is_publisher: bool) -> int:
        ends = self.publishers if is_publisher else self.subscriptions
        return sum(one.topic == topic for one in ends)


class RemotePublisher:
    """A publisher of the world's."""

    def __init__(
        self,
        graph: Graph,
        topic: str,
        message_type: type,
        node: tuple[str, str],
        reliability: int = RELIABLE,
        durability: int = VOLATILE,
        depth: int = 10,
    ) -> None:
        self._graph = graph
        infinite = graph_infinite()
        qos = {
            'depth': depth,
            'history': 1,
            'reliability': reliability,
            'durability': durability,
            'lifespan': infinite,
            'deadline': infinite,
            'liveliness': 1,
            'liveliness_lease_duration': infinite,
            'avoid_ros_namespace_conventions': False,
        }
        self.endpoint = graph.endpoint(topic, message_type, qos, node, True)
        self.endpoint.kept = deque(maxlen=depth)  # type: ignore[attr-defined]

    def publish(self, message: Any, delay_s: float = 0.001, clock_offset_ns: int = 0) -> None:
        """
        :param clock_offset_ns: by which the sender's system clock is ahead of the node's.
        """
        scheduler = self._graph.scheduler
        sample = Sample(message, scheduler.system_ns() + clock_offset_ns, scheduler.now_ns)
        if self.endpoint.qos['durability'] == TRANSIENT_LOCAL:
            self.endpoint.kept.append(sample)  # type: ignore[attr-defined]
        scheduler.after(delay_s, lambda: self._graph.deliver(self.endpoint, sample))

    def destroy(self) -> None:
        self._graph.remove(self.endpoint)


def graph_infinite() -> Any:
    from rclpy.duration import Duration

    return Duration(nanoseconds=2**63 - 1)
