# SPDX-License-Identifier: Apache-2.0
"""The action server ``~/execute`` of one robot: one instruction, with a time limit and a result.

A goal is the instruction in force until it ends; it takes precedence over the topic and the
parameter ``instruction``, but for a hold. Used by the executor's thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from action_msgs.msg import GoalStatus
from rclpy.action.server import ActionServer, CancelResponse, GoalEvent, GoalResponse
from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import Trigger

from vla_ros.action import ExecuteInstruction
from vla_ros.graph.stamps import to_duration
from vla_ros.reasons import Cause, Reason, State
from vla_ros.ros.instructions import Instructions
from vla_ros.ros.shared import Shared
from vla_ros.ros.situation import Situation
from vla_ros.scheduling import failure_text
from vla_ros.text import is_blank, printable
from vla_ros.types import InstructionError, check_instruction

_SHORTEST_PERIOD_S = 0.1  # between two feedbacks
_LONGEST_PERIOD_S = 1.0
_ON_ITS_WAY_S = 0.2  # a result, to its client
_READY = (State.HOLDING, State.RUNNING)
# Holds that do not end by themselves: no goal can be carried out.
_LASTING = (Reason.STOPPED, Reason.DISABLED, Reason.SECOND_NODE, Reason.SECOND_PUBLISHER)

_Result = ExecuteInstruction.Result


@dataclass
class _Goal:
    """The goal that is carried out now."""

    handle: Any  # rclpy's ServerGoalHandle
    limit_s: float
    started_s: float
    told: Any = None  # state, reason, message and actions, as in the last feedback
    told_s: float = -math.inf


class GoalView(NamedTuple):
    """What the goals of a robot depend on.

    :param situation: returns the robot's situation.
    :param show_change: publishes the status if the situation has changed.
    """

    situation: Callable[[], Situation]
    show_change: Callable[[], None]


class Goals:
    """Accepts one goal at a time, and decides when it ends."""

    def __init__(
        self,
        node: LifecycleNode,
        shared: Shared,
        prefix: str,
        instructions: Instructions,
        view: GoalView,
    ) -> None:
        """Create the action server.

        :param prefix: prefix of the action's name, after ``~/``.
        """
        self._clock, self._log = shared.clock, shared.log
        self._commands, self._requests = shared.commands, shared.requests
        self._instructions, self._view = instructions, view
        self._name = f'~/{prefix}execute'
        self._goals: list[_Goal] = []  # one at most
        self._ended_s = -math.inf  # when the last one did
        self._server = ActionServer(
            node,
            ExecuteInstruction,
            self._name,
            execute_callback=_never,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._begin,
            cancel_callback=self._on_cancel,
        )

    def close(self) -> None:
        """Destroy the server; a goal that has not ended has no result."""
        self._server.destroy()

    def end(self, cause: Cause) -> bool:
        """End the goal, if there is one; return whether a result may still be on its way."""
        if self._goals:
            self._end(_Result.HELD, cause)
        return self._clock.monotonic_s() - self._ended_s < _ON_ITS_WAY_S

    # -- the client's requests ---------------------------------------------------------------------

    def _on_goal(self, goal: Any) -> GoalResponse:
        try:
            why = self._why_not(goal)
        except Exception as error:  # otherwise the client would wait
            self._log.error(f'{self._name}: {failure_text(error)}')
            why = str(error)
        if why:
            self._requests.requests_refused += 1
            self._log.warning(f'{self._name}: a goal is rejected: {printable(why)}')
            return GoalResponse.REJECT
        self._requests.requests_accepted += 1
        return GoalResponse.ACCEPT

    def _why_not(self, goal: Any) -> str:
        """Return why the goal cannot be carried out now; empty if it can."""
        if is_blank(goal.instruction):
            return 'its instruction is empty; say what to do'
        try:
            check_instruction(goal.instruction)
        except InstructionError as error:
            return str(error)
        if (limit_s := _seconds(goal.time_limit)) <= 0:
            return f'its time_limit is {limit_s:g} s; allowed: above 0'
        if self._goals:
            text = self._goals[0].handle.request.instruction
            return f'the goal {text[:80]!r} is carried out; cancel it, or wait for its result'
        situation = self._view.situation()
        if situation.state not in _READY or situation.reason in _LASTING:
            return f'the robot is not ready: {situation.text}'
        return self._commands.why_not(0)  # rclpy does not tell when a goal was sent

    def _begin(self, handle: Any) -> None:
        limit_s = _seconds(handle.request.time_limit)
        # The goal is executing from now on. Its execute callback runs at its end: one that waits
        # would occupy the executor.
        handle._update_state(GoalEvent.EXECUTE)
        self._goals.append(_Goal(handle, limit_s, self._clock.monotonic_s()))
        self._instructions.begin_goal(handle.request.instruction)
        self._log.info(f'{self._name}: {handle.request.instruction!r} for at most {limit_s:g} s')

    def _on_cancel(self, handle: Any) -> CancelResponse:
        """Accept always: where rclpy rejects one of several, it skips the one after it."""
        if any(goal.handle is handle for goal in self._goals):
            self._end(_Result.CANCELED, Cause(Reason.NONE, 'canceled by its client'))
        elif handle.status == GoalStatus.STATUS_ACCEPTED:  # its client was gone before it began
            message = 'its client was gone before it began'
            result = _Result(outcome=_Result.CANCELED, message=message)
            self._server.notify_execute(handle, lambda one: one.canceled() or result)
        return CancelResponse.ACCEPT  # else it has ended, and its result is on its way

    def succeed(self) -> bool:
        """End the goal with success; return whether there was one."""
        if not self._goals:
            return False
        self._end(_Result.SUCCEEDED, Cause(Reason.NONE, 'succeeded'))
        return True

    # -- regularly ---------------------------------------------------------------------------------

    def watch(self) -> None:
        """End the goal if it can go no further, or tell its client how it goes; call this often."""
        if not self._goals:
            return
        goal, situation = self._goals[0], self._view.situation()
        cause = Cause(situation.reason, situation.message or f'the node is {situation.text}')
        ready = situation.state in _READY and situation.reason not in _LASTING
        if not ready or not self._instructions.has_goal:
            self._end(_Result.HELD, cause)
        elif self._clock.monotonic_s() - goal.started_s > goal.limit_s:
            held = f'; {situation.text}' if cause.reason else ''
            message = f'time_limit, {goal.limit_s:g} s, is over{held}'
            self._end(_Result.TIMED_OUT, Cause(cause.reason, message))
        else:
            self._tell(goal, situation)

    def _tell(self, goal: _Goal, situation: Situation) -> None:
        now_s = self._clock.monotonic_s()
        told = (*situation, self._instructions.goal_actions)
        rested_s = now_s - goal.told_s
        if rested_s < _SHORTEST_PERIOD_S or (told == goal.told and rested_s < _LONGEST_PERIOD_S):
            return
        goal.told, goal.told_s = told, now_s
        feedback = ExecuteInstruction.Feedback(
            state=situation.state,
            reason=situation.reason,
            message=situation.text,
            actions=self._instructions.goal_actions,
            probability=self._instructions.goal_probability,
            elapsed=to_duration(now_s - goal.started_s),
        )
        goal.handle.publish_feedback(feedback)

    def _end(self, outcome: int, cause: Cause) -> None:
        """Hold, and give the client its result."""
        goal, self._ended_s = self._goals.pop(), self._clock.monotonic_s()
        result = _Result(
            outcome=outcome,
            reason=cause.reason,
            message=printable(cause.message),
            actions=self._instructions.goal_actions,
            elapsed=to_duration(self._clock.monotonic_s() - goal.started_s),
        )
        self._instructions.end_goal()
        self._view.show_change()
        self._log.info(f'{self._name}: ended: {result.message}')

        def conclude(handle: Any) -> Any:
            if outcome == _Result.SUCCEEDED:
                handle.succeed()
            elif outcome == _Result.CANCELED:
                handle.canceled()
            else:
                handle.abort()
            return result

        self._server.notify_execute(goal.handle, conclude)


class Succeeding(Protocol):
    """A robot whose goal or recorded episode can succeed."""

    @property
    def goals(self) -> Goals: ...

    def mark_success(self) -> str:
        """Mark the recorded episode; return what to tell, empty if there is none."""


class SuccessService:
    """The service ``~/success`` (Trigger) for one robot or all: their goals and episodes."""

    def __init__(self, node: LifecycleNode, prefix: str, robots: Sequence[Succeeding]) -> None:
        """Create the service.

        :param prefix: prefix of its name, after ``~/``.
        """
        self._robots = robots
        node.create_service(Trigger, f'~/{prefix}success', self._succeed)

    def _succeed(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        # The end of a goal is that of its episode, so the episode comes first.
        marked = [mark for robot in self._robots if (mark := robot.mark_success())]
        ended = sum(robot.goals.succeed() for robot in self._robots)
        told = [f'{ended} goals succeeded'] if ended else []
        told += marked
        response.success = bool(told)
        response.message = '; '.join(told) or 'there is no goal, and no recorded episode'
        return response


def _seconds(duration: Any) -> float:
    return float(duration.sec + duration.nanosec / 1e9)


def _never(_: Any) -> Any:
    raise NotImplementedError('a goal is given its own callback at its end')
