"""What the robots of one node share."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.ros.latch import Latches
from vla_ros.ros.log import Log
from vla_ros.ros.node_clock import NodeClock
from vla_ros.ros.rivals import Rivals
from vla_ros.scheduling import CommandWatch


@dataclass
class RequestCounters:
    """
    :param requests_accepted: answered, and done if they asked for something.
    :param requests_refused: answered with a refusal, or not to be answered.
    :param messages_refused: messages on a topic that could not be handled.
    """

    requests_accepted: int = 0
    requests_refused: int = 0
    messages_refused: int = 0


@dataclass(frozen=True)
class Shared:
    """
    :param latches: what the operator decided, on disk.
    :param commands: judges whether a command comes too late.
    :param rivals: others that act in this node's place.
    :param requests: counters of the node's services.
    """

    clock: NodeClock
    log: Log
    latches: Latches
    commands: CommandWatch
    rivals: Rivals
    requests: RequestCounters
