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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulate.policy import REFUSED, Call, is_sound
from simulate.scheduler import NS
from simulate.world import MAX_SKEW_S
from vla_ros.motion import ActionContract
from vla_ros.msg import VlaCounters, VlaStatus
from vla_ros.reasons import Reason, State
from vla_ros.scheduling.accounts import EQUATIONS, GAUGES, TWIST_EQUATIONS, unaccounted
from vla_ros.text import is_blank
from vla_ros.types import InstructionError, check_instruction

NOTICE_S = 0.15  # the node looks every 0.02 s; a callback before that may take as long
_ZERO_S = 0.2  # for which zero is repeated
_MARGIN_S = 0.005  # between a decision and its publication
_HAND_OVER_S = 0.03  # from taking an image to its being in the slot, at most
_KEPT = 400  # images
_LONGEST_STALL_S = 10.0  # of the executor's thread
_UNSURE_GRIPPERS = 10
_MOST_RARE_S = 0.4  # between two images of a sound camera
_CALM_S = 2.5  # without a disturbance; then there has to be an action

_MONOTONIC = tuple(name for name in VlaCounters.get_fields_and_field_types() if name not in GAUGES)


@dataclass
class Seen:
    """An image that the node took.

    :param frame: what its pixels show: robot and frame.
    :param fault: why it may not be used; empty: it may.
    """

    stamp_ns: int
    frame: tuple[int, int]
    fault: str
    epoch: int
    instructions: frozenset[str]
    taken_ns: int
    used: bool = False

    @property
    def may_count(self) -> bool:
        return self.fault in ('', 'perhaps')


@dataclass
class Acted:
    """The last action."""

    published_ns: int
    node_ns: int
    valid_until_ns: int
    period_s: float


