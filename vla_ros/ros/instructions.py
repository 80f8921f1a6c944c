# SPDX-License-Identifier: Apache-2.0
"""The instruction of one robot: what the operator said last, or why nothing is in force.

Instructions are heard in every state of the node. Used by the executor's thread.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy
from std_msgs.msg import String

from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, Reason
from vla_ros.ros.shared import Shared
from vla_ros.text import is_blank
from vla_ros.types import InstructionError, check_instruction

_QUEUE_DEPTH = 100  # each instruction takes effect, in order: one of them may be a hold
_MANY_CHANGES = 4  # of the instruction, without an action between them
_CHANGES_WITHIN_S = 5.0


@dataclass
class InstructionCounters:
    """Counters of instructions that did not take effect, or no longer do.

    :param instructions_rejected: instructions that were not usable.
    :param instructions_expired: instructions that were not repeated in time.
    :param instructions_stale: instructions that came too late to be obeyed.
    """

    instructions_rejected: int = 0
    instructions_expired: int = 0
    instructions_stale: int = 0


class Instructions:
    """The instruction in force, heard on the topic ``instruction`` or set as a parameter."""

    def __init__(
        self,
        node: LifecycleNode,
        shared: Shared,
        robot: str,
        prefix: str,
        on_change: Callable[[Cause | None], None],
    ) -> None:
        """Subscribe to the topic.

        :param robot: name of the robot; empty if it needs none.
        :param prefix: prefix of the topic's name.
        :param on_change: called when another instruction, or none, is in force; with a cause if
            several publishers contradict each other.
        """
        self.counters = InstructionCounters()
        self._text = ''
        self._node = node
        self._log = shared.log
        self._clock, self._latches, self._commands = shared.clock, shared.latches, shared.commands
        self._robot = robot
        self._on_change = on_change
        self._cause: Cause | None = None  # why the last instruction is not in force
        self.has_goal = False  # the instruction in force is that of a goal
        self.goal_actions = 0  # published for it
        self.goal_probability = math.nan  # of the last one
        self._said_s = 0.0  # when the operator last gave the instruction in force
        self._none_since_s = self._clock.monotonic_s()
        self._changes_s: deque[float] = deque(maxlen=_MANY_CHANGES)  # since the last action
        self._operator_spoke = False  # since the node came up
        self._latched_publisher = False
        self._subscription = node.create_subscription(
            String, f'{prefix}instruction', self._hear, _QUEUE_DEPTH
        )

    @property
    def text(self) -> str:
        """The instruction in force; empty: hold."""
        return self._text

    @property
    def topic(self) -> str:
        """The full name of the topic."""
        return self._subscription.topic_name

    def set(self, instruction: str) -> None:
        """Let the operator's instruction take effect; one that is not usable means hold."""
        self._operator_spoke = True
        self._set(instruction)

    def configure(self, instruction: str) -> None:
        """Count from zero.

        :param instruction: takes effect if none is in force and the operator has not said hold.
        """
        self.counters = InstructionCounters()
        if not self._text and instruction and not self._latches[self._robot].held:
            self._set(instruction)

    def forget(self) -> None:
        """Hold until the next instruction; unlike the operator's, this hold is not kept on disk."""
        self._put_in_force('', None)

    def reject(self, why: str) -> None:
        """Hold: the instruction is not usable."""
        self.counters.instructions_rejected += 1
        self._hold(Reason.INSTRUCTION_REJECTED, why)

    def expire(self, max_age_s: float) -> None:
        """Hold if the instruction is older than this; 0: it does not expire."""
        if (
            self._text
            and not self.has_goal
            and max_age_s
            and self._clock.monotonic_s() - self._said_s > max_age_s
        ):
            self.counters.instructions_expired += 1
            self._hold(
                Reason.INSTRUCTION_EXPIRED,
                f'instruction {self._text[:80]!r} is older than max_instruction_age_s, '
                f'{max_age_s:g} s; repeat it while it must be carried out',
            )

    def has_acted(self, probability: float) -> None:
        """Note that an action of the instruction in force was published.

        :param probability: the lowest of its tokens; NaN: it has none.
        """
        self._changes_s.clear()
        self.goal_actions += self.has_goal
        self.goal_probability = probability if self.has_goal else math.nan

    # -- goals -------------------------------------------------------------------------------------

    def begin_goal(self, instruction: str) -> None:
        """Let a goal's usable instruction take effect; only a hold ends it before the goal."""
        self.has_goal = self._operator_spoke = True
        self.goal_actions, self.goal_probability = 0, math.nan
        self._put_in_force(instruction, None)
        self._latch()

    def end_goal(self) -> None:
        """Hold, if the goal's instruction is still in force."""
        if self.has_goal:
            self._put_in_force('', None)
            self._latch()

    def follow_publishers(self) -> None:
        """Note whether a publisher is transient local. Call it about once a second."""
        self._latched_publisher = any(
            publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
            for publisher in self._node.get_publishers_info_by_topic(self.topic)
        )

    def why_none(self, parameters: Parameters, image_topics: str, waiting_since_s: float) -> Cause:
        """Return why no instruction is in force; call it only if none is.

        :param image_topics: topics on which images arrive now; empty if they do not.
        :param waiting_since_s: when the robot began to wait for images, monotonic [s].
        """
        if self._cause:
            return self._cause
        message = f'no instruction on {self.topic}'
        limit_s = parameters.no_instruction_timeout_s
        since_s = max(self._none_since_s, waiting_since_s)
        if image_topics and self._clock.monotonic_s() - since_s > limit_s:
            message += (
                f' for no_instruction_timeout_s, {limit_s:g} s, while images arrive on '
                f'{image_topics}'
            )
        if self._latches[self._robot].held and parameters.instruction:
            message += (
                '; the operator said hold, so the parameter instruction is not in force: '
                'publish an instruction'
            )
        if self._latched_publisher:
            message += (
                f'; what was published on {self.topic} before this node came up is not obeyed '
                '(its publisher is transient local): publish it again'
            )
        return Cause(Reason.NO_INSTRUCTION, message)

    def _set(self, instruction: str) -> None:
        try:
            check_instruction(instruction)
        except InstructionError as refusal:
            self.reject(str(refusal))
            return
        if self.has_goal and not is_blank(instruction):
            self._refuse_beside_goal(instruction)
            return
        self._said_s = self._clock.monotonic_s()
        self._put_in_force('' if is_blank(instruction) else instruction, None)
        self._latch()

    def _hear(self, message: String, info: Mapping[str, Any]) -> None:
        if self.has_goal and not is_blank(message.data):
            self._refuse_beside_goal(message.data)
            return
        late = '' if is_blank(message.data) else self._commands.why_not(info['source_timestamp'])
        if not late:
            self.set(message.data)
            return
        self._operator_spoke = True
        self.counters.instructions_stale += 1
        self._hold(
            Reason.INSTRUCTION_STALE, f'instruction {message.data[:80]!r} came too late: {late}'
        )

    def _refuse_beside_goal(self, instruction: str) -> None:
        self.counters.instructions_rejected += 1
        self._log.warning(
            f'instruction {instruction[:80]!r} is rejected: a goal of ~/execute is carried out; '
            'cancel it, or say hold (the empty instruction)',
            every_s=1.0,
        )

    def _hold(self, reason: Reason, message: str) -> None:
        self._put_in_force('', Cause(reason, message))
        self._latch()

    def _latch(self) -> None:
        """Keep the operator's last word on disk; the robot has obeyed it already."""
        if self._operator_spoke:
            # A goal ends with the process: after it the parameter must not start the robot.
            self._latches.set(self._robot, held=not self._text or self.has_goal)
            self._latches.save()

    def _put_in_force(self, instruction: str, cause: Cause | None) -> None:
        if (instruction, cause) == (self._text, self._cause):
            return
        self._text, self._cause = instruction, cause
        self.has_goal &= bool(instruction)
        now_s = self._clock.monotonic_s()
        if not instruction:
            self._none_since_s = now_s
        self._changes_s.append(now_s)
        self._on_change(self._conflict(now_s))

    def _conflict(self, now_s: float) -> Cause | None:
        changes = self._changes_s
        if len(changes) < _MANY_CHANGES or now_s - changes[0] > _CHANGES_WITHIN_S:
            return None
        return Cause(
            Reason.INSTRUCTION_CONFLICT,
            f'the instruction changed {len(changes)} times in {now_s - changes[0]:.1f} s, each '
            f'time before an action could come; publishers on {self.topic}: '
            f'{self._node.count_publishers(self.topic)}; let only one of them instruct',
        )
