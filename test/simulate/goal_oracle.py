# SPDX-License-Identifier: Apache-2.0
"""What one robot's action server promises: which goals begin, when and how each of them ends.

Computed from the requests and answers of its three services, from the feedback and the statuses of
goals, and from what may end a goal. Where the node has to notice something by itself it has
``NOTICE_S``; until then the goal may go on or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from simulate.parts_oracle import MARGIN_S, NOTICE_S
from simulate.policy import REFUSED
from simulate.scheduler import NS
from vla_ros.msg import VlaStatus
from vla_ros.reasons import Reason, State
from vla_ros.text import is_blank
from vla_ros.types import InstructionError, check_instruction

SUCCEEDED, CANCELED, TIMED_OUT, HELD = range(1, 5)  # outcomes
_ACTIVE = (1, 2, 3)  # statuses of goals: accepted, executing, canceling
_STATUS_OF = {SUCCEEDED: 4, CANCELED: 5, TIMED_OUT: 6, HELD: 6}
_NEXT = {1: (2, 3), 2: (3, 4, 6), 3: (4, 5, 6), 4: (), 5: (), 6: ()}
_LASTING = (Reason.STOPPED, Reason.DISABLED, Reason.SECOND_NODE, Reason.SECOND_PUBLISHER)
_RIVALS = (Reason.SECOND_NODE, Reason.SECOND_PUBLISHER)
_RIVALLED_S = 3.0  # in which a robot may still be held for them
_OF_INSTRUCTIONS = frozenset(
    (
        Reason.NO_INSTRUCTION,
        Reason.INSTRUCTION_REJECTED,
        Reason.INSTRUCTION_STALE,
        Reason.INSTRUCTION_CHANGED,
        Reason.INSTRUCTION_CONFLICT,
    )
)
_ANY = frozenset(Reason)
_FEEDBACK_S = (0.1, 1.0)  # between two
_LATE_S = 0.35  # that a feedback may be late
_SHOWN_S = 0.11  # after a status the next reason is shown immediately
_GRACE_S = 1.0  # after a stall, in which goals are rejected


class Robot(Protocol):
    """What the rules ask about the robot, and change."""

    status: VlaStatus | None
    status_ns: int
    stopped: bool | None
    enabled: bool | None
    instructions: frozenset[str]

    def begin_goal(self, text: str) -> None: ...

    def goal_may_be_over(self) -> None: ...

    def goal_is_over(self, text: str, others: bool) -> None: ...


@dataclass
class Goal:
    """One that has begun.

    :param actions: published for it.
    :param outcome: that it must come to; 0: not known.
    :param reasons: for which it may be held.
    :param due_ns: causes by which it has to end, and since when.
    :param others: another instruction may have been heard since it may have ended.
    :param fed_ns: when the last feedback came.
    """

    instruction: str
    limit_s: float
    began_ns: int
    actions: int = 0
    outcome: int = 0
    reasons: set[Reason] = field(default_factory=lambda: {Reason.POLICY_HUNG})
    due_ns: dict[str, int] = field(default_factory=dict)
    is_in_doubt: bool = False
    may_be_canceled: bool = False
    others: bool = False
    fed_ns: int = 0
    shown: list[tuple[int, int]] = field(default_factory=list)  # when, reason: of the status

    @property
    def limit_ns(self) -> int:
        return self.began_ns + round(self.limit_s * NS)


@dataclass
class _Handle:
    """A goal that was accepted, as the action server knows it.

    :param goal: None: it never begins, as its client was gone.
    """

    goal: Goal | None
    stamp_ns: int
    status: int = 1
    ended_ns: int = 0
    result: Any = None


class GoalOracle:
    """The rules for the goals of one robot, in one process."""

    def __init__(self, robot: Robot, around: Any) -> None:
        self._robot, self._around = robot, around
        self.current: Goal | None = None
        self._handles: dict[bytes, _Handle] = {}
        self._rivalled_ns = -10 * NS
        self._is_ending = False

    def _violation(self, text: str) -> None:
        self._around.violation(f'goals: {text}')

    def _age_s(self, since_ns: int) -> float:
        return (self._around.now_ns() - since_ns) / NS

    # -- what the robot asks -----------------------------------------------------------------------

    @property
    def is_carried_out(self) -> bool | None:
        """Whether the node has a goal; None: perhaps not any more."""
        goal = self.current
        if goal is None:
            return False
        is_sure = not goal.due_ns and not goal.is_in_doubt
        return True if is_sure and self._around.now_ns() < goal.limit_ns else None

    @property
    def has_precedence(self) -> bool | None:
        """Whether other instructions have no effect."""
        goal = self.current
        if goal is not None and ('hold' in goal.due_ns or goal.outcome):
            return False
        return self.is_carried_out

    def others_say(self, text: str) -> None:
        """Somebody gives an instruction, by the topic or the parameter."""
        goal = self.current
        if goal is None:
            return
        if is_blank(text):
            self._must_end('hold', Reason.NO_INSTRUCTION)
        if goal.due_ns or goal.is_in_doubt or self.is_carried_out is not True:
            goal.others = True
            goal.reasons |= _OF_INSTRUCTIONS

    def acted(self, instruction: str) -> None:
        goal = self.current
        if goal is not None and instruction == goal.instruction:
            goal.actions += 1

    # -- what may end it ---------------------------------------------------------------------------

    def _must_end(self, why: str, *reasons: Reason) -> None:
        if self.current is not None:
            self.current.due_ns.setdefault(why, self._around.now_ns())
            self.current.reasons |= set(reasons)

    def _need_not_end(self, why: str) -> None:
        """It may have ended meanwhile."""
        goal = self.current
        if goal is not None and goal.due_ns.pop(why, None) is not None:
            goal.is_in_doubt = True

    def may_be_held(self, reason: Reason) -> None:
        """It may end for this reason."""
        if self.current is not None:
            self.current.reasons.add(reason)

    def may_be_refused(self) -> None:
        """The policy refuses an instruction, perhaps this one."""
        if self.current is not None:
            self.current.is_in_doubt = True
            self.current.reasons.add(Reason.INSTRUCTION_REJECTED)

    def switched(self, is_off: bool) -> None:
        if is_off:
            self._must_end('switch', Reason.STOPPED, Reason.DISABLED)
        else:
            self._need_not_end('switch')

    def lifecycle(self, is_active: bool) -> None:
        if is_active:
            self._need_not_end('lifecycle')
        else:
            self._must_end('lifecycle', *_ANY)

    def process_ends(self) -> None:
        """It has been asked to."""
        self._is_ending = True
        self._must_end('process', Reason.SHUT_DOWN)

    def process_has_ended(self) -> None:
        """And not been killed."""
        goals = [one.goal for one in self._handles.values() if one.status in _ACTIVE]
        if any(goals):
            self._violation('the process has ended, and a goal has no result')

    def rivalled(self, is_noticed: bool) -> None:
        """Others act in the node's place."""
        self._rivalled_ns = self._around.now_ns()
        if self.current is not None:
            self.current.is_in_doubt = True
            self.current.reasons |= {Reason.SECOND_NODE, Reason.SECOND_PUBLISHER}
        if is_noticed:
            self._must_end('rival')

    # -- goals -------------------------------------------------------------------------------------

    def answer(self, request: Any, accepted: bool, is_heard: bool, stamp_ns: int) -> bool:
        """The node has answered to a goal.

        :param is_heard: whether its client is still there.
        :returns: whether the request is counted.
        """
        key, goal = bytes(request.goal_id.uuid), request.goal
        if key in self._handles:
            if accepted:
                self._violation('a goal is accepted whose identifier another one has')
            return False
        limit_s = goal.time_limit.sec + goal.time_limit.nanosec / NS
        surely_not = self._why_surely_not(goal.instruction, limit_s)
        if accepted and surely_not:
            self._violation(f'{goal.instruction[:40]!r} is accepted, though {surely_not}')
        if not accepted and not surely_not and not self._may_reject():
            self._violation(f'{goal.instruction[:40]!r} is rejected, and nothing is wrong')
        if not accepted:
            return True
        begun = Goal(goal.instruction, limit_s, self._around.now_ns())
        begun.fed_ns = begun.began_ns
        if goal.instruction.startswith(REFUSED):
            begun.is_in_doubt = True
            begun.reasons.add(Reason.INSTRUCTION_REJECTED)
        self._handles[key] = _Handle(begun if is_heard else None, stamp_ns)
        if is_heard:
            self.current = begun
            self._robot.begin_goal(goal.instruction)
        return True

    def _why_surely_not(self, text: str, limit_s: float) -> str:
        robot, status = self._robot, self._robot.status
        if is_blank(text):
            return 'its instruction is empty'
        try:
            check_instruction(text)
        except InstructionError:
            return 'its instruction is not usable'
        if limit_s <= 0:
            return f'its limit is {limit_s} s'
        if self.is_carried_out is True:
            return 'there is another one'
        if not self._around.is_active():
            return 'the node is not active'
        if status is not None and status.state in (State.LOADING, State.WARMING_UP):
            return 'the policy is not ready'
        if robot.stopped is True or robot.enabled is False:
            return 'the robot is off'
        return 'the node has stalled' if self._around.stalled_long() else ''

    def _may_reject(self) -> bool:
        robot, status = self._robot, self._robot.status
        is_shown = status is not None and status.state in (State.HOLDING, State.RUNNING)
        is_ready = is_shown and status is not None and status.reason not in _LASTING
        is_on = robot.stopped is False and robot.enabled is True
        is_rivalled = self._age_s(self._rivalled_ns) < _RIVALLED_S
        is_free = self.current is None and not self._is_ending
        stalled = self._around.stalled_lately(_GRACE_S + NOTICE_S)
        return not (is_ready and is_on and is_free) or is_rivalled or stalled

    def cancel(self, request: Any, response: Any) -> None:
        """The node has answered to a request to cancel goals."""
        told = [bytes(one.goal_id.uuid) for one in response.goals_canceling]
        sure = {id(self.current)} if self.is_carried_out else set()
        for key in told:
            handle = self._handles.get(key)
            if handle is None or handle.status not in _ACTIVE:
                self._violation('a goal is said to be canceled that has ended, or never was')
            elif handle.goal is not None and handle.goal is self.current:
                self._cancel(handle.goal)
        for key, handle in self._handles.items():
            is_meant = id(handle.goal) in sure and self._is_meant(request, key, handle)
            if is_meant and handle.goal is not None and key not in told:
                self._violation(f'{handle.goal.instruction!r} is not canceled')

    def _cancel(self, goal: Goal) -> None:
        if self.is_carried_out:
            self._conclude(goal, CANCELED)
        else:
            goal.is_in_doubt = goal.may_be_canceled = True
            self._robot.goal_may_be_over()

    def _is_meant(self, request: Any, key: bytes, handle: _Handle) -> bool:
        wanted = bytes(request.goal_info.goal_id.uuid)
        until = request.goal_info.stamp
        until_ns = until.sec * NS + until.nanosec
        if any(wanted):
            return key == wanted or 0 < handle.stamp_ns <= until_ns
        return not until_ns or 0 < handle.stamp_ns <= until_ns

    def succeed(self) -> None:
        """The service has said that it did so for this robot."""
        if self.current is not None:
            self._conclude(self.current, SUCCEEDED)

    def may_have_succeeded(self) -> None:
        """It, or that of another robot."""
        if self.current is not None:
            self.current.is_in_doubt = True
            self._robot.goal_may_be_over()

    def _conclude(self, goal: Goal, outcome: int) -> None:
        """It surely ends now; what is left is that its client is told."""
        goal.outcome = outcome
        self.current = None
        self._robot.goal_is_over(goal.instruction, goal.others)

    # -- what the node tells -----------------------------------------------------------------------

    def told(self, message: Any) -> None:
        """The statuses of all goals."""
        for one in message.status_list:
            key, status = bytes(one.goal_info.goal_id.uuid), int(one.status)
            handle = self._handles.get(key)
            if handle is None:
                if status != 1:
                    self._violation(f'a goal that is not known has status {status}')
                continue
            if status != handle.status and status not in _NEXT[handle.status]:
                self._violation(f'the status of a goal changes from {handle.status} to {status}')
            if status != handle.status and status not in _ACTIVE:
                handle.ended_ns = self._around.now_ns()
                self._check_end(handle, status)
            handle.status = status

    def _check_end(self, handle: _Handle, status: int) -> None:
        goal = handle.goal
        if goal is None:
            if status != 5:
                self._violation('a goal ends whose client was gone before it began')
            return
        if goal.outcome and _STATUS_OF[goal.outcome] != status:
            self._violation(f'a goal ends with status {status}, its outcome is {goal.outcome}')
        if goal is self.current:
            if status == 5 and not goal.may_be_canceled:
                self._violation('a goal ends as canceled, and nobody canceled it')
            goal.is_in_doubt = True
            self.current = None
            self._robot.goal_is_over(goal.instruction, goal.others)

    def feed(self, message: Any) -> None:
        """Feedback."""
        handle = self._handles.get(bytes(message.goal_id.uuid))
        goal = handle.goal if handle is not None else None
        if goal is None or goal is not self.current:
            self._violation('there is feedback of a goal that is not carried out')
            return
        feedback, status = message.feedback, self._robot.status
        rested_s = self._age_s(goal.fed_ns)
        if goal.fed_ns > goal.began_ns and rested_s < _FEEDBACK_S[0] - MARGIN_S:
            self._violation(f'feedback again after {rested_s:.3f} s')
        goal.fed_ns = self._around.now_ns()
        if self._age_s(goal.limit_ns) < 0 and not goal.due_ns:
            goal.is_in_doubt = goal.instruction.startswith(REFUSED)
        if feedback.actions != goal.actions:
            self._violation(f'feedback of {feedback.actions} actions, there are {goal.actions}')
        expected = 1.0 if goal.actions else math.nan
        if feedback.probability != expected and not (
            math.isnan(feedback.probability) and math.isnan(expected)
        ):
            self._violation(f'feedback of probability {feedback.probability}, not {expected}')
        self._check_elapsed('feedback', feedback.elapsed, self._age_s(goal.began_ns))
        if status is not None and feedback.state != status.state:
            self._violation(f'feedback of state {feedback.state}, the status has {status.state}')
        is_shown = status is not None and self._age_s(self._robot.status_ns) > _SHOWN_S
        if status is not None and is_shown and feedback.reason != status.reason:
            self._violation(f'feedback of reason {feedback.reason}, the status has {status.reason}')

    def _check_elapsed(self, what: str, elapsed: Any, age_s: float) -> None:
        elapsed_s = elapsed.sec + elapsed.nanosec / NS
        if abs(elapsed_s - age_s) > MARGIN_S and not self._around.stalled_lately(NOTICE_S):
            self._violation(f'{what}: {elapsed_s:.3f} s have elapsed, in truth {age_s:.3f} s')

    def status_shown(self, status: VlaStatus) -> None:
        """The robot's."""
        if self.current is not None and status.instruction == self.current.instruction:
            self.current.shown.append((self._around.now_ns(), status.reason))

    def result(self, request: Any, response: Any) -> None:
        """The node has given a goal's result."""
        handle = self._handles.get(bytes(request.goal_id.uuid))
        if handle is None:
            if response.status:
                self._violation(f'a result of status {response.status} of an unknown goal')
            return
        if response.status == 0 and self._age_s(handle.ended_ns) > 0:
            return  # it was forgotten, as the clock has leapt
        if response.status != handle.status or handle.status in _ACTIVE:
            self._violation(f'a result of status {response.status}, the goal has {handle.status}')
        if handle.result is None:
            handle.result = response.result
            if handle.goal is not None:
                self._check_result(handle, handle.goal, response.result)
        elif handle.result != response.result:
            self._violation(f'another result of the same goal: {response.result}')

    def _check_result(self, handle: _Handle, goal: Goal, result: Any) -> None:
        outcome = int(result.outcome)
        what = f'{goal.instruction[:40]!r} ends with outcome {outcome}, {result.message!r}'
        if _STATUS_OF.get(outcome) != handle.status:
            self._violation(f'{what}: its status is {handle.status}')
        if goal.outcome and goal.outcome != outcome:
            self._violation(f'{what}: it should be {goal.outcome}')
        if not goal.outcome and outcome == CANCELED and not goal.may_be_canceled:
            self._violation(f'{what}: nobody canceled it')
        if result.actions != goal.actions or not result.message:
            self._violation(f'{what}: {result.actions} actions, there were {goal.actions}')
        elapsed_s = result.elapsed.sec + result.elapsed.nanosec / NS
        if outcome == TIMED_OUT and elapsed_s < goal.limit_s - MARGIN_S:
            self._violation(f'{what} after {elapsed_s:.3f} s of {goal.limit_s} s')
        ended_s = (handle.ended_ns - goal.began_ns) / NS
        is_right = ended_s - NOTICE_S < elapsed_s < ended_s + MARGIN_S
        if not is_right and not self._around.stalled_lately(
            self._age_s(handle.ended_ns) + NOTICE_S
        ):
            self._violation(f'{what} after {elapsed_s:.3f} s, it took {ended_s:.3f} s')
        self._check_reason(what, goal, outcome, Reason(result.reason), goal.began_ns, elapsed_s)

    def _check_reason(
        self, what: str, goal: Goal, outcome: int, reason: Reason, began_ns: int, elapsed_s: float
    ) -> None:
        if outcome in (SUCCEEDED, CANCELED):
            if reason:
                self._violation(f'{what} for reason {reason.name}')
            return
        is_rivalled = reason in _RIVALS and self._age_s(self._rivalled_ns) < _RIVALLED_S
        if outcome == HELD and reason not in goal.reasons and not is_rivalled:
            names = ', '.join(sorted(one.name for one in goal.reasons)) or 'nothing'
            self._violation(f'{what}: {reason.name}, and there was {names}')
        end_ns = began_ns + round(elapsed_s * NS)
        before = [one for one in goal.shown if one[0] <= end_ns + MARGIN_S * NS]
        is_shown = bool(before) and (end_ns - before[-1][0]) / NS > _SHOWN_S
        if outcome == TIMED_OUT and is_shown and before[-1][1] != reason:
            self._violation(f'{what}: {reason.name}, the status said {before[-1][1]}')

    # -- regularly ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Check that goals have ended which have to, and that their clients are told."""
        now_ns, goal = self._around.now_ns(), self.current
        for handle in self._handles.values():
            if handle.goal is not None and handle.goal.outcome and handle.status in _ACTIVE:
                handle.ended_ns = handle.ended_ns or now_ns
                if self._age_s(handle.ended_ns) > NOTICE_S:
                    self._violation('a goal is over, and its client is not told')
                    handle.status = _STATUS_OF[handle.goal.outcome]
        if goal is None:
            return
        due_ns = {**goal.due_ns, 'limit': goal.limit_ns}
        late = [why for why, since_ns in due_ns.items() if self._age_s(since_ns) > NOTICE_S]
        if late:
            self._violation(f'{goal.instruction!r} goes on, and should end by {", ".join(late)}')
            self.current = None
        elif self._age_s(goal.fed_ns) > _FEEDBACK_S[1] + _LATE_S:
            self._violation(f'{goal.instruction!r} goes on, and its client is told nothing')
            goal.fed_ns = now_ns
