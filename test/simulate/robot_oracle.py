# SPDX-License-Identifier: Apache-2.0
"""What one robot's part of the node promises, checked action by action, twist by twist.

It knows what the node took and what the robot's clock was, and keeps a model of which images may
still become an action. Where the node may do one thing or the other (a command whose age is near
the bound), both are allowed until the node tells which it was.

An event *voids* what was taken before it: no action may come of that any more, and the robot holds
until an action of something later. Where the node has to notice by itself (a clock, a silent
camera) it has until its next look, ``NOTICE_S``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulate.goal_oracle import GoalOracle
from simulate.joint_oracle import JointOracle
from simulate.motion_oracle import ChunkTimes, MotionOracle, with_period
from simulate.parameter_oracle import contracts_of
from simulate.parameter_oracle import frame_of as frame_of_robot
from simulate.parts_oracle import (
    MARGIN_S,
    NOTICE_S,
    AssemblyOracle,
    CameraOracle,
    Join,
    Seen,
    TakenState,
)
from simulate.plan import Shape
from simulate.policy import REFUSED, Call, Frame, is_sound
from simulate.replan_oracle import ReplanOracle
from simulate.scheduler import NS
from simulate.state_oracle import Felt, StatePartsOracle, parts_of
from simulate.target_oracle import TargetOracle
from simulate.world import MAX_SKEW_S
from vla_ros.motion import ActionContract, JointContract
from vla_ros.msg import VlaCounters, VlaStatus
from vla_ros.parameters.definition import JOINT_MOTIONS
from vla_ros.reasons import Reason, State
from vla_ros.scheduling.accounts import EQUATIONS, GAUGES, TWIST_EQUATIONS, unaccounted
from vla_ros.text import is_blank
from vla_ros.types import InstructionError, check_instruction

_SAME = 5e-4  # a step that is none: a moment is known by some milliseconds
_ZERO_S = 0.2  # for which zero is repeated
_STANDSTILL_S = 0.25  # or a little more
_HAND_OVER_S = 0.03  # from taking an image to its being in the slot, at most
_KEPT = 400  # images
_LONG_STALL_S = 1.5  # after it the robot holds for the stall
_STEADY_S = 0.5  # after an event the reason is that of what lasts
_RIVALLED_S = 1.5  # in which the node has noticed that others no longer act in its place
_LONGEST_STALL_S = 10.0  # of the executor's thread
_UNSURE_GRIPPERS = 10
_MOST_RARE_S = 0.4  # between two images of a sound camera
_CALM_S = 2.5  # without a disturbance; then there has to be an action

_HELD_FOR = {
    'unstamped': Reason.IMAGE_UNSTAMPED,
    'future': Reason.IMAGE_FUTURE,
    'backwards': Reason.IMAGE_BACKWARDS,
    'frozen': Reason.IMAGE_FROZEN,
    'rejected': Reason.IMAGE_REJECTED,
}
_SILENT = (Reason.IMAGE_TIMEOUT, Reason.NO_SIMULATED_TIME)
_UNFIT = (Reason.IMAGES_APART, Reason.STATE_MISSING, Reason.STATE_STALE)
# Reasons that an inference gives after the robot has begun to hold for want of an observation.
_OF_INFERENCES = (
    Reason.IMAGE_STALE,
    Reason.INFERENCE_OVERRUN,
    Reason.ACTION_TOO_OLD,
    Reason.POLICY_FAILED,
    Reason.ACTION_INVALID,
)
_OF_ASSEMBLY = ('sync_tolerance_s', 'image_timeout_s', 'state_timeout_s', 'frozen_image_timeout_s')
_OF_MOTION = (
    'contracts',
    'control_rate_hz',
    'frame_id',
    'max_pose_age_s',
    'max_linear_speed_m_s',
    'max_angular_speed_rad_s',
    'max_linear_jerk_m_s3',
    'max_angular_jerk_rad_s3',
)
_OF_JOINTS = (
    'max_joint_speed_rad_s',
    'max_joint_acceleration_rad_s2',
    'max_joint_age_s',
    'max_joint_lead_rad',
)
_COUNTED = ('unstamped', 'rejected', 'states_received', 'states_rejected', 'states_unrelated')
_MONOTONIC = tuple(name for name in VlaCounters.get_fields_and_field_types() if name not in GAUGES)


@dataclass
class Shown:
    """One observation that the policy was asked about.

    :param member: its place in the batch of the call.
    """

    call: Call
    member: int
    images: Sequence[Seen]


@dataclass
class Acted:
    """The last action.

    :param due_ns: of row 0, by the node's clock.
    :param ramp_s: how long its motion takes to reach its speed, and to lose it.
    :param period_s: time between two rows, of which there are ``horizon``.
    """

    published_ns: int
    node_ns: int
    due_ns: int
    valid_ns: int
    period_s: float
    ramp_s: float
    horizon: int


@dataclass(frozen=True)
class Surroundings:
    """What a robot's rules ask about the rest.

    :param node_ns: the node's clock now.
    :param motion_ns: a stamp of now, by the clock that motions run by.
    :param is_active: by the lifecycle.
    :param is_ending: whether the process was asked to end: it listens to states no more, or still.
    :param stalled_lately: whether the executor's thread did not run, now or a moment ago.
    :param stalled_in_callback: whether it stalled since the callback began that runs now.
    :param stalled_long: whether it did so for more than a second just now, and surely noticed.
    :param any_stalled_lately: whether any thread stalled, now or a moment ago.
    :param worker_free_ns: since when the policy was asked nothing; in a call: until its begin.
    :param queue_s: how long an image that is taken now may wait for the inference before it.
    """

    now_ns: Callable[[], int]
    node_ns: Callable[[], int]
    motion_ns: Callable[[int], int]
    is_active: Callable[[], bool]
    is_simulated: Callable[[], bool]
    is_ending: Callable[[], bool]
    stalled_lately: Callable[[float], bool]
    stalled_in_callback: Callable[[], bool]
    stalled_long: Callable[[], bool]
    any_stalled_lately: Callable[[float], bool]
    worker_free_ns: Callable[[], int]
    queue_s: Callable[[], float]
    violation: Callable[[str], None]


class RobotOracle:
    """The rules for one robot."""

    def __init__(
        self,
        number: int,
        name: str,
        parameters: dict[str, Any],
        shape: Shape,
        surroundings: Surroundings,
    ) -> None:
        self.number = number
        self._name = name
        self._params = parameters
        self._shape = shape
        self._around = surroundings
        self.stopped: bool | None = False  # None: not known
        self.held: bool | None = False  # the operator's last word was no instruction
        self._said_ns = 0
        self.enabled: bool | None = parameters['enabled']
        self.actions = 0
        self.forget_process()

    # -- what happens to the process ---------------------------------------------------------------

    def forget_process(self) -> None:
        """Another one begins."""
        self.status: VlaStatus | None = None
        self.status_ns = self._around.now_ns()
        self.instructions = frozenset(('',))
        self.goals = GoalOracle(self, self._around)
        if not self._params['enabled']:
            self.enabled = False  # whatever the operator enabled before
        self.configure()

    def configure(self) -> None:
        """Counted from zero."""
        self.epoch = 0
        self._before: dict[str, tuple[int, Any]] = {}  # values that were replaced, and when
        self.must_hold = True  # until an action
        self._voided_ns: int | None = None  # to be noticed
        around, cameras = self._around, range(len(self._shape.cameras))
        self._images: deque[Seen] = deque(maxlen=_KEPT)
        self._cameras = [CameraOracle(self._params, around.now_ns, around.node_ns) for _ in cameras]
        self._assembly = AssemblyOracle(
            len(cameras), bool(self._shape.state_dim), self._params, around.now_ns
        )
        self._state_rejected_ns = 0
        self._doubts: deque[tuple[int, int]] = deque(maxlen=_KEPT)  # when, and the epoch before
        self._refused_ns: int | None = None  # when the policy refused an instruction
        self.received = 0
        self._fresh_ns = 0  # when an observation was complete that may wait a little
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._parts = StatePartsOracle(
            self._params, self.number, self._shape.state_dim, around.now_ns
        )
        self.sequence = 0
        self._last_call: Call | None = None
        self._shown: deque[Shown] = deque(maxlen=_KEPT)
        self._acted: Acted | None = None
        self._shows_end = False  # the next target, where an action ended the motion
        self._last_counters: dict[str, int] = {}
        oracle = TargetOracle if self._params['motion'] == 'pose' else MotionOracle
        self._motion = oracle(self._params, self.number, self._violation)
        self._joints = JointOracle(self._params, around.now_ns, self._violation)
        self._replan = ReplanOracle(self._params, around.now_ns)
        self._last_twist = np.zeros(6)
        self._aimed_in_hold = True  # the last target was published while it had to hold
        self._advanced = (0, 0)  # the last stamp of a twist, and when it was another one
        self._kept_ramp_s = 0.0  # of a motion that goes on, perhaps, by limits that were replaced
        self._zeros = 0
        self._grippers = 0  # told where to be
        self._rivalled_ns = -10 * NS
        self._skipped = np.zeros(2, int)  # rows, at least and at most
        self._clipped_by_box = np.zeros(2, int)  # motions, the same
        self._may_be_none = 0  # actions that may be no motion
        self._surely_none = 0  # that are none
        self._owes_zero = False
        self._owes_status = False
        self._owed_reason: Reason | None = None
        self._held_ns = 0  # when an event last made the robot hold
        self.calm_since_ns = self._around.now_ns()
        self.acted_ns = self._around.now_ns()

    def activate(self) -> None:
        """It listens, from now on, to topics that it has not heard."""
        for camera in self._cameras:
            camera.start_over()
        self._assembly.start_over()
        self._parts.start_over()
        self._motion.perhaps_forget_gripper()
        self.void()

    def begin_with(self, instruction: str) -> None:
        """A configuration's own instruction; the operator may have said hold."""
        if instruction and '' in self.instructions and self.held is not True:
            self._may_be(self.instructions | {instruction})

    def may_change(self, name: str) -> None:
        """A request is under way that sets a parameter; the worker may know before the answer."""
        if name == 'replan_rows':
            self._replan.change()

    def parameter_changed(self, name: str, before: Any) -> None:
        """One was set while it may act; other limits leave the last motion its ramp."""
        self.disturb()
        self._before[name] = (self._around.now_ns(), before)
        self._zeros = 0
        if name == 'sync_tolerance_s':
            self._assembly.change_tolerance(self._params[name])
        if name in ('chunk_timing', 'workspace_m'):
            self._motion.change_way()
        is_other = parts_of(self._params, self._shape.state_dim) != self._parts.parts
        if name in ('image_transport', 'image_reliability') or is_other:
            self.activate()  # it listens to other topics
        if name == 'frame_id':
            self._parts.change_frame()
        if name in _OF_ASSEMBLY:
            self._assembly.doubt()
        if name in (*_OF_MOTION, *_OF_JOINTS):
            self._joints.doubt()
        if name in _OF_MOTION:
            self._motion.change_limits()
            self._kept_ramp_s = max(self._kept_ramp_s, self._acted.ramp_s if self._acted else 0.0)
        self._replan.lift()

    def _age_s(self, name: str) -> float:
        """Since when a parameter has its value."""
        return (self._around.now_ns() - self._before.get(name, (0, None))[0]) / NS

    def _most(self, name: str) -> float:
        """The limit in force, or the one of a moment ago if that was higher."""
        at_ns, before = self._before.get(name, (0, 0.0))
        is_new = self._around.now_ns() - at_ns < NOTICE_S * NS
        return float(max(self._params[name], before if is_new else 0.0))

    # -- voiding -----------------------------------------------------------------------------------

    def void(
        self, at_once: bool = True, until_ns: int | None = None, reason: Reason | None = None
    ) -> None:
        """What was taken so far may not become an action.

        :param at_once: the event itself makes the robot hold; else a look at the surroundings does.
        :param until_ns: what was taken from then on may.
        :param reason: that a robot which was RUNNING has to give; None: any.
        """
        self.epoch += 1
        self._replan.lift()
        for image in self._images:
            if until_ns is not None and image.taken_ns >= until_ns:
                image.epoch = self.epoch
        self.disturb()
        if not at_once:
            self._assembly.doubt()
            self._voided_ns = self._voided_ns or self._around.now_ns()
            return
        self._assembly.drop()
        self.must_hold = True
        self._zeros = 0
        self._owes_zero = bool(self._last_twist.any())
        self._joints.hold()
        self._owes_status = self.status is not None and self.status.state == State.RUNNING
        self._owed_reason = reason
        self._held_ns = self._around.now_ns()
        self._acted = None

    def expect_hold(self, call: Call, member: int) -> None:
        """The inference has failed; the robot has to hold soon, unless it dropped it before."""
        self._replan.lift()
        for one in self._shown:
            if one.call is call and one.member == member:
                is_current = all(image.epoch == self.epoch for image in one.images)
                if is_current and min(image.taken_ns for image in one.images) > self.acted_ns:
                    self._voided_ns = self._voided_ns or self._around.now_ns()

    def waits_since_s(self, since_ns: int) -> float:
        """For how long a sound observation has waited that was complete after that; 0: none has.

        One that waits for rows of a chunk does not wait for an inference.
        """
        if self._replan.is_on:
            return 0.0
        waiting = self._joins_after(since_ns)
        return (self._around.now_ns() - waiting[0].at_ns) / NS if waiting else 0.0

    def _joins_after(self, since_ns: int) -> list[Join]:
        """Return the observations of which all images came after that moment, and still count.

        The node may have joined an image that came before with another one.
        """
        return [
            join
            for join in self._assembly.joins
            if all(
                image.taken_ns > since_ns and not image.fault and image.epoch == self.epoch
                for image in join.images
            )
        ]

    def doubt_wanted(self) -> None:
        """Others act in the node's place, and it may have noticed: then it wants no images."""
        self._rivalled_ns = self._around.now_ns()
        self.goals.rivalled(is_noticed=False)
        self._motion.perhaps_forget_gripper()
        self._assembly.doubt()

    @property
    def _surely_wants(self) -> bool:
        """Whether each sound image surely becomes part of an observation."""
        is_on = self.stopped is False and self.enabled is True and self._around.is_active()
        is_told = len(self.instructions) == 1 and '' not in self.instructions
        return is_on and is_told and self._around.now_ns() - self._rivalled_ns > _RIVALLED_S * NS

    def disturb(self) -> None:
        """It need not act now."""
        self.calm_since_ns = self._around.now_ns()

    def end_of_callback(self) -> None:
        if self._owes_zero:
            self._owes_zero = False
            self._violation('it holds, and its last twist is not zero')
        if self._owes_status:
            self._owes_status = False
            self._violation('it holds, and its status still says RUNNING')

    # -- the operator ------------------------------------------------------------------------------

    def hear(self, text: str, late: bool | None) -> None:
        """
        :param late: too late to be obeyed; None: perhaps.
        """
        is_blank_text = is_blank(text)
        has_goal = self.goals.has_precedence and not is_blank_text
        is_unsure = self.goals.has_precedence is None and not is_blank_text
        self.goals.others_say(text)
        if has_goal:
            return
        self._said_ns = self._around.now_ns()
        text = _usable(text)
        self.disturb()
        options = {'' if late else text}
        if is_unsure:
            options |= {'', *self.instructions}
        if late is None or text.startswith(REFUSED):
            options.add('')
        self.held = options == {''} if len(options) == 1 else None
        self._may_be(frozenset(options))

    def begin_goal(self, text: str) -> None:
        """A goal has been accepted; after it the operator's last word is no instruction."""
        self._said_ns = self._around.now_ns()
        self.held = True
        self.disturb()
        self._may_be(frozenset((text, '') if text.startswith(REFUSED) else (text,)))

    def goal_may_be_over(self) -> None:
        """And its instruction with it."""
        self._may_be(self.instructions | {''})

    def goal_is_over(self, text: str, others: bool) -> None:
        """
        :param others: another instruction may have been heard since it may have ended.
        """
        left = self.instructions - {text} if others else frozenset()
        self.disturb()
        self._may_be(left | {''})

    def killed(self) -> None:
        """In the midst of something, perhaps."""
        if (self._around.now_ns() - self._said_ns) / NS < MARGIN_S:
            self.held = None

    def may_be_told(self, text: str) -> None:
        """A request is under way that says so."""
        self._may_be(self.instructions | {_usable(text)})

    def policy_fails(self, reason: Reason) -> None:
        """The node is in ERROR from now on, and goals end by that.

        It may tell so before it deactivates: its ERROR is in force by then, and a goal's
        instruction is no more.
        """
        self.goals.may_be_held(reason)
        self.may_be_told('')

    def policy_refuses(self) -> None:
        """The policy has refused an instruction; the node is to be told of it."""
        self._refused_ns = self._around.now_ns()
        self.goals.may_be_refused()
        self.refuse_instruction()

    def _may_be_unheard(self, since_ns: int) -> bool:
        """Whether the executor may not know yet what the policy has answered."""
        age_s = (self._around.now_ns() - since_ns) / NS
        is_stalled = age_s < _LONGEST_STALL_S and self._around.stalled_lately(age_s)
        return age_s < NOTICE_S or is_stalled

    def refuse_instruction(self) -> None:
        """The policy may have refused the one in force, or nobody repeated it in time."""
        self.held = self.held or None
        self._may_be(self.instructions | {''})

    def forget_instruction(self) -> None:
        self._may_be(frozenset(('',)))

    def _may_be(self, instructions: frozenset[str]) -> None:
        before, self.instructions = self.instructions, instructions
        if not before & instructions:
            self.void()
        elif before != instructions:
            self._assembly.doubt()  # with another one the node drops the images that wait

    def switch(self, what: str, on: bool) -> None:
        """A service has answered that it is done."""
        if what == 'enable' and on and self.stopped:
            self._violation('it is enabled, though it was stopped and not reset')
        if what == 'enable' and on and self.enabled:
            return
        if what == 'stop':
            self.stopped, self.enabled = True, False
        elif what == 'reset':
            self.stopped = False
        else:
            self.enabled = on
        if what != 'reset':
            self.goals.switched(self.enabled is False)
        self._motion.perhaps_forget_gripper()
        self.void()

    def forget_switches(self) -> None:
        """The process ended before it answered."""
        self.stopped = self.enabled = None

    @property
    def may_act(self) -> bool:
        allowed = self.stopped is not True and self.enabled is not False
        return allowed and self._around.is_active() and self.instructions != {''}

    # -- images and inferences ---------------------------------------------------------------------

    def see(self, stamp_ns: int, frame: Frame, usable: bool) -> None:
        """The node takes an image."""
        self.received += 1
        now_ns = self._around.now_ns()
        fault = self._cameras[frame.camera].judge(stamp_ns, frame, usable)
        if fault in self._counts:
            self._counts[fault] += 1
        seen = Seen(stamp_ns, frame, fault, self.epoch, self.instructions, now_ns)
        if fault in _HELD_FOR:
            self.void(reason=_HELD_FOR[fault])
        elif fault:
            self.disturb()
        self._images.append(seen)
        if fault == 'perhaps' or (not fault and not self._surely_wants):
            self._assembly.doubt()
        elif not fault:
            self._joined(self._assembly.add(seen))

    def feel(self, message: Any) -> None:
        """The node takes a state."""
        values = tuple(message.position)
        if len(values) != self._shape.state_dim or not np.isfinite(values).all():
            self._feel(Felt(is_rejected=True))
        else:
            self._feel(Felt(values=values, stamp_ns=_ns(message.header.stamp)))

    def _feel(self, felt: Felt) -> None:
        self._counts['states_received'] += 1
        self._counts['states_unrelated'] += felt.is_unrelated
        if felt.is_rejected:
            self._counts['states_rejected'] += 1
            self._state_rejected_ns = self._around.now_ns()
            self.void(reason=Reason.STATE_REJECTED)
            return
        if self._parts.is_unsure:
            self._assembly.doubt()
        if not felt.values:
            return
        state = TakenState(felt.values, felt.stamp_ns, self._around.now_ns())
        self._assembly.states.add(state)
        if self._surely_wants:
            self._joined(self._assembly.join())
        else:
            self._assembly.doubt()

    def _joined(self, join: Join | None) -> None:
        """An observation is complete; note whether it may wait for an inference."""
        if join is None:
            return
        stamp_ns = min(image.stamp_ns for image in join.images)
        age_s = (self._around.node_ns() - stamp_ns) / NS
        oldest_s = age_s + self._around.queue_s()  # when its turn comes
        if oldest_s < self._params['max_image_age_s'] - NOTICE_S / 2:
            self._fresh_ns = self._around.now_ns()

    def doubt_clock(self, is_jump: bool) -> None:
        """The node's clock has jumped; it notices soon, and forgets the last stamp.

        :param is_jump: whether the states so far were stamped by another clock.
        """
        self._doubts.append((self._around.now_ns(), self.epoch))
        self.void(at_once=False)
        if is_jump:
            self._assembly.states.doubt_clock()
        self._parts.doubt_clock()
        for camera in self._cameras:
            camera.doubt_clock()
        self._motion.poses.doubt(self._around.now_ns())
        self._motion.perhaps_forget_gripper()
        self._joints.doubt()

    @property
    def _in_doubt(self) -> bool:
        return any(camera.in_doubt for camera in self._cameras)

    def need_not_notice(self, since_ns: int) -> None:
        """The clock is again what it was then: what was under way may go on or not."""
        self.disturb()
        self._voided_ns = None
        self._motion.doubt()
        self._motion.poses.doubt(self._around.now_ns())
        self._assembly.doubt()
        self._assembly.states.need_not_notice()
        self._parts.doubt_clock()
        epochs = [epoch for at_ns, epoch in self._doubts if at_ns >= since_ns]
        for image in self._images:
            if epochs and image.epoch >= epochs[0] and not image.fault:
                image.epoch, image.fault = self.epoch, 'perhaps'

    def begin_call(self, call: Call, member: int) -> None:
        """The policy is asked about one of this robot's observations."""
        self._last_call = call
        observation = call.observations[member]
        images = self._find_images(call, member)
        if len(images) < len(self._shape.cameras):
            return
        frames = [tuple(image.frame) for image in images]
        if not all(observation.instruction in image.instructions for image in images):
            self._violation(f'{frames} are shown with instruction {observation.instruction!r}')
        if not self._assembly.are_close(images):
            stamps_ns = [image.stamp_ns for image in images]
            self._violation(f'{frames} are shown, and were captured apart: {stamps_ns}')
        self._check_state(observation.state, images)
        for image in images:
            image.shown = True
        self._shown.append(Shown(call, member, images))
        self._check_replan(call, images)
        self._check_wait(images)
        self._check_newest(images)

    def _check_replan(self, call: Call, images: Sequence[Seen]) -> None:
        if self.must_hold or self._around.any_stalled_lately(_STEADY_S) or self._in_doubt:
            self._replan.lift()
        stamp_ns = min(image.stamp_ns for image in images)
        if why := self._replan.ask(call, stamp_ns, self._around.node_ns()):
            self._violation(f'{[tuple(image.frame) for image in images]}: {why}')

    def _find_images(self, call: Call, member: int) -> list[Seen]:
        """Return the images of an observation, as they were taken; each is shown once."""
        observation, found = call.observations[member], []
        for number, name in enumerate(self._shape.cameras):
            frame, stamp_ns = call.frames[member].get(name), observation.stamps_ns.get(name)
            images = [
                one
                for one in self._images
                if one.frame == frame
                and one.stamp_ns == stamp_ns
                and one.frame.camera == number
                and one.may_count
            ]
            if not images:
                self._violation(f'the policy is shown {frame}, which no sound image showed')
                continue
            unused = [one for one in images if not one.shown]
            if not unused:
                self._violation(f'the policy is shown {frame} once more')
            found.append((unused or images)[-1])
        return found

    def _check_state(self, state: Any, images: Sequence[Seen]) -> None:
        if not self._shape.state_dim:
            if state is not None:
                self._violation('the policy is given a state, and needs none')
            return
        if not self._assembly.is_settled() or self._parts.is_unsure:
            return
        why_not = self._assembly.states.why_not(images, () if state is None else state.tolist())
        if why_not:
            self._violation(f'the policy is given the state {state}: {why_not}')

    def _check_newest(self, images: Sequence[Seen]) -> None:
        overtaken = self._joins_after(max(image.taken_ns for image in images))
        if not overtaken or any(image.epoch != self.epoch for image in images):
            return
        waited_s = (self._around.now_ns() - overtaken[-1].at_ns) / NS
        if waited_s > _HAND_OVER_S and not self._around.any_stalled_lately(waited_s + NOTICE_S):
            frames = [tuple(image.frame) for image in images]
            self._violation(f'{frames} are shown, and newer ones wait for {waited_s:.3f} s')

    def _check_wait(self, images: Sequence[Seen]) -> None:
        """It is neither too old nor did it wait while the worker had nothing to do."""
        needs_state = bool(self._shape.state_dim)
        complete_ns = self._assembly.states.surely_complete_ns(images, needs_state)
        idle_since_ns = max(complete_ns, self._around.worker_free_ns())
        waited_s = (self._around.now_ns() - idle_since_ns) / NS
        is_settled = self._assembly.is_settled() and not self._parts.is_unsure
        if self._around.any_stalled_lately(waited_s + NOTICE_S) or not is_settled:
            return
        frames = [tuple(image.frame) for image in images]
        if waited_s > _HAND_OVER_S and not self._replan.is_on:
            self._violation(f'{frames} wait {waited_s:.3f} s for an idle worker')
        age_s = (self._around.node_ns() - min(image.stamp_ns for image in images)) / NS
        limit_s = self._most('max_image_age_s')
        if age_s > limit_s + _HAND_OVER_S and not self._in_doubt:
            self._violation(f'the policy is shown an image that is {age_s:.3f} s old')

    # -- actions -----------------------------------------------------------------------------------

    def act(self, action: Any) -> None:
        self.actions += 1
        self.sequence += 1
        now_ns, node_ns = self._around.now_ns(), self._around.node_ns()
        self.goals.acted(action.instruction)
        stamp_ns = _ns(action.observation_stamp)
        what = f'action {action.sequence} of stamp {stamp_ns}'
        if action.sequence != self.sequence:
            self._violation(f'{what}: the sequence number should be {self.sequence}')
            self.sequence = action.sequence
        if not self.may_act:
            self._violation(f'{what}: {self._why_not()}')
        if action.instruction not in self.instructions:
            self._violation(f'{what}: {action.instruction!r} is not in force: {self.instructions}')
        self._check_frame(what, action.header.frame_id)
        images = self._check_source(what, action, stamp_ns)
        self._check_times(what, action, stamp_ns, node_ns)
        self.instructions = frozenset((action.instruction,))
        self.must_hold, self._voided_ns = False, None
        self.acted_ns = now_ns
        may_be_none = self._may_be_none
        self._begin_motion(action, now_ns, node_ns, images)
        moves = self._may_be_none == may_be_none and not self._motion.is_guided
        self._replan.act(action, moves or self._params['motion'] == 'none')

    def _check_frame(self, what: str, frame: str) -> None:
        expected = frame_of_robot(self._params, self.number)
        if frame != expected:
            self._violation(f'{what}: it is in the frame {frame!r}, should be {expected!r}')

    def _begin_motion(self, action: Any, now_ns: int, node_ns: int, images: Sequence[Seen]) -> None:
        if self._params['motion'] in JOINT_MOTIONS:
            self._begin_joints(action)
            return
        contract = self._contract(action.unnorm_key)
        stamp_ns, due_ns = _ns(action.header.stamp), _ns(action.due)
        valid_ns = _ns(action.valid_until) - due_ns
        if contract is None:
            self._may_be_none += 1
            self._motion.doubt()
            return
        contract = with_period(contract, _ns(action.period) / NS)
        ramp_s = self._motion.ramp_s(contract)
        acted = Acted(now_ns, node_ns, due_ns, valid_ns, contract.period_s, ramp_s, action.horizon)
        if self._motion.is_guided and images:
            self._begin_guided(action, acted, contract, images[0].stamp_ns)
            return
        late_s = (stamp_ns - due_ns) / NS
        for row in range(acted.horizon):
            row_left_s = row * acted.period_s + self._row_s(acted) - late_s
            has_time = self._row_s(acted) > MARGIN_S  # otherwise the whole chunk may be refused
            kept_s = 2 * max(0.0, self._kept_ramp_s - ramp_s)
            self._skipped += (has_time and row_left_s < -MARGIN_S, row_left_s < MARGIN_S + kept_s)
        left_s = self._lasts_s(acted) - late_s
        if self._row_s(acted) <= MARGIN_S or left_s < MARGIN_S:
            self._may_be_none += 1
            self._motion.doubt()
        if left_s < -MARGIN_S:  # all of its rows are past, surely
            self._end_motion()
            return
        self._acted = acted
        if self._row_s(acted) > MARGIN_S and left_s >= MARGIN_S:
            rows = np.reshape(action.actions, (action.horizon, -1)).tolist()
            start_ns = self._around.motion_ns(stamp_ns)
            self._motion.follow(rows, contract, start_ns - stamp_ns + due_ns, start_ns, valid_ns)

    def _contract(self, key: str) -> ActionContract | None:
        """The meaning of displacements of a data set, if that is known."""
        contract = (contracts_of(self._params['contracts']) or {}).get(key)
        return contract if isinstance(contract, ActionContract) else None

    def _begin_guided(
        self, action: Any, acted: Acted, contract: ActionContract, image_ns: int
    ) -> None:
        """Of a motion that goes by the pose of the tool."""
        stamp_ns = _ns(action.header.stamp)
        start_ns = self._around.motion_ns(stamp_ns)
        times = ChunkTimes(
            start_ns - stamp_ns + acted.due_ns,
            start_ns,
            acted.valid_ns,
            stamp_ns,
            image_ns,
            self._around.now_ns(),
        )
        rows = np.reshape(action.actions, (action.horizon, -1)).tolist()
        is_motion = self._motion.guided(rows, contract, times)
        self._skipped += self._motion.skipped
        self._clipped_by_box += self._motion.clipped_by_box
        self._may_be_none += is_motion is not True
        self._surely_none += is_motion is False
        if is_motion is False:
            self._end_motion()
        else:
            self._acted = acted

    def _end_motion(self) -> None:
        """End the motion by an action without one; the next target may show how far it came."""
        self._acted, self._zeros, self._shows_end = None, 0, True

    def _begin_joints(self, action: Any) -> None:
        """Of a motion of joints; without their positions it is none."""
        contract = (contracts_of(self._params['contracts']) or {}).get(action.unnorm_key)
        period_s = _ns(action.period) / NS
        due_s = (_ns(action.header.stamp) - _ns(action.due)) / NS
        valid_s = (_ns(action.valid_until) - _ns(action.due)) / NS
        is_motion = self._joints.act(due_s, valid_s, period_s, action.horizon)
        self._may_be_none += not (is_motion and isinstance(contract, JointContract))
        self._surely_none += not isinstance(contract, JointContract)
        self._skipped += (0, action.horizon)

    def feel_joints(self, message: Any) -> None:
        """The node takes positions of joints."""
        if self._params['motion'] in JOINT_MOTIONS:
            self._joints.hear(message, self._around.node_ns())
        elif self._parts.needs_joints:
            self._feel(self._parts.hear_joints(message))

    def command(self, message: Any) -> None:
        """The joints are sent somewhere, by either kind of message."""
        is_sure = not self._around.stalled_lately(0.3) and self._voided_ns is None
        if self.must_hold or not self._around.is_active():
            self._joints.hold()
        if hasattr(message, 'points'):
            self._joints.plan(message, is_sure)
        else:
            self._joints.command(message.data.tolist(), is_sure)

    def controller_complains(self, text: str) -> None:
        """That of the joints."""
        if not self._around.stalled_lately(0.5):
            self._violation(f'the controller of the joints complains: {text}')

    def aim(self, message: Any) -> None:
        """A target is published."""
        stamp_ns = _ns(message.header.stamp)
        is_sure = not self._around.stalled_lately(0.1) and self._voided_ns is None
        self._motion.look_at_pose(self._around.now_ns(), stamp_ns, is_sure)
        moment_ns = self._around.motion_ns(stamp_ns)
        must_move = is_sure and self._must_move
        assert isinstance(self._motion, TargetOracle)
        step = self._motion.aim(message, moment_ns, is_sure, must_move)
        # The first one of a hold shows where the target was at the last action.
        held, self._aimed_in_hold = self._aimed_in_hold, self.must_hold
        shows_end, self._shows_end = self._shows_end, False
        is_step = (np.abs(step) > _SAME).any() and held == self.must_hold and not shows_end
        self._check_stream(
            bool(is_step),
            f'a step {step.round(5).tolist()}',
            lasts_s=1 / self._params['control_rate_hz'],
        )

    def hear_pose(self, message: Any) -> None:
        """The node takes a pose."""
        poses = self._motion.poses
        is_moved = self._motion.is_guided and self._params['motion'] in ('twist', 'pose')
        if is_moved and poses.hear(message, self._around.now_ns(), self._around.node_ns()):
            self._motion.lose_pose()
        if self._parts.needs_pose and self._around.is_active():
            self._feel(self._parts.hear_pose(message))

    def _why_not(self) -> str:
        if not self._around.is_active():
            return 'the node is not active'
        if self.stopped:
            return 'the robot is stopped'
        return 'the robot is disabled' if self.enabled is False else 'there is no instruction'

    def _check_source(self, what: str, action: Any, stamp_ns: int) -> Sequence[Seen]:
        """It comes of an image that still counts, by an inference that was sound and in time."""
        mine = [one for one in self._shown if _gave(one.call, one.member, action)]
        if not mine:
            self._violation(f'{what}: no inference gave it')
            return ()
        call, images = mine[-1].call, mine[-1].images
        if stamp_ns != min(image.stamp_ns for image in images):
            self._violation(f'{what}: its oldest image has another stamp')
        if not all(self._counts_for(image, action.instruction) for image in images):
            about = ', '.join(
                f'{one.fault or "sound"}, epoch {one.epoch} of {self.epoch}, used {one.used}'
                for one in images
            )
            self._violation(f'{what}: its images do not count any more ({about})')
        for image in images:
            image.used = True
        state = call.observations[mine[-1].member].state
        if state is not None and self._assembly.states.is_void(state.tolist()):
            self._violation(f'{what}: the clock has jumped since its state was measured')
        limit_s = self._most('inference_timeout_s')
        if call.duration_s > limit_s:
            self._violation(f'{what}: its inference took {call.duration_s:.3f} s of {limit_s} s')
        if not is_sound(call):
            self._violation(f'{what}: its inference was {call.fault}')
        return images

    def _counts_for(self, image: Seen, instruction: str) -> bool:
        is_current = image.epoch == self.epoch and instruction in image.instructions
        return image.may_count and is_current and not image.used

    def _check_times(self, what: str, action: Any, stamp_ns: int, node_ns: int) -> None:
        age_s = (_ns(action.header.stamp) - stamp_ns) / NS
        limit_s = self._params['max_action_age_s']
        if abs(_ns(action.valid_until) - stamp_ns - limit_s * NS) > 1:
            self._violation(f'{what}: valid for another time than max_action_age_s')
        if not self._around.stalled_in_callback():
            if not -MAX_SKEW_S - MARGIN_S <= age_s <= limit_s + MARGIN_S:
                self._violation(f'{what}: published {age_s:.3f} s after it; allowed is {limit_s} s')
            stamped_ns = self._around.motion_ns(_ns(action.header.stamp))
            if abs(stamped_ns - self._around.motion_ns(node_ns)) > MARGIN_S * NS:
                self._violation(f'{what}: its stamp is not the time of its publication')
        is_timed = self._params['chunk_timing'] == 'timed'
        due_ns = min(stamp_ns, _ns(action.header.stamp)) if is_timed else _ns(action.header.stamp)
        if _ns(action.due) != due_ns:
            self._violation(f'{what}: row 0 is due at another time than by chunk_timing')
        latency_s = action.latency.sec + action.latency.nanosec / NS
        if abs(latency_s - max(0.0, age_s)) > 1e-6:
            self._violation(f'{what}: latency is {latency_s}, its observation is {age_s} s old')

    # -- twists ------------------------------------------------------------------------------------

    def move(self, message: Any) -> None:
        linear, angular = message.twist.linear, message.twist.angular
        twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        before, self._last_twist = self._last_twist, twist
        self._check_frame('twist', message.header.frame_id)
        if not np.isfinite(twist).all():
            self._violation(f'twist {twist.tolist()} is not finite')
        moment_ns = self._around.motion_ns(_ns(message.header.stamp))
        self._look_at_clock(_ns(message.header.stamp))
        is_sure = not self._around.stalled_lately(0.1) and self._voided_ns is None
        self._motion.look_at_pose(self._around.now_ns(), _ns(message.header.stamp), is_sure)
        self._motion.check_twist(twist, moment_ns, is_sure, is_sure and self._must_move)
        if not twist.any():
            self._owes_zero = False
        else:
            self._check_speed(twist)
        self._check_stream(bool(twist.any()), f'twist {twist.round(4).tolist()}', before.any())

    def _check_stream(
        self, moves: bool, what: str, moved: bool = False, lasts_s: float = 0.0
    ) -> None:
        """It moves only by an action, and not for longer; then it rests, and then it is silent.

        :param lasts_s: since the message before, if it tells a step.
        """
        if not moves:
            self._zeros = 1 if moved else self._zeros + 1
            most = math.ceil(_ZERO_S * self._params['control_rate_hz']) + 3
            if self._zeros > most and self._acted is None:
                self._violation(f'{self._zeros} zeros in a row; {most} are enough')
            return
        self._zeros = 0
        if self.must_hold:
            self._violation(f'{what} while it holds')
        elif self._acted is None:
            self._violation(f'{what} without an action')
        elif not self._around.stalled_lately(0.1):
            late_s = self._overdue_s(self._acted) - lasts_s
            if late_s > MARGIN_S:
                self._violation(f'the motion goes on {late_s:.3f} s after its horizon')

    def _look_at_clock(self, stamp_ns: int) -> None:
        """A simulated time that stands still ends a motion."""
        if stamp_ns != self._advanced[0]:
            self._advanced = stamp_ns, self._around.now_ns()
        elif self._around.now_ns() - self._advanced[1] > _STANDSTILL_S * NS:
            self._motion.lose_time()

    @property
    def _must_move(self) -> bool:
        """Whether nothing has happened for which the robot may stand still."""
        is_running = self.status is not None and self.status.state == State.RUNNING
        return is_running and not self.must_hold and not self._around.is_simulated()

    def _check_speed(self, twist: Any) -> None:
        linear, angular = np.linalg.norm(twist[:3]), np.linalg.norm(twist[3:])
        for what, speed in (('linear_speed_m_s', linear), ('angular_speed_rad_s', angular)):
            limit = self._params[f'max_{what}']
            if speed > limit:
                self._violation(f'{what} {speed} is above {limit}')

    def grip(self, message: Any) -> None:
        self._grippers += 1
        if not 0 <= message.data <= 1:
            self._violation(f'the gripper is to be open by {message.data}')
        if self.must_hold:
            self._violation('the gripper is told where to be while it holds')
        elif self._params['motion'] in JOINT_MOTIONS:
            return
        elif self._voided_ns is None:
            self._motion.check_gripper(message.data)
        else:
            self._motion.hear_gripper(message.data)

    def _overdue_s(self, acted: Acted) -> float:
        """How long ago the motion should have ended."""
        horizon_s = self._lasts_s(acted) + 2 * max(acted.ramp_s, self._kept_ramp_s)
        if self._around.is_simulated():
            return (self._around.node_ns() - acted.due_ns) / NS - horizon_s
        late_s = (acted.node_ns - acted.due_ns) / NS
        return (self._around.now_ns() - acted.published_ns) / NS + late_s - horizon_s

    def _row_s(self, acted: Acted) -> float:
        """How long a row lasts, without the ramps."""
        return min(acted.period_s, acted.valid_ns / NS - 2 * acted.ramp_s)

    def _lasts_s(self, acted: Acted) -> float:
        """From when row 0 is due to the end of the last row."""
        return (acted.horizon - 1) * acted.period_s + self._row_s(acted)

    # -- status ------------------------------------------------------------------------------------

    def tell(self, status: VlaStatus) -> None:
        """The node publishes what it is doing."""
        now_ns = self._around.now_ns()
        before, self.status, self.status_ns = self.status, status, now_ns
        if self.goals.is_carried_out is None:
            self.goal_may_be_over()
        self.goals.status_shown(status)
        if self._owes_status:
            self._owes_status = False
            self._check_owed(status.reason)
        if status.reason == Reason.IMAGE_TIMEOUT and (
            before is None or before.reason != status.reason
        ):
            self._check_image_timeout()
            self._assembly.doubt()  # it drops the images that wait
        if before is None or before.reason != status.reason:
            self._check_parts(status.reason)
        if status.state != State.RUNNING:
            self._motion.rest()
            self._kept_ramp_s = 0.0
            self._replan.lift()
        if status.robot != self._name:
            self._violation(f'its status is of robot {status.robot!r}')
        if status.state == State.HOLDING and status.reason == Reason.NONE:
            self._violation('HOLDING without a reason')
        if (status.state == State.RUNNING) != (status.message == 'RUNNING'):
            self._violation(f'state {status.state} with the message {status.message!r}')
        if status.state == State.RUNNING and status.reason != Reason.NONE:
            self._violation(f'RUNNING with reason {status.reason}')
        if status.state == State.RUNNING and self.must_hold:
            self._violation('RUNNING, and there was no action since it had to hold')
        self._learn_switches(status)
        self._learn_instruction(status)
        self._check_counters(status.counters, status.motion.mode != 'none')

    def _check_owed(self, reason: int) -> None:
        """It begins to hold, for a part that is at fault."""
        expected = self._owed_reason
        if expected is None or expected == reason or self._around.stalled_lately(_LONG_STALL_S):
            return
        self._violation(f'it holds for reason {reason}, should be {expected.name}')

    def _check_image_timeout(self) -> None:
        if self._age_s('image_timeout_s') < 2 * NOTICE_S:
            return  # it may hold by the limit of a moment ago
        silent_s = max(camera.silent_s() for camera in self._cameras)
        if silent_s < self._params['image_timeout_s'] - MARGIN_S and not self._in_doubt:
            self._violation(f'it holds for want of an image; the last came {silent_s:.3f} s ago')

    def _check_parts(self, reason: int) -> None:
        """It begins to hold, since its parts are no observation; it drops them."""
        if reason == Reason.STATE_REJECTED and self._state_rejected_ns < self.acted_ns:
            self._violation('it holds for a rejected state, and there was none')
        if reason not in _UNFIT:
            return
        if why := self._assembly.why_too_soon(Reason(reason)):
            self._violation(f'it holds for reason {reason}, and {why}')
        self._assembly.doubt()

    def _learn_switches(self, status: VlaStatus) -> None:
        if status.state not in (State.HOLDING, State.RUNNING):
            return
        if status.reason == Reason.STOPPED:
            self._learn('stopped', True)
        elif status.reason == Reason.DISABLED:
            self._learn('stopped', False)
            self._learn('enabled', False)
        else:
            self._learn('stopped', False)
            self._learn('enabled', True)

    def _learn(self, what: str, value: bool) -> None:
        if getattr(self, what) is None:
            setattr(self, what, value)
        elif getattr(self, what) != value and not self.is_asked:
            self._violation(f'its status says that {what} is {value}')

    is_asked = False  # a switch is being thrown now

    def most_in_flight(self) -> int:
        """How many results may be open: one inferred or just taken, one not decided about."""
        since_ns = self._around.now_ns() - round(NOTICE_S * NS)
        call = self._last_call
        is_idle = call is None or 0 < call.ended_ns < since_ns
        if self._around.any_stalled_lately(1.0):
            return 3  # two have ended meanwhile
        if not is_idle:
            return 2
        recent_ns = self._around.now_ns() - NS
        return int(any(one.may_count and one.taken_ns > recent_ns for one in self._images))

    def _learn_instruction(self, status: VlaStatus) -> None:
        limit_s = self._params['max_instruction_age_s']
        age_s = (self._around.now_ns() - self._said_ns) / NS
        is_refused = any(text.startswith(REFUSED) for text in self.instructions)
        if self._refused_ns is not None:
            is_refused |= self._may_be_unheard(self._refused_ns)
        is_old = bool(limit_s) and age_s > limit_s - MARGIN_S and not self.goals.has_precedence
        if is_refused or is_old:
            self.refuse_instruction()
        if status.instruction and self.held is None:
            self.held = False
        if status.instruction in self.instructions:
            self._may_be(frozenset((status.instruction,)))
        else:
            self._violation(
                f'its status says {status.instruction!r} is in force, not {set(self.instructions)}'
            )

    def _check_counters(self, counters: VlaCounters, moves: bool) -> None:
        """
        :param moves: whether actions become motions.
        """
        equations = {**EQUATIONS, **(TWIST_EQUATIONS if moves else {})}
        for name, difference in unaccounted(counters, equations).items():
            self._violation(f'{name} {getattr(counters, name)} is off its sum by {difference}')
        values = {name: getattr(counters, name) for name in _MONOTONIC}
        less = [name for name, value in self._last_counters.items() if values[name] < value]
        if less:
            self._violation(f'{", ".join(sorted(less))} went down')
        self._last_counters = values
        cameras = len(self._shape.cameras)
        if counters.joined != cameras * counters.observations or counters.pending > cameras:
            self._violation(
                f'joined {counters.joined}, pending {counters.pending}, '
                f'observations {counters.observations}'
            )
        if counters.waiting > 1 or counters.in_flight > self.most_in_flight():
            self._violation(f'waiting {counters.waiting}, in flight {counters.in_flight}')
        for name, count in {
            'received': self.received,
            'published': self.sequence,
            **self._counts,
        }.items():
            is_unsure = name.startswith('states_') and self._around.is_ending()
            if getattr(counters, name) != count and not is_unsure:
                self._violation(f'{name} is {getattr(counters, name)}, should be {count}')
        if moves:
            self._check_motions(counters)

    @property
    def _may_be_interrupted(self) -> float:
        is_of_joints = self._params['motion'] in JOINT_MOTIONS
        return math.inf if is_of_joints else self._motion.may_be_interrupted

    def _check_motions(self, counters: VlaCounters) -> None:
        if counters.motions_refused > self._may_be_none:
            self._violation(
                f'motions_refused is {counters.motions_refused}, at most {self._may_be_none} may be'
            )
        if counters.motions > self.sequence - self._surely_none:
            self._violation(
                f'motions is {counters.motions}, and {self._surely_none} actions of '
                f'{self.sequence} are none'
            )
        for name, (least, most) in {
            'rows_skipped': self._skipped,
            'clipped_workspace': self._clipped_by_box,
            'motions_interrupted': (0, self._may_be_interrupted),
        }.items():
            if not least <= getattr(counters, name) <= most:
                self._violation(f'{name} is {getattr(counters, name)}, should be {least} to {most}')
        # The gripper is told with each motion, but for the first ones, where it is not sure.
        if self._params['motion'] in JOINT_MOTIONS:
            return
        is_silent = self._grippers < counters.motions / 2 - _UNSURE_GRIPPERS
        if is_silent or self._grippers > counters.motions * self._shape.horizon:
            self._violation(
                f'motions {counters.motions}, and the gripper was told {self._grippers}'
            )

    # -- regularly ---------------------------------------------------------------------------------

    def look(self, rivalled: bool, is_late: bool) -> None:
        """Check what has to happen by itself.

        :param is_late: the inference on its image is.
        :param rivalled: others act in the node's place, and did so long enough to be noticed.
        """
        now_ns = self._around.now_ns()
        status = self.status
        if status is None or self._around.stalled_lately(0.3):
            self.disturb()
            self._assembly.doubt()  # a camera may have seemed silent
            return
        if self._voided_ns is not None and (now_ns - self._voided_ns) / NS > NOTICE_S:
            self._voided_ns = None
            self.must_hold = True
            self._joints.hold()
        if now_ns - self._rivalled_ns < _RIVALLED_S * NS:  # it notices that they are gone
            self._motion.perhaps_forget_gripper()
        last_ns = min(camera.last_ns for camera in self._cameras)
        silent_s, limit_s = (now_ns - last_ns) / NS, self._params['image_timeout_s']
        no_image = silent_s > limit_s + NOTICE_S
        if rivalled:
            self.goals.rivalled(is_noticed=True)
            self.void(at_once=False)
        elif no_image:  # of one camera; what the others send since the node has noticed may count
            self.void(at_once=False, until_ns=last_ns + round(limit_s * NS))
            self._check_silence(status)
        self._look_at_parts(status)
        if is_late:
            self.disturb()
        if status.state == State.RUNNING and self._is_told:
            for is_so, why in (
                (not self.may_act, self._why_not() if not self.may_act else ''),
                (no_image, f'no image for {silent_s:.3f} s'),
                (rivalled, 'another node acts in its place'),
                (is_late, 'its inference is late'),
                (self.must_hold, 'it had to hold, and there was no action since'),
            ):
                if is_so:
                    self._violation(f'RUNNING, but {why}')
                    break
        self._check_liveness(now_ns)
        self._joints.look()

    @property
    def _is_told(self) -> bool:
        """Whether the last status is so old that the next one could have been sent."""
        is_old = (self._around.now_ns() - self.status_ns) / NS > NOTICE_S
        return is_old and not self._owes_status

    def _check_silence(self, status: VlaStatus) -> None:
        """A camera that came and fell silent is the reason, whatever came before."""
        limit_s = self._params['image_timeout_s'] + 2 * NOTICE_S
        now_ns = self._around.now_ns()
        fell_silent = any(
            camera.has_come and (now_ns - camera.last_ns) / NS > limit_s for camera in self._cameras
        )
        is_steady = self._is_told and (now_ns - self._held_ns) / NS > _STEADY_S
        if not fell_silent or not is_steady or not self._surely_wants or self._in_doubt:
            return
        allowed = [*_SILENT, *_OF_INFERENCES]
        if not all(camera.has_come for camera in self._cameras):
            allowed.append(Reason.NO_FIRST_IMAGE)
        if status.state == State.HOLDING and status.reason not in allowed:
            reason = Reason(status.reason).name
            self._violation(f'it holds for {reason}, though a camera is silent')

    def _look_at_parts(self, status: VlaStatus) -> None:
        """Images that wait in vain for others or a state make the robot hold, and say so."""
        overdue = self._assembly.overdue()
        if overdue is None or not self._surely_wants:
            return
        reasons, since_ns = overdue
        if status.state == State.HOLDING and status.reason not in (*reasons, *_OF_INFERENCES):
            names = ' or '.join(reason.name for reason in sorted(reasons))
            self._violation(f'it holds for reason {status.reason}, should be {names}')
        self.void(until_ns=since_ns)
        self._assembly.doubt()

    def _check_liveness(self, now_ns: int) -> None:
        no_fresh_image = (now_ns - self._fresh_ns) / NS > _MOST_RARE_S
        is_unsure = self.enabled is None or len(self.instructions) != 1
        if not self.may_act or is_unsure or no_fresh_image:
            self.disturb()
        calm_s = (now_ns - max(self.calm_since_ns, self.acted_ns)) / NS
        if calm_s > _CALM_S:
            self.disturb()
            assert self.status is not None
            self._violation(
                f'no action for {calm_s:.1f} s, though nothing is wrong: {self.status.message}'
            )

    def _violation(self, text: str) -> None:
        self._around.violation(f'{self._name or "the robot"}: {text}')


def _usable(text: str) -> str:
    """The instruction that is in force when somebody says this; empty: hold."""
    try:
        check_instruction(text)
    except InstructionError:
        return ''
    return '' if is_blank(text) else text


def _gave(call: Call, member: int, action: Any) -> bool:
    """Whether the call has this very prediction for its member."""
    if not call.predictions:
        return False
    prediction = call.predictions[member]
    return (
        prediction.actions.ravel().tolist() == list(action.actions)
        and prediction.action.tolist() == list(action.action)
        and len(prediction.actions) == action.horizon
        and prediction.unnorm_key == action.unnorm_key
    )


def _ns(time: Any) -> int:
    return time.sec * NS + time.nanosec
