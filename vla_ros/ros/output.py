# SPDX-License-Identifier: Apache-2.0
"""What becomes of a robot's admitted actions on the ROS graph.

Each output exists from the time that the policy is warm to the clean-up. Used by the executor's
thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rclpy.lifecycle import LifecycleNode

from vla_ros.clock import Clock
from vla_ros.motion import ActionDescription, Contract
from vla_ros.motion.joint_limits import JointLimit
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause
from vla_ros.ros.node_clock import Moment
from vla_ros.ros.pose_input import PoseInput
from vla_ros.ros.shared import Shared
from vla_ros.scheduling import Result

_CLOSE_TIMEOUT_S = 0.4  # until all robots have stopped
_FLUSH_TIMEOUT_S = 0.2


@dataclass(frozen=True)
class Admitted:
    """A result whose chunk of actions may move the robot.

    :param result: has a valid prediction.
    :param description: of the actions.
    :param published: when the chunk is published.
    :param due_ns: when row 0 is due, by the node's clock; not later than ``published``.
    :param valid_until_ns: by the node's clock, when the motion of row 0 must have ended; that of
        row k may end k periods later.
    :param sequence: number of the chunk, from 1.
    """

    result: Result
    description: ActionDescription
    published: Moment
    due_ns: int
    valid_until_ns: int
    sequence: int


@dataclass(frozen=True)
class OutputSetup:
    """What an output needs to be made.

    :param prefix: prefix of the topics' names.
    :param source: number of the robot.
    :param frame_id: the robot's own name of the frame of its actions.
    :param contracts: by unnorm_key.
    :param workspace: the robot's own box of ``workspace_m``.
    :param first_camera: name of the policy's first camera.
    :param tool: the pose of the robot's tool.
    :param description: limits by joint, from the robot description; empty: none is known.
    """

    node: LifecycleNode
    shared: Shared
    prefix: str
    source: int
    frame_id: str
    parameters: Parameters
    contracts: Mapping[str, Contract]
    workspace: str
    first_camera: str
    tool: PoseInput
    description: Mapping[str, JointLimit] = field(default_factory=dict)


class Output(ABC):
    """A form in which actions are published, for one robot. By default there is nothing to stop.

    :ivar topics: full names of the topics that move the robot, once for each publisher of this
        node; no other node may publish on them.
    :ivar counters: dataclasses whose fields are counters of VlaCounters.
    """

    topics: Sequence[str] = ()
    counters: Sequence[Any] = ()

    @property
    def cause(self) -> Cause | None:
        """Why the last action was not carried out, or the next will not be; None if it is."""
        return None

    @abstractmethod
    def publish(self, admitted: Admitted) -> None:
        """Publish the chunk, in place of the rest of the one before."""

    def hold(self) -> None:
        """Stop the robot; called often while it must not act."""
        return

    def adjust(self, setup: OutputSetup) -> None:
        """Apply the limits, the frame and the contracts from now on; all else stays as it is."""
        return

    def forget(self) -> None:
        """Forget what is known of the robot: the operator may have moved it."""
        return

    def forget_stamps(self) -> None:
        """Forget what was stamped: the clock has jumped."""
        return

    @property
    def limited(self) -> str:
        """What shortened the last motion, apart from speeds; empty if nothing did."""
        return ''

    def catch_up(self) -> None:
        """Send what is due, if other callbacks have delayed a timer."""
        return

    @property
    def rest_s(self) -> float:
        """Time to the next message that ends the motion [s]; 0: it has ended."""
        return 0.0

    def say_end(self) -> None:
        """Send the next message that ends the motion."""
        return

    @abstractmethod
    def close(self, flush_s: float) -> None:
        """Destroy timers and publishers, once all listeners have the last message.

        :param flush_s: maximum time that this may take [s].
        """


def close_outputs(outputs: Sequence[Output], clock: Clock) -> None:
    """Stop all robots, send the messages that end their motions, and close.

    It takes no longer for many robots than for one.
    """
    for output in outputs:
        output.hold()
    ends_s = clock.monotonic_s() + _CLOSE_TIMEOUT_S
    while ending := [output for output in outputs if output.rest_s]:
        if clock.monotonic_s() > ends_s:
            break
        clock.sleep(max(output.rest_s for output in ending))
        for output in ending:
            output.say_end()
    ends_s = clock.monotonic_s() + _FLUSH_TIMEOUT_S
    for output in outputs:
        output.close(max(0.0, ends_s - clock.monotonic_s()))
