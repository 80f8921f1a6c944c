# SPDX-License-Identifier: Apache-2.0
"""What the robots of one node share."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.ros.frames import Frames
from vla_ros.ros.latch import Latches
from vla_ros.ros.log import Log
from vla_ros.ros.node_clock import NodeClock
from vla_ros.ros.rivals import Rivals
from vla_ros.scheduling import CommandWatch


@dataclass
class RequestCounters:
    """Counters of service requests, and of messages that raised an error.

    :param requests_accepted: requests that were carried out.
    :param requests_refused: requests that were refused, or could not be answered.
    :param messages_refused: messages on a topic that could not be handled.
    """

    requests_accepted: int = 0
    requests_refused: int = 0
    messages_refused: int = 0


@dataclass(frozen=True)
class Shared:
    """What the robots of one node have in common.

    :param latches: the operator's decisions, on disk.
    :param commands: the judge of the age of commands.
    :param rivals: other nodes that act in this node's place.
    :param requests: counters of the node's services.
    :param frames: how frames lie to each other.
    """

    clock: NodeClock
    log: Log
    latches: Latches
    commands: CommandWatch
    rivals: Rivals
    requests: RequestCounters
    frames: Frames
