# SPDX-License-Identifier: Apache-2.0
"""How far a gripper is to be open: as a topic, or as goals of its controller's action.

Used by the executor's thread, by the outputs that move the robot. A hold leaves the gripper as it
is: what it holds must not fall.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from rclpy.action import ActionClient
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64

from vla_ros.parameters.definition import Parameters
from vla_ros.ros.output import OutputSetup

_RETRY_S = 1.0  # from a goal that was refused to the next one
_TYPES = {
    'action': 'GripperCommand',
    'parallel_action': 'ParallelGripperCommand',
}


@dataclass
class GripperCounters:
    """The counters of one robot's gripper goals.

    :param gripper_goals: goals that were sent.
    :param gripper_goals_refused: goals that were rejected, failed on their way, or found no server.
    """

    gripper_goals: int = 0
    gripper_goals_refused: int = 0


class Gripper(ABC):
    """A gripper, from its beginning to :meth:`close`."""

    @abstractmethod
    def send(self, opening: float | None) -> None:
        """Command an opening, 0 closed to 1 open; None is not known yet, and sends nothing."""

    def retry(self) -> None:
        """Send the last opening again if it was refused; called often while the robot moves."""
        return

    def give_up(self) -> None:
        """Send the last opening no more: the robot holds, or begins another chunk."""
        return

    def forget(self) -> None:
        """Forget the last opening: the operator may have moved the gripper."""
        return

    @abstractmethod
    def close(self) -> None:
        """Destroy publisher or client."""


def make_gripper(setup: OutputSetup, counters: GripperCounters, name: str = 'gripper') -> Gripper:
    """Return the gripper in the form that ``gripper_command`` asks for.

    :param name: of its topic, without the robot's prefix; ``_cmd`` is added for an action.
    """
    if setup.parameters.gripper_command == 'topic':
        return GripperTopic(setup, name)
    return GripperAction(setup, counters, name)


class GripperTopic(Gripper):
    """Publishes each opening."""

    def __init__(self, setup: OutputSetup, topic: str) -> None:
        """Create the publisher.

        :param topic: its name, without the robot's prefix.
        """
        self._node = setup.node
        self._publisher = setup.node.create_publisher(Float64, f'{setup.prefix}{topic}', 1)

    def send(self, opening: float | None) -> None:
        """Publish an opening."""
        if opening is not None:
            self._publisher.publish(Float64(data=opening))

    def close(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_publisher(self._publisher)


class GripperAction(Gripper):
    """Sends a goal when the opening changes, and waits for nothing.

    The controller replaces a goal by the next one. No result is asked for: a gripper that closes on
    an object stalls, which some controllers report as a failure. No goal is cancelled, since a
    controller then lets go of the force.
    """

    def __init__(self, setup: OutputSetup, counters: GripperCounters, name: str) -> None:
        """Create the client.

        :param name: of the gripper; the action's name is remapped like a topic's.
        """
        self._parameters = setup.parameters
        self._counters, self._name = counters, name
        self._clock, self._log = setup.shared.clock, setup.shared.log
        self._topic = setup.node.resolve_topic_name(f'{setup.prefix}{name}_cmd')
        self._type = _action_type(setup.parameters)
        self._client = ActionClient(setup.node, self._type, self._topic)
        self._wanted: float | None = None  # the opening of the last row
        self._sent: float | None = None  # opening of the last goal that was not refused
        self._sent_s = 0.0  # when that was sent
        self._answer: Future | None = None  # to that goal; None once it came
        self._refused_s = -_RETRY_S

    def send(self, opening: float | None) -> None:
        """Send a goal, if the opening is another than that of the last goal."""
        if opening is not None:
            self._wanted = opening
            self.retry()

    def retry(self) -> None:
        """Send a goal if the last opening is in none, and none was refused for a while."""
        wanted, now_s = self._wanted, self._clock.monotonic_s()
        if wanted is None:
            return
        if self._answer is not None:
            if wanted == self._sent and now_s < self._sent_s + _RETRY_S:
                return
            self._refuse('did not answer a goal')
        if wanted == self._sent or now_s < self._refused_s + _RETRY_S:
            return
        if not self._client.server_is_ready():
            self._refused_s = now_s
            self._refuse('has no server')
            return
        self._sent, self._sent_s = wanted, now_s
        self._counters.gripper_goals += 1
        self._answer = answer = self._client.send_goal_async(self._goal(wanted))
        answer.add_done_callback(self._on_answer)

    def give_up(self) -> None:
        """Send the last opening no more; a goal that is sent goes on."""
        self._wanted = None

    def forget(self) -> None:
        """Forget the last goal: the next opening is sent again."""
        self._sent = self._wanted = None

    def close(self) -> None:
        """Destroy the client."""
        self._answer = None
        self._client.destroy()

    def _on_answer(self, answer: Future) -> None:
        is_late = answer is not self._answer
        if is_late:
            return  # of a goal that was counted as refused
        self._answer = None
        handle = None if answer.exception() else answer.result()
        if handle is None or not handle.accepted:
            self._refused_s = self._clock.monotonic_s()
            self._refuse('rejected a goal')

    def _refuse(self, what: str) -> None:
        self._answer = self._sent = None
        self._counters.gripper_goals_refused += 1
        self._log.warning(
            f'the action {self._topic} {what}: the gripper may be in another state than commanded; '
            'check its controller, and remap the name',
            every_s=10.0,
        )

    def _goal(self, opening: float) -> Any:
        one = self._parameters
        closed, opened = one.gripper_closed_position, one.gripper_open_position
        position = closed + (opened - closed) * opening
        goal = self._type.Goal()
        if one.gripper_command == 'action':
            goal.command.position = position
            goal.command.max_effort = one.gripper_max_effort
        else:
            effort = [one.gripper_max_effort] if one.gripper_max_effort else []
            goal.command = JointState(name=[self._name], position=[position], effort=effort)
        return goal


def _action_type(parameters: Parameters) -> Any:
    """Return the type of the action; the parameters' check has found its package."""
    actions = importlib.import_module('control_msgs.action')
    return getattr(actions, _TYPES[parameters.gripper_command])