@dataclass(frozen=True)
class Surroundings:
    """What a robot's rules ask about the rest.

    :param node_ns: the node's clock now.
    :param is_active: by the lifecycle.
    :param stalled_lately: whether the executor's thread did not run, now or a moment ago.
    :param stalled_in_callback: whether it stalled since the callback began that runs now.
    :param any_stalled_lately: whether any thread stalled, now or a moment ago.
    :param worker_free_ns: since when the policy was asked nothing; in a call: until its begin.
    :param queue_s: how long an image that is taken now may wait for the inference before it.
    """

    now_ns: Callable[[], int]
    node_ns: Callable[[], int]
    is_active: Callable[[], bool]
    is_simulated: Callable[[], bool]
    stalled_lately: Callable[[float], bool]
    stalled_in_callback: Callable[[], bool]
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
        contracts: dict[str, ActionContract],
        surroundings: Surroundings,
    ) -> None:
        self.number = number
        self._name = name
        self._params = parameters
        self._contracts = contracts
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
        if not self._params['enabled']:
            self.enabled = False  # whatever the operator enabled before
        self.configure()

    def configure(self) -> None:
        """Counted from zero."""
        self.epoch = 0
        self.must_hold = True  # until an action
        self._voided_ns: int | None = None  # to be noticed
        self._images: deque[Seen] = deque(maxlen=_KEPT)
        self._start_over()
        self._in_doubt = False
        self._doubts: deque[tuple[int, int]] = deque(maxlen=_KEPT)  # when, and the epoch before
        self._refused_ns: int | None = None  # when the policy refused an instruction
        self._perhaps_stamp_ns = 0  # of the image before, if the node may have rejected it
        self._order_in_doubt = False  # until an image's stamp was compared after the clock's doubt
        self._doubt_ends_ns = 0
        self.received = 0
        self._fresh_ns = 0  # when an image came that may wait a little
        self._counts = dict.fromkeys(('unstamped', 'rejected'), 0)
        self.sequence = 0
        self._last_call: Call | None = None
        self._calls: dict[tuple[int, int], list[tuple[Call, int]]] = {}
        self._acted: Acted | None = None
        self._last_counters: dict[str, int] = {}
        self._last_twist = np.zeros(6)
        self._twist_ns = 0
        self._zeros = 0
        self._grippers = 0  # told where to be
        self._may_be_none = 0  # actions that may be no motion
        self._owes_zero = False
        self._owes_status = False
        self.last_image_ns = 0
        self.calm_since_ns = self._around.now_ns()
        self.acted_ns = self._around.now_ns()

    def _start_over(self) -> None:
        """The camera is another one now."""
        self._surely_ns = self._around.now_ns()
        self._gap_s = 0.0  # between the last two images that were surely new
        self._last_stamp_ns: int | None = None
        self._frames: set[tuple[int, int]] = set()
        self._judged_ns: int | None = None
        self._new_frame_ns = 0

    def activate(self) -> None:
        self._start_over()
        self.last_image_ns = self._around.now_ns()
        self.void()

    def begin_with(self, instruction: str) -> None:
        """A configuration's own instruction; the operator may have said hold."""
        if instruction and '' in self.instructions and self.held is not True:
            self._may_be(self.instructions | {instruction})

    # -- voiding -----------------------------------------------------------------------------------

    def void(self, at_once: bool = True, until_ns: int | None = None) -> None:
        """What was taken so far may not become an action.

        :param at_once: the event itself makes the robot hold; else a look at the surroundings does.
        :param until_ns: what was taken from then on may.
        """
        self.epoch += 1
        for image in self._images:
            if until_ns is not None and image.taken_ns >= until_ns:
                image.epoch = self.epoch
        self.disturb()
        if not at_once:
            self._voided_ns = self._voided_ns or self._around.now_ns()
            return
        self.must_hold = True
        self._zeros = 0
        self._owes_zero = bool(self._last_twist.any())
        self._owes_status = self.status is not None and self.status.state == State.RUNNING
        self._acted = None

    def expect_hold(self, call: Call, member: int) -> None:
        """The inference has failed; the robot has to hold soon, unless it dropped it before."""
        images = [one for one in self._images if one.frame == call.frames[member]]
        if images and images[-1].epoch == self.epoch and images[-1].taken_ns > self.acted_ns:
            self._voided_ns = self._voided_ns or self._around.now_ns()

    def waits_since_s(self, since_ns: int) -> float:
        """For how long a sound image has waited that was taken after that moment; 0: none does."""
        waiting = [
            one.taken_ns
            for one in self._images
            if one.taken_ns > since_ns and not one.fault and one.epoch == self.epoch
        ]
        return (self._around.now_ns() - waiting[0]) / NS if waiting else 0.0

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
        self._said_ns = self._around.now_ns()
        text = _usable(text)
        self.disturb()
        options = {'' if late else text}
        if late is None or text.startswith(REFUSED):
            options.add('')
        self.held = options == {''} if len(options) == 1 else None
        self._may_be(frozenset(options))

    def killed(self) -> None:
        """In the midst of something, perhaps."""
        if (self._around.now_ns() - self._said_ns) / NS < _MARGIN_S:
            self.held = None

    def may_be_told(self, text: str) -> None:
        """A request is under way that says so."""
        self._may_be(self.instructions | {_usable(text)})

    def policy_refuses(self) -> None:
        """The policy has refused an instruction; the node is to be told of it."""
        self._refused_ns = self._around.now_ns()
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
        self.void()

    def forget_switches(self) -> None:
        """The process ended before it answered."""
        self.stopped = self.enabled = None

    @property
    def may_act(self) -> bool:
        allowed = self.stopped is not True and self.enabled is not False
        return allowed and self._around.is_active() and self.instructions != {''}

    # -- images and inferences ---------------------------------------------------------------------

    def see(self, stamp_ns: int, frame: tuple[int, int], usable: bool) -> None:
        """The node takes an image."""
        self.received += 1
        fault = self._fault(stamp_ns, frame) if usable else 'rejected'
        if fault in self._counts:
            self._counts[fault] += 1
        now_ns = self._around.now_ns()
        if fault not in ('repeated', 'perhaps'):
            self._gap_s, self._surely_ns = (now_ns - self._surely_ns) / NS, now_ns
        if fault != 'repeated':
            self.last_image_ns = now_ns
        age_s = (self._around.node_ns() - stamp_ns) / NS
        oldest_s = age_s + self._around.queue_s()  # when its turn comes
        if not fault and oldest_s < self._params['max_image_age_s'] - NOTICE_S / 2:
            self._fresh_ns = now_ns
        seen = Seen(stamp_ns, frame, fault, self.epoch, self.instructions, now_ns)
        if fault and fault not in ('repeated', 'perhaps'):
            self.void()
        elif fault:
            self.disturb()
        self._images.append(seen)

    def _fault(self, stamp_ns: int, frame: tuple[int, int]) -> str:
        """``perhaps`` where it depends on when exactly the node looks at its clock."""
        if stamp_ns == 0:
            return 'unstamped'
        ahead_s = (stamp_ns - self._around.node_ns()) / NS
        in_doubt = self._is_in_doubt()
        if abs(ahead_s - MAX_SKEW_S) < _MARGIN_S or (in_doubt and ahead_s > MAX_SKEW_S):
            self._perhaps_stamp_ns = stamp_ns
            return 'perhaps'
        if ahead_s > MAX_SKEW_S:
            return 'future'
        before_ns, self._last_stamp_ns = self._last_stamp_ns, stamp_ns
        order_in_doubt, self._order_in_doubt = self._order_in_doubt, self._in_doubt
        perhaps_ns, self._perhaps_stamp_ns = self._perhaps_stamp_ns, 0
        if stamp_ns <= perhaps_ns:
            return 'perhaps'
        if before_ns is not None and stamp_ns <= before_ns:
            if order_in_doubt:
                return 'perhaps'
            return 'repeated' if stamp_ns == before_ns else 'backwards'
        return self._freeze(frame, in_doubt)

    def _freeze(self, frame: tuple[int, int], in_doubt: bool) -> str:
        """Whether all images were ones that had come before, for too long."""
        limit_s = self._params['frozen_image_timeout_s']
        if not limit_s:
            return ''
        now_ns = self._around.now_ns()
        before_ns, self._judged_ns = self._judged_ns, now_ns
        was_silent = before_ns is None or (now_ns - before_ns) / NS > limit_s
        if frame not in self._frames or was_silent:
            self._new_frame_ns = now_ns
        self._frames.add(frame)
        frozen_s = (now_ns - self._new_frame_ns) / NS
        if frozen_s < limit_s - _MARGIN_S:
            return ''
        return 'perhaps' if in_doubt or frozen_s < limit_s + _MARGIN_S else 'frozen'

    def _is_in_doubt(self) -> bool:
        """Whether the clock jumped a moment ago, and this is not the second image after that."""
        in_doubt = self._in_doubt
        if self._around.now_ns() > self._doubt_ends_ns:
            self._in_doubt = False
        return in_doubt

    def doubt_clock(self) -> None:
        """The node's clock has jumped; it notices soon, and forgets the last stamp."""
        self._doubts.append((self._around.now_ns(), self.epoch))
        self.void(at_once=False)
        self._in_doubt = self._order_in_doubt = True
        self._doubt_ends_ns = self._around.now_ns() + round(NOTICE_S * NS)

    def need_not_notice(self, since_ns: int) -> None:
        """The clock is again what it was then: what was under way may go on or not."""
        self.disturb()
        self._voided_ns = None
        epochs = [epoch for at_ns, epoch in self._doubts if at_ns >= since_ns]
        for image in self._images:
            if epochs and image.epoch >= epochs[0] and not image.fault:
                image.epoch, image.fault = self.epoch, 'perhaps'

    def begin_call(self, call: Call, member: int) -> None:
        """The policy is asked about one of this robot's images."""
        self._last_call = call
        frame, observation = call.frames[member], call.observations[member]
        images = [one for one in self._images if one.frame == frame and one.may_count]
        if not images:
            self._violation(f'the policy is shown frame {frame}, which no sound image showed')
            return
        self._calls.setdefault(frame, []).append((call, member))
        if not any(observation.instruction in one.instructions for one in images):
            self._violation(f'frame {frame} is shown with instruction {observation.instruction!r}')
        newest = images[-1]
        self._check_wait(newest)
        overtaken = [
            one
            for one in self._images
            if not one.fault and one.epoch == newest.epoch and one.taken_ns > newest.taken_ns
        ]
        waited_s = (self._around.now_ns() - overtaken[-1].taken_ns) / NS if overtaken else 0.0
        if waited_s > _HAND_OVER_S and not self._around.any_stalled_lately(waited_s + NOTICE_S):
            self._violation(f'frame {frame} is shown, and a newer one waits for {waited_s:.3f} s')

    def _check_wait(self, image: Seen) -> None:
        """It is neither too old nor did it wait while the worker had nothing to do."""
        idle_since_ns = max(image.taken_ns, self._around.worker_free_ns())
        waited_s = (self._around.now_ns() - idle_since_ns) / NS
        if self._around.any_stalled_lately(waited_s + NOTICE_S):
            return
        if waited_s > _HAND_OVER_S:
            self._violation(f'frame {image.frame} waits {waited_s:.3f} s for an idle worker')
        age_s = (self._around.node_ns() - image.stamp_ns) / NS
        limit_s = self._params['max_image_age_s']
        if age_s > limit_s + _HAND_OVER_S and not self._in_doubt:
            self._violation(f'the policy is shown an image that is {age_s:.3f} s old')

    # -- actions -----------------------------------------------------------------------------------

    def act(self, action: Any) -> None:
        self.actions += 1
        self.sequence += 1
        now_ns, node_ns = self._around.now_ns(), self._around.node_ns()
        stamp_ns = _ns(action.observation_stamp)
        what = f'action {action.sequence} of stamp {stamp_ns}'
        if action.sequence != self.sequence:
            self._violation(f'{what}: the sequence number should be {self.sequence}')
            self.sequence = action.sequence
        if not self.may_act:
            self._violation(f'{what}: {self._why_not()}')
        if action.instruction not in self.instructions:
            self._violation(f'{what}: {action.instruction!r} is not in force: {self.instructions}')
        self._check_source(what, action, stamp_ns)
        self._check_times(what, action, stamp_ns, node_ns)
        self.instructions = frozenset((action.instruction,))
        self.must_hold, self._voided_ns = False, None
        self.acted_ns = now_ns
        contract = self._contracts.get(action.unnorm_key)
        valid_until_ns = _ns(action.valid_until)
        valid_s = (valid_until_ns - _ns(action.header.stamp)) / NS
        if contract is None or valid_s < 2 * self._ramp_s() + _MARGIN_S:
            self._may_be_none += 1
        if contract is not None:
            self._acted = Acted(now_ns, node_ns, valid_until_ns, contract.period_s)

    def _why_not(self) -> str:
        if not self._around.is_active():
            return 'the node is not active'
        if self.stopped:
            return 'the robot is stopped'
        return 'the robot is disabled' if self.enabled is False else 'there is no instruction'

    def _check_source(self, what: str, action: Any, stamp_ns: int) -> None:
        """It comes of an image that still counts, by an inference that was sound and in time."""
        images = [one for one in self._images if one.stamp_ns == stamp_ns]
        if not images:
            self._violation(f'{what}: no such image was taken')
            return
        sound = [
            one
            for one in images
            if not one.used
            and one.may_count
            and one.epoch == self.epoch
            and action.instruction in one.instructions
        ]
        if not sound:
            about = ', '.join(
                f'{one.fault or "sound"}, epoch {one.epoch} of {self.epoch}, used {one.used}'
                for one in images
            )
            self._violation(f'{what}: its image does not count any more ({about})')
        for image in images:
            image.used = True
        calls = [one for image in images for one in self._calls.get(image.frame, [])]
        mine = [call for call, member in calls if _gave(call, member, action)]
        if not mine:
            self._violation(f'{what}: no inference on its image gave it')
            return
        call = mine[-1]
        limit_s = self._params['inference_timeout_s']
        if call.duration_s > limit_s:
            self._violation(f'{what}: its inference took {call.duration_s:.3f} s of {limit_s} s')
        if not is_sound(call):
            self._violation(f'{what}: its inference was {call.fault}')

    def _check_times(self, what: str, action: Any, stamp_ns: int, node_ns: int) -> None:
        age_s = (_ns(action.header.stamp) - stamp_ns) / NS
        limit_s = self._params['max_action_age_s']
        if abs(_ns(action.valid_until) - stamp_ns - limit_s * NS) > 1:
            self._violation(f'{what}: valid for another time than max_action_age_s')
        if not self._around.stalled_in_callback():
            if not -MAX_SKEW_S - _MARGIN_S <= age_s <= limit_s + _MARGIN_S:
                self._violation(f'{what}: published {age_s:.3f} s after it; allowed is {limit_s} s')
            if abs(_ns(action.header.stamp) - node_ns) > _MARGIN_S * NS:
                self._violation(f'{what}: its stamp is not the time of its publication')
        latency_s = action.latency.sec + action.latency.nanosec / NS
        if abs(latency_s - age_s) > 1e-6:
            self._violation(f'{what}: latency is {latency_s}, should be {age_s}')

    # -- twists ------------------------------------------------------------------------------------

    def move(self, message: Any) -> None:
        linear, angular = message.twist.linear, message.twist.angular
        twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        now_ns = self._around.now_ns()
        self._twist_ns = now_ns
        before, self._last_twist = self._last_twist, twist
        if not np.isfinite(twist).all():
            self._violation(f'twist {twist.tolist()} is not finite')
        if not twist.any():
            self._owes_zero = False
            self._zeros = self._zeros + 1 if not before.any() else 1
            most = math.ceil(_ZERO_S * self._params['control_rate_hz']) + 3
            if self._zeros > most and self._acted is None:
                self._violation(f'{self._zeros} zeros in a row; {most} are enough')
            return
        self._zeros = 0
        self._check_speed(twist)
        if self.must_hold:
            self._violation(f'twist {twist.round(4).tolist()} while it holds')
        elif self._acted is None:
            self._violation(f'twist {twist.round(4).tolist()} without an action')
        elif not self._around.stalled_lately(0.1):
            late_s = self._overdue_s(self._acted)
            if late_s > _MARGIN_S:
                self._violation(f'the motion goes on {late_s:.3f} s after its horizon')

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

    def _ramp_s(self) -> float:
        """How long a motion takes to reach its speed, and to lose it."""
        linear_s = 2 * math.sqrt(
            self._params['max_linear_speed_m_s'] / self._params['max_linear_jerk_m_s3']
        )
        angular_s = 2 * math.sqrt(
            self._params['max_angular_speed_rad_s'] / self._params['max_angular_jerk_rad_s3']
        )
        return max(linear_s, angular_s, 2 / self._params['control_rate_hz'])

    def _overdue_s(self, acted: Acted) -> float:
        """How long ago the motion should have ended."""
        valid_s = (acted.valid_until_ns - acted.node_ns) / NS
        horizon_s = min(acted.period_s + 2 * self._ramp_s(), valid_s)
        if self._around.is_simulated():
            return (self._around.node_ns() - acted.node_ns) / NS - horizon_s
        return (self._around.now_ns() - acted.published_ns) / NS - horizon_s

    # -- status ------------------------------------------------------------------------------------

    def tell(self, status: VlaStatus) -> None:
        """The node publishes what it is doing."""
        now_ns = self._around.now_ns()
        before, self.status, self.status_ns = self.status, status, now_ns
        self._owes_status = False
        if status.reason == Reason.IMAGE_TIMEOUT and (
            before is None or before.reason != status.reason
        ):
            self._check_image_timeout(now_ns)
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
        self._check_counters(status.counters, status.motion.mode == 'twist')

    def _check_image_timeout(self, now_ns: int) -> None:
        """It may tell a moment later of a silence that has just ended."""
        silent_s = (now_ns - self._surely_ns) / NS
        if silent_s < NOTICE_S:
            silent_s = max(silent_s, self._gap_s)
        if silent_s < self._params['image_timeout_s'] - _MARGIN_S and not self._in_doubt:
            self._violation(f'it holds for want of an image; the last came {silent_s:.3f} s ago')

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
        if is_refused or (limit_s and age_s > limit_s - _MARGIN_S):
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
        if counters.joined != counters.observations:  # there is one camera
            self._violation(f'joined {counters.joined}, observations {counters.observations}')
        if counters.waiting > 1 or counters.in_flight > self.most_in_flight():
            self._violation(f'waiting {counters.waiting}, in flight {counters.in_flight}')
        for name, count in {
            'received': self.received,
            'published': self.sequence,
            **self._counts,
        }.items():
            if getattr(counters, name) != count:
                self._violation(f'{name} is {getattr(counters, name)}, should be {count}')
        if moves:
            self._check_motions(counters)

    def _check_motions(self, counters: VlaCounters) -> None:
        if counters.motions_refused > self._may_be_none:
            self._violation(
                f'motions_refused is {counters.motions_refused}, at most {self._may_be_none} may be'
            )
        # The gripper is told with each motion, but for the first ones, where it is not sure.
        is_silent = self._grippers < counters.motions / 2 - _UNSURE_GRIPPERS
        if is_silent or self._grippers > counters.motions:
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
            return
        if self._voided_ns is not None and (now_ns - self._voided_ns) / NS > NOTICE_S:
            self._voided_ns = None
            self.must_hold = True
        silent_s = (now_ns - self.last_image_ns) / NS
        no_image = silent_s > self._params['image_timeout_s'] + NOTICE_S
        if rivalled or no_image:
            self.void(at_once=False)
        if is_late:
            self.disturb()
        is_told = (now_ns - self.status_ns) / NS > NOTICE_S and not self._owes_status
        if status.state == State.RUNNING and is_told:
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
