# SPDX-License-Identifier: Apache-2.0
"""Judges the node by all that went in and came out, as docs/faults.md and the messages promise.

It is told of everything in the order in which it happened (``graph.Observer``, and the process and
the policy), keeps for each robot what may still happen (``robot_oracle.py``), and knows nothing of
the node's inside. It may use of ``vla_ros`` what no mistake is planted in: which texts are
instructions, the contracts, the numbers of the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import GetParameters, SetParameters, SetParametersAtomically
from rclpy.parameter import parameter_value_to_python
from std_srvs.srv import SetBool

from simulate.graph import Header
from simulate.parameter_oracle import (
    why_no_contracts,
    why_not,
    why_not_alone,
    why_not_together,
)
from simulate.parts_oracle import NOTICE_S
from simulate.plan import Plan
from simulate.policy import FAILURE, Call, Frame, frame_of, is_sound
from simulate.rclpy_fake import NO_CLIENT
from simulate.robot_oracle import RobotOracle, Surroundings
from simulate.scheduler import NS
from simulate.state_oracle import why_no_state
from simulate.threads import Process
from simulate.world import MAX_SKEW_S, World
from vla_ros.graph.topics import image_topics
from vla_ros.images.compressed import compressed_to_rgb
from vla_ros.images.raw import UnusableImage, image_to_rgb
from vla_ros.parameters.definition import MOTION_TOPICS, Parameters
from vla_ros.reasons import Reason, State

WATCHDOG = 'watchdog'  # may end the process

_LOOK_S = 0.05
_ENDED_S = 1.0  # beyond hang_timeout_s, in which a stuck process ends
_STATUS_PERIOD_S = 1.0
_LATE_S = 0.35  # that a status may be late: a callback takes as long, or a response to nobody
_CLOSE_S = 8.0  # for which the end of the process may be stuck, as documented
_END_S = 3.0  # in which a signal ends the process
_MAX_STALL_S = 1.0  # more is noticed, and voids
_GRACE_S = 1.0  # after a stall, in which commands are refused
_MAX_SIMULATED_STEP_S = 10.0  # more is a jump
_QUICK_S = 1.0  # more than a sound preparation takes
_STALLS_LOOKED_AT = 5  # the last ones
_UNSURE_S = 0.05  # near a bound either is right
_NOTICES = ('inactive', 'activating', 'active', 'deactivating')  # a jump of the clock
_TRANSITIONAL = ('configuring', 'cleaningup', 'shuttingdown', 'activating', 'deactivating')
_CLOCK = 'use_sim_time'
_ERROR = 40  # the log's severity
_ALWAYS_EXCUSED = (Reason.NONE, Reason.SHUT_DOWN)


class Violation(NamedTuple):
    at_s: float
    text: str

    def __str__(self) -> str:
        return f'{self.at_s:.6f}: {self.text}'


class Oracle:
    """Told of everything; ``violations`` is what came of it."""

    def __init__(self, plan: Plan, world: World) -> None:
        self.violations: list[Violation] = []
        self._plan = plan
        self._world = world
        self._scheduler = world.scheduler
        defaults = {name: field.default for name, field in Parameters.__dataclass_fields__.items()}
        self._first_params: dict[str, Any] = {**defaults, **plan.parameters}  # of a process
        self._params = dict(self._first_params)
        self._next_params = dict(self._params)
        self._simulated = plan.simulated_time
        self._switched_clock_ns = 0
        self._clock_steps: list[tuple[int, float]] = []  # of the system's, lately: when, by what
        self._clock_ns = 0  # of the last message on /clock
        self._state = 'unconfigured'
        self._state_since_ns = 0
        self._requests: dict[int, tuple[str, Any, bool | None]] = {}
        self._accepted = self._refused = 0  # requests
        self._calls: list[Call] = []  # that have not ended
        self._worker_free_ns = 0
        self._inference_s = 0.0  # the last one took
        self._callback_ns = 0  # when the one began that runs now
        self._corrected_ns = -NS  # when the system's clock jumped
        self._offset_before_ns = 0  # of it, before that
        self._excused: set[int] = set()  # reasons for ERROR of which there was a cause
        self._jumps: list[int] = []  # of the node's clock, since it was configured: when
        self._perhaps_jumps = 0
        self._configured_ns = 0
        self._signalled_ns: int | None = None
        self._is_up = False
        self._rivalled_since_ns: list[int | None] = [None] * len(plan.names)
        self._stall_seen = 0
        self._hang_limits: list[tuple[int, float]] = []  # until when they were in force
        self._long_stall_ns = -NS  # when one ended that the node has noticed
        self._offsets_unknown = False  # a sender's clock may have been learned
        around = Surroundings(
            now_ns=lambda: self._scheduler.now_ns,
            node_ns=self._node_ns,
            motion_ns=self._motion_ns,
            is_active=lambda: self._state == 'active' and self._is_up,
            is_simulated=lambda: self._simulated,
            is_ending=lambda: self._signalled_ns is not None,
            stalled_lately=self._stalled_lately,
            stalled_in_callback=self._stalled_in_callback,
            stalled_long=lambda: self._age_s(self._long_stall_ns) < _GRACE_S - _UNSURE_S,
            any_stalled_lately=self._any_stalled_lately,
            worker_free_ns=lambda: self._worker_free_ns,
            queue_s=self._queue_s,
            violation=self._violation,
        )
        self.robots = [
            RobotOracle(number, name, self._params, plan.shape, around)
            for number, name in enumerate(plan.names)
        ]
        self._by_prefix = {world.prefix(one.number): one for one in self.robots}
        self._image_topics = {
            f'/{prefix}{topic}{suffix}': (robot, camera)
            for prefix, robot in self._by_prefix.items()
            for camera, topic in enumerate(image_topics(plan.shape.cameras).values())
            for suffix in ('', '/compressed')
        }
        world.scheduler.after(_LOOK_S, self._look)

    def _violation(self, text: str) -> None:
        self.violations.append(Violation(self._scheduler.elapsed_s, text))

    def _node_ns(self) -> int:
        return self._clock_ns if self._simulated else self._scheduler.system_ns()

    def _motion_ns(self, stamp_ns: int) -> int:
        """A stamp of now, by the clock that motions run by."""
        if self._simulated:
            return stamp_ns
        # The clock may have been corrected between the stamp and what is published with it.
        before_ns = stamp_ns - self._offset_before_ns
        if self._callback_ns <= before_ns <= self._corrected_ns:
            return before_ns
        return stamp_ns - self._scheduler.system_offset_ns

    def _stalled_lately(self, within_s: float) -> bool:
        return self._ended_lately(self._world.stalls, within_s)

    def _stalled_in_callback(self) -> bool:
        return any(end_ns > self._callback_ns for _, end_ns in self._world.stalls)

    def _any_stalled_lately(self, within_s: float) -> bool:
        return self._stalled_lately(within_s) or self._ended_lately(
            self._world.worker_stalls, within_s
        )

    def _ended_lately(self, stalls: list[tuple[int, int]], within_s: float) -> bool:
        """Whether one lasts, or ended within that time."""
        since_ns = self._scheduler.now_ns - round((within_s + _UNSURE_S) * NS)
        return any(end_ns >= since_ns for _, end_ns in stalls[-_STALLS_LOOKED_AT:])

    # -- the process -------------------------------------------------------------------------------

    def process_begins(self) -> None:
        self._is_up = True
        self._clock_ns = 0
        self._simulated = self._plan.simulated_time
        self._set_state('unconfigured')
        self._requests.clear()
        self._accepted = self._refused = 0
        self._long_stall_ns = -NS
        self._calls.clear()
        self._excused = set(_ALWAYS_EXCUSED)
        self._jumps, self._perhaps_jumps = [], 0
        self._signalled_ns = None
        self._offsets_unknown = False
        self._params.update(self._first_params)
        self._next_params = dict(self._params)
        for robot in self.robots:
            robot.forget_process()

    def process_signalled(self) -> None:
        if self._signalled_ns is None:
            self._signalled_ns = self._scheduler.now_ns
            for robot in self.robots:
                robot.goals.process_ends()

    def process_ends(self, code: int | None, output: str, killed_by: str) -> None:
        """
        :param code: None if it was killed.
        """
        self._is_up = False
        if killed_by == WATCHDOG and self._stuck_s() < self._may_be_stuck_s():
            self._violation(f'the watchdog ends a process that is not stuck: {output}')
        if code is None:
            for robot in self.robots:
                robot.killed()
                if self._requests:
                    robot.forget_switches()
            return
        for robot in self.robots:
            robot.goals.process_has_ended()
        if code == 70:
            if not self._calls:
                self._violation('exit code 70, and the policy does not hang')
        elif code != 0 or self._signalled_ns is None:
            self._violation(f'the process ended with {code}: {output}')
        if self._signalled_ns is None:
            return
        took_s = self._age_s(self._signalled_ns)
        if took_s > _END_S and not self._stalled_lately(took_s):
            self._violation(f'it took {took_s:.2f} s from the signal to the end')
        for robot in self.robots:
            robot.end_of_callback()

    def _may_be_stuck_s(self) -> float:
        """Of a preparation next to nothing may be left."""
        since_ns = self._scheduler.now_ns - round((self._stuck_s() + NOTICE_S) * NS)
        lately = [limit_s for at_ns, limit_s in self._hang_limits if at_ns > since_ns]
        limit_s = min(self._params['hang_timeout_s'], *lately, self._params['hang_timeout_s'])
        return limit_s if self._is_prepared else 0.0

    @property
    def _is_prepared(self) -> bool:
        """Whether the node is active, and has said that its policy is ready."""
        statuses = [robot.status for robot in self.robots]
        return self._state == 'active' and not any(
            status is None or status.state in (State.LOADING, State.WARMING_UP)
            for status in statuses
        )

    def _stuck_s(self) -> float:
        """For how long the executor's thread has not run, though the process was not suspended.

        A stall that ended less than ``_UNSURE_S`` ago counts: the watchdog may not know yet.
        """
        now_ns = self._scheduler.now_ns
        since_ns = now_ns - round(_UNSURE_S * NS)
        for start_ns, end_ns in sorted(self._world.stalls, key=lambda stall: -stall[1]):
            if end_ns > since_ns:  # one may begin before another has ended
                since_ns = min(since_ns, start_ns)
        return (now_ns - max(since_ns, Process.suspended_until_ns)) / NS

    def _queue_s(self) -> float:
        is_idle = not self._calls and self._age_s(self._worker_free_ns) > NOTICE_S
        return 0.0 if is_idle else self._inference_s

    def _age_s(self, since_ns: int) -> float:
        return (self._scheduler.now_ns - since_ns) / NS

    # -- what goes in ------------------------------------------------------------------------------

    def took(self, topic: str, message: Any, info: dict[str, Any]) -> None:
        if topic == '/clock':
            before_ns, self._clock_ns = self._clock_ns, _ns(message.clock)
            step_s = (self._clock_ns - before_ns) / NS
            if before_ns and not 0 <= step_s <= _MAX_SIMULATED_STEP_S:
                self.clock_faulted()
            return
        for prefix, robot in self._by_prefix.items():
            if topic == f'/{prefix}instruction':
                late = self._is_late(info['source_timestamp']) if message.data.strip() else False
                robot.hear(message.data, late)
            elif topic == f'/{prefix}state':
                robot.feel(message)
            elif topic == f'/{prefix}ee_pose':
                robot.hear_pose(message)
            elif topic == f'/{prefix}joint_states':
                robot.feel_joints(message)
        if topic in self._image_topics:
            self._took_image(*self._image_topics[topic], message)

    def _took_image(self, robot: RobotOracle, camera: int, message: Any) -> None:
        convert = compressed_to_rgb if _is_compressed(message) else image_to_rgb
        stamp = message.header.stamp
        try:
            image = convert(message)
        except UnusableImage:
            robot.see(0, Frame(robot.number, camera, 0), False)
            return
        robot.see(_ns(stamp), frame_of(image), True)

    def _is_late(self, sent_ns: int) -> bool | None:
        """Whether a command that is taken now is too late; None if it may be either."""
        limit_s = self._params['max_command_age_s']
        age_s = abs(self._scheduler.system_ns() - sent_ns) / NS
        is_stalled = self._stalled_lately(_GRACE_S + NOTICE_S)
        if age_s < limit_s - _UNSURE_S:
            return None if is_stalled else False
        is_unsure = is_stalled or self._offsets_unknown or age_s < limit_s + _UNSURE_S
        self._offsets_unknown = True  # if it is refused, the next one as late may be obeyed
        return None if is_unsure else True

    def took_request(self, service: str, request: Any, header: Header) -> None:
        if '/_action/' in service:
            self._requests[header.sequence_number] = (service, request, None)
            self._may_end_goals(service.rpartition('execute')[0], 'cancel_goal' in service)
            return
        late = self._is_late(header.source_timestamp)
        if service.endswith('success'):
            self._may_end_goals(service.removesuffix('success'), True)
        self._requests[header.sequence_number] = (service, request, late)
        for robot in self.robots:
            robot.is_asked = True
            for name, value in _parameters(request):
                if name == 'instruction' and isinstance(value, str):
                    robot.may_be_told(value)
                robot.may_change(name)

    def _named(self, start: str) -> list[RobotOracle]:
        """The robots that a service is for, by its name without its last part."""
        prefix = start.removeprefix('/vla/')
        return [one for name, one in self._by_prefix.items() if prefix in ('', name)]

    def _may_end_goals(self, start: str, is_so: bool) -> None:
        for robot in self._named(start) if is_so else ():
            if robot.goals.current is not None:
                robot.goal_may_be_over()

    # -- what comes out ----------------------------------------------------------------------------

    def _answered_goal(self, service: str, request: Any, response: Any, header: Header) -> None:
        """The action server of a robot has answered."""
        start, _, kind = service.partition('execute/_action/')
        robot, is_heard = self._by_prefix[start.removeprefix('/vla/')], bool(header.client)
        goals = robot.goals
        self._rivalled(robot)  # perhaps since the last look
        if kind == 'cancel_goal':
            goals.cancel(request, response)
        elif kind == 'get_result':
            goals.result(request, response)
        elif goals.answer(request, response.accepted, is_heard, _ns(response.stamp)):
            self._accepted += response.accepted
            self._refused += not response.accepted

    def _succeeded(self, service: str, response: Any) -> None:
        """The service says how many goals have succeeded."""
        robots = self._named(service.removesuffix('success'))
        surely = [robot for robot in robots if robot.goals.is_carried_out]
        perhaps = [robot for robot in robots if robot.goals.is_carried_out is not False]
        told = int(response.message.split()[0]) if response.success else 0
        if not len(surely) <= told <= len(perhaps):
            self._violation(
                f'{service}: {response.message!r}, should be {len(surely)} to {len(perhaps)}'
            )
        for robot in perhaps:
            if robot in surely or told == len(perhaps):
                robot.goals.succeed()
            else:
                robot.goals.may_have_succeeded()

    def answered(self, service: str, response: Any, header: Header) -> None:
        service, request, late = self._requests.pop(header.sequence_number)
        if '/_action/' in service:
            self._answered_goal(service, request, response, header)
            return
        is_refused = _is_refused(response)
        self._accepted, self._refused = (
            self._accepted + (not is_refused),
            self._refused + is_refused,
        )
        if service.endswith('success'):
            self._succeeded(service, response)
        if isinstance(request, SetBool.Request) and response.success:
            done = 'enabled' if request.data else 'disabled'
            if not response.message.startswith(done):
                self._violation(f'{service}: {response.message!r}, should be {done}')
        if late and _sets_going(service, request) and response.success:
            self._violation(f'{service}: {request} is obeyed, though it comes too late')
        for robot in self.robots:
            robot.is_asked = False
        self._check_parameters(request, response, late)
        name = service.removeprefix('/vla/')
        what = name.rpartition('/')[2]
        if what not in ('enable', 'stop', 'reset') or not response.success:
            return
        for prefix, robot in self._by_prefix.items():
            if name in (what, f'{prefix}{what}'):
                robot.switch(what, getattr(request, 'data', False))

    def _check_parameters(self, request: Any, response: Any, late: bool | None) -> None:
        if isinstance(request, GetParameters.Request):
            for name, value in zip(request.names, response.values, strict=True):
                told, known = parameter_value_to_python(value), self._next_params[name]
                if told != known:
                    self._violation(f'parameter {name} is {told!r}, should be {known!r}')
        elif isinstance(request, SetParametersAtomically.Request):
            self._check_change(_parameters(request), response.result, late)
        elif isinstance(request, SetParameters.Request):
            for (name, value), result in zip(_parameters(request), response.results, strict=True):
                self._check_change([(name, value)], result, late)

    def _check_change(self, pairs: list[tuple[str, Any]], result: Any, late: bool | None) -> None:
        """It is accepted as a whole, or changes nothing.

        :param pairs: names and values; a name that comes twice has the last value.
        """
        changes = dict(pairs)
        is_configured = self._state not in ('unconfigured', 'finalized')
        values = self._params if is_configured else self._next_params
        alone = [why_not_alone(name, value, is_configured) for name, value in pairs]
        why = next(filter(None, alone), '') or why_not(values, changes, is_configured)
        no_state = self._why_no_state({**values, **changes}) if is_configured else ''
        if result.successful and no_state:
            why = why or (no_state if self._is_warm else '')
            self._excused |= {Reason.LOADING_FAILED, Reason.INVALID_PARAMETER}
        if result.successful and why:
            self._violation(f'{changes} are set, though {why}')
        may_be_late = late is not False and bool(changes.get('instruction'))
        if not result.successful and not why and not may_be_late and not no_state:
            self._violation(f'{changes} are rejected: {result.reason}')
        if result.successful:
            self._set_parameters(changes)

    def _why_no_state(self, values: Mapping[str, Any]) -> str:
        """Return why the state by these values is not the policy's; empty: it is."""
        return why_no_state(values, self._plan.shape.state_dim)

    @property
    def _is_warm(self) -> bool:
        """Whether the policy surely is ready, as the statuses said a moment ago."""
        warm = (State.READY, State.HOLDING, State.RUNNING)
        return all(
            one.status is not None and one.status.state in warm and self._age_s(one.status_ns) > 0
            for one in self.robots
        )

    def _set_parameters(self, changes: Mapping[str, Any]) -> None:
        """Set them together: nothing sees one of them without the others."""
        before = dict(self._params)
        plain = {name: changes[name] for name in changes if name not in ('instruction', _CLOCK)}
        self._next_params.update(plain)
        if self._state not in ('unconfigured', 'finalized'):
            self._params.update(plain)  # in force at once
        elif 'max_command_age_s' in plain:  # commands come in every state
            self._params['max_command_age_s'] = plain['max_command_age_s']
        for name, value in changes.items():
            if name == 'instruction':
                self._next_params[name] = value
                for robot in self.robots:
                    robot.hear(value, False)
            elif name == _CLOCK:
                self._switch_clock(value)
            elif self._state not in ('unconfigured', 'finalized') and value != before[name]:
                self._changed(name, before[name])

    def _switch_clock(self, simulated: bool) -> None:
        if simulated == self._simulated:
            return
        before_ns, self._switched_clock_ns = self._switched_clock_ns, self._scheduler.now_ns
        is_jump = self._node_ns() != 0  # a clock that begins has not jumped
        self._simulated = simulated
        self._clock_ns = 0
        for robot in self.robots:
            robot.doubt_clock(is_jump)
            if self._age_s(before_ns) < NOTICE_S:  # there and back
                robot.need_not_notice(before_ns)
        self._perhaps_jumps += 2

    def _changed(self, name: str, before: Any) -> None:
        if name == 'hang_timeout_s':
            self._hang_limits.append((self._scheduler.now_ns, before))
        for robot in self.robots:
            robot.parameter_changed(name, before)

    def changed_state(self, state: str, transition: str) -> None:
        if state == 'configuring':
            self._jumps, self._perhaps_jumps = [], 0
            self._configured_ns = self._scheduler.now_ns
            self._params.update(self._next_params)
            if why_not_together(self._params):
                self._excused.add(Reason.INVALID_PARAMETER)
            if why_no_contracts(self._params) or self._why_no_state(self._params):
                self._excused.add(Reason.LOADING_FAILED)
            for robot in self.robots if not why_not_together(self._params) else ():
                robot.configure()
                robot.begin_with(self._params['instruction'])
        elif state == 'unconfigured' and self._state == 'cleaningup':
            for robot in self.robots:
                robot.forget_instruction()
        elif state == 'activating':
            for robot in self.robots:
                robot.activate()
        for robot in self.robots:
            if state == 'active' or self._state == 'active':
                robot.goals.lifecycle(state == 'active')
        if state in ('deactivating', 'shuttingdown', 'cleaningup', 'errorprocessing'):
            for robot in self.robots:
                robot.void(at_once=False)
                if state == 'cleaningup':
                    robot.may_be_told('')  # while the node does so
        why = why_not_together(self._params) if self._state == 'configuring' else ''
        if state == 'inactive' and why:
            self._violation(f'it is configured, though {why}')
        self._set_state(state)
        for robot in self.robots:
            robot.disturb()

    def _set_state(self, state: str) -> None:
        self._state, self._state_since_ns = state, self._scheduler.now_ns

    def published(self, topic: str, message: Any) -> None:
        if '/_action/' in topic:
            start, _, kind = topic.partition('execute/_action/')
            robot = self._by_prefix[start.removeprefix('/vla/')]
            self._rivalled(robot)  # perhaps since the last look
            (robot.goals.feed if kind == 'feedback' else robot.goals.told)(message)
            return
        for prefix, robot in self._by_prefix.items():
            if not topic.startswith(f'/{prefix}'):
                continue
            name = topic.removeprefix(f'/{prefix}')
            if name == 'status':
                robot.tell(message)
                self._check_requests(message)
                self._check_error(message)
                self._check_jumps(message)
            elif name == 'twist':
                robot.move(message)
            elif name in ('gripper', 'finger'):
                robot.grip(message)
            elif name == 'target_pose':
                robot.aim(message)
            elif name in ('joint_commands', 'joint_trajectory'):
                robot.command(message)
            elif name == 'action':
                robot.act(message)

    def _check_requests(self, status: Any) -> None:
        counters = status.counters
        counted = counters.requests_accepted, counters.requests_refused
        if counted != (self._accepted, self._refused):
            self._violation(
                f'{counted} requests are accepted and refused, answers: {self._accepted}, '
                f'{self._refused}'
            )

    def _check_error(self, status: Any) -> None:
        if status.state != State.ERROR or status.reason in self._excused:
            return
        if status.reason == Reason.POLICY_HUNG and self._calls:
            return
        slow = [call for call in self._calls if not call.frames]
        if status.reason in (Reason.LOAD_TIMEOUT, Reason.WARMUP_TIMEOUT) and slow:
            return
        self._violation(f'ERROR {status.reason} without a cause: {status.message}')

    def _check_jumps(self, status: Any) -> None:
        """Those of a moment ago, and those near to each other, may not have been noticed yet."""
        noticed = 0
        before_ns = 0
        for at_ns in self._jumps:
            noticed += at_ns - before_ns > NOTICE_S * NS
            before_ns = at_ns
        is_sure = not self._stalled_lately(self._age_s(self._configured_ns))
        if self._jumps and self._age_s(self._jumps[-1]) < NOTICE_S:
            noticed -= 1
        most = len(self._jumps) + self._perhaps_jumps
        if status.counters.clock_jumps > most or (
            is_sure and status.counters.clock_jumps < noticed
        ):
            self._violation(
                f'clock_jumps is {status.counters.clock_jumps}, should be {noticed} to {most}'
            )

    def logged(self, severity: int, text: str) -> None:
        is_known = FAILURE in text or NO_CLIENT in text
        is_error = severity >= _ERROR and 'Traceback' in text and not is_known
        if is_error or 'mistake of vla_ros' in text:
            self._violation(f'log: {text}')

    # -- the policy --------------------------------------------------------------------------------

    def call_begins(self, call: Call) -> None:
        self._calls.append(call)
        for member, robot in enumerate(call.robots):
            self.robots[robot].begin_call(call, member)

    def call_ends(self, call: Call) -> None:
        self._calls.remove(call)
        self._worker_free_ns = self._scheduler.now_ns
        if not call.frames:
            if call.fault or call.duration_s > _QUICK_S:
                self._excused |= {Reason.LOADING_FAILED, Reason.WARMUP_FAILED}
                self._excused |= {Reason.LOAD_TIMEOUT, Reason.WARMUP_TIMEOUT}
            return
        self._inference_s = self._age_s(call.began_ns)
        limit_s = self._params['inference_timeout_s']
        is_failed = not call.heard_cancel and not is_sound(call)
        for member, number in enumerate(call.robots):
            robot = self.robots[number]
            if call.fault == 'refuse':
                robot.policy_refuses()
            if is_failed or call.duration_s > limit_s + _UNSURE_S:
                robot.expect_hold(call, member)
            if call.fault or call.duration_s > 0.5 * limit_s:
                robot.disturb()

    def files_checked(self) -> None:
        """The policy has said that a file has changed."""
        self._excused.add(Reason.CHECKPOINT_CHANGED)
        for robot in self.robots:
            robot.policy_fails(Reason.CHECKPOINT_CHANGED)

    # -- regularly ---------------------------------------------------------------------------------

    def callback_begins(self) -> None:
        """The executor is about to run a callback; the one before has ended."""
        self._callback_ns = self._scheduler.now_ns
        for robot in self.robots:
            robot.end_of_callback()
        self._look_at_stalls()

    def disturbed(self) -> None:
        """A fault begins or ends."""
        for robot in self.robots:
            robot.disturb()

    def system_clock_jumped(self, seconds: float) -> None:
        """The node has to notice the sum of all jumps between two of its looks.

        :param seconds: by which it jumped.
        """
        self._corrected_ns = self._scheduler.now_ns
        self._offset_before_ns = self._scheduler.system_offset_ns - round(seconds * NS)
        if self._simulated:
            return  # the node does not look at it
        if abs(seconds) > MAX_SKEW_S:
            self.clock_faulted()
        now_ns = self._scheduler.now_ns
        looked_ns = min(self._callback_ns, now_ns - round(NOTICE_S * NS))
        steps = [step for step in self._clock_steps if step[0] >= looked_ns]
        self._clock_steps = [*steps, (now_ns, seconds)]
        if steps and abs(sum(step_s for _, step_s in self._clock_steps)) < MAX_SKEW_S + _UNSURE_S:
            since_ns = steps[0][0]
            self._jumps = [at_ns for at_ns in self._jumps if at_ns < since_ns]
            self._perhaps_jumps += len(self._clock_steps)
            for robot in self.robots:
                robot.need_not_notice(since_ns)

    def clock_faulted(self) -> None:
        """The node's clock has jumped, and it has to notice."""
        if self._state in _NOTICES:
            self._jumps.append(self._scheduler.now_ns)
        self._perhaps_jumps += 1
        for robot in self.robots:
            robot.doubt_clock(is_jump=True)

    def _look(self) -> None:
        self._scheduler.after(_LOOK_S, self._look)
        if not self._is_up:
            return
        is_ending = self._signalled_ns is not None
        limit_s = _CLOSE_S if is_ending else self._params['hang_timeout_s']
        if self._is_prepared and self._stuck_s() > limit_s + _ENDED_S:
            self._violation(f'the process is stuck for {self._stuck_s():.2f} s, and goes on')
        late = self._waiting_for_late_call()
        for robot in self.robots:
            if self._state == 'active':
                robot.look(self._rivalled(robot), robot.number in late)
            if self._state not in _TRANSITIONAL and not self._stalled_lately(0.3) and not is_ending:
                robot.goals.look()
            self._check_silence(robot)

    def _waiting_for_late_call(self) -> set[int]:
        """The robots of an inference that is late, and those whose image waits behind it."""
        limit_s = self._params['inference_timeout_s'] + NOTICE_S
        waiting: set[int] = set()
        for call in self._calls:
            if call.frames and self._age_s(call.began_ns) > limit_s:
                waiting |= set(call.robots)
                waiting |= {
                    robot.number
                    for robot in self.robots
                    if robot.waits_since_s(call.began_ns) > NOTICE_S
                }
        return waiting

    def _look_at_stalls(self) -> None:
        """The first callback after a stall begins; what was taken before it may not count.

        What the callback took in which it ended may: the node may have looked before that.
        """
        stalls = self._world.stalls
        for start_ns, end_ns in stalls[self._stall_seen :]:
            if end_ns > self._scheduler.now_ns:
                break
            self._stall_seen += 1
            if (end_ns - start_ns) / NS > _MAX_STALL_S + _UNSURE_S and self._is_prepared:
                self._long_stall_ns = end_ns
                for robot in self.robots:
                    robot.void(until_ns=end_ns)

    def _rivalled(self, robot: RobotOracle) -> bool:
        """Whether others act in the node's place, and did so long enough to be noticed."""
        graph = self._world.graph
        prefix = self._world.prefix(robot.number)
        names = ('action', *MOTION_TOPICS.get(self._params['motion'], ()))
        own, topics = ('vla', '/'), [f'/{prefix}{name}' for name in names]
        others = [one.topic for one in graph.publishers if one.node != own]
        is_so = graph.nodes.count(own) > 1 or any(
            graph.count(topic, is_publisher=True) > 1 for topic in topics if topic in others
        )
        if not is_so:
            self._rivalled_since_ns[robot.number] = None
            return False
        robot.disturb()
        robot.doubt_wanted()
        since_ns = self._rivalled_since_ns[robot.number] or self._scheduler.now_ns
        self._rivalled_since_ns[robot.number] = since_ns
        return self._age_s(since_ns) > _STATUS_PERIOD_S + _LATE_S

    def _check_silence(self, robot: RobotOracle) -> None:
        since_ns = max(robot.status_ns, self._state_since_ns)  # a transition may wait for a thread
        silent_s = self._age_s(since_ns)
        limit_s = _STATUS_PERIOD_S + _LATE_S
        if silent_s <= limit_s or self._stalled_lately(silent_s):
            return
        if self._state in _TRANSITIONAL or self._signalled_ns is not None:
            return
        robot.status_ns = self._scheduler.now_ns
        self._violation(f'{robot._name or "the robot"}: no status for {silent_s:.2f} s')


def _is_refused(response: Any) -> bool:
    results = getattr(response, 'results', [getattr(response, 'result', response)])
    return not all(
        getattr(one, 'success', True) and getattr(one, 'successful', True) for one in results
    )


def _sets_going(service: str, request: Any) -> bool:
    """Whether a robot may begin to move by it: enable, reset, activate."""
    if isinstance(request, SetBool.Request):
        return bool(request.data)
    if isinstance(request, ChangeState.Request):
        return request.transition.id == Transition.TRANSITION_ACTIVATE
    return service.endswith('/reset')


def _parameters(request: Any) -> list[tuple[str, Any]]:
    if not isinstance(request, (SetParameters.Request, SetParametersAtomically.Request)):
        return []
    return [(one.name, parameter_value_to_python(one.value)) for one in request.parameters]


def _is_compressed(message: Any) -> bool:
    return hasattr(message, 'format')


def _ns(time: Any) -> int:
    return time.sec * NS + time.nanosec
