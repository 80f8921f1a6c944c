"""The node ``vla``: one policy for one robot or several; its lifecycle, its time-outs.

What belongs to one robot is in ``robot.py``; the worker knows the robots as its sources. All in
here runs in the executor's one thread, but for ``_build_policy`` and the clock, which the worker
calls. Callbacks only convert and submit; the worker wakes the executor through a guard condition.
What is decided is decided elsewhere: the worker knows what is fresh, the gate what may move the
robot.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future

from vla_ros.clock import Clock
from vla_ros.images.raw import backend
from vla_ros.motion import ActionContract, load_contracts
from vla_ros.parameters.check import ParameterError, check_value
from vla_ros.parameters.definition import DEFINITIONS, Parameters, Settable
from vla_ros.reasons import Cause, Reason, State
from vla_ros.ros import loading
from vla_ros.ros.latch import Latches, latch_path
from vla_ros.ros.loading import (
    LoadPolicy,
    progress_text,
    silence_limit,
    time_out,
    warmup_text,
    why_too_slow,
)
from vla_ros.ros.log import Log
from vla_ros.ros.messages import diagnostics_message
from vla_ros.ros.motion_output import close_motions
from vla_ros.ros.node_clock import NodeClock
from vla_ros.ros.parameters import declare_parameters, read_parameters, read_robot_names
from vla_ros.ros.requests import Requests
from vla_ros.ros.rivals import Rivals
from vla_ros.ros.robot import RobotPort
from vla_ros.ros.shared import RequestCounters, Shared
from vla_ros.ros.situation import Situation
from vla_ros.ros.switches import SwitchServices
from vla_ros.scheduling import (
    CommandWatch,
    Deadline,
    InferenceWorker,
    Phase,
    WorkerLimits,
    WorkerStatus,
    failure_text,
)
from vla_ros.text import quoted
from vla_ros.types import InstructionError, Policy, ProgressCallback, check_instruction

EXIT_HUNG = 70
CLOSE_LIMIT_S = 8.0  # for the policy's end and the robots' last messages; launch kills after 10 s

_WATCH_PERIOD_S = 0.02  # by so much a deadline may be noticed late
_REPORT_PERIOD_S = 1.0
_JOIN_TIMEOUT_S = 2.0  # launch sends SIGTERM 5 s after SIGINT
_FLUSH_TIMEOUT_S = 0.5  # of the last status, of all robots

Transition = Callable[['VlaNode', LifecycleState], TransitionCallbackReturn]


def _transition(callback: Transition) -> Transition:
    """What a transition raises is in the log: rclpy keeps it to itself."""

    @functools.wraps(callback)
    def logged(node: VlaNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return callback(node, state)
        except Exception as error:
            node.keep_transition_error(callback.__name__.removeprefix('on_'), error)
            raise

    return logged


class VlaNode(LifecycleNode):
    """Configure loads and warms the policy in the worker; activate lets it move the robot."""

    def __init__(
        self,
        load_policy: LoadPolicy = loading.load_policy,
        beat: Callable[[float, str], None] = lambda limit_s, why: None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        """
        :param load_policy: called by the worker; what it raises puts the node into ERROR.
        :param beat: of the watchdog: for how long the executor may be silent now, and why.
        :param clock: in place of the node's own, for tests.
        :raises ParameterError: if a parameter set at the start is not allowed.
        """
        super().__init__('vla', **options)
        declare_parameters(self)
        self._load_policy = load_policy
        self._beat = beat
        self.ended = Future()  # done when the process has to end; its exit code
        self._params = Parameters()
        self._contracts: Mapping[str, ActionContract] = {}
        self._worker: InferenceWorker | None = None
        self._warm = False
        self._active = False
        self._activate_when_ready = False
        self._shut_down = False
        self._error: Cause | None = None

        robots = read_robot_names(self)
        self._shared = self._make_shared(robots, clock)
        self._node_clock, self._log = self._shared.clock, self._shared.log
        self.requests = Requests(self._shared, self._before_callback)
        enabled = self.get_parameter('enabled').value
        self._robots = [
            RobotPort(self, self._shared, name, source, self._situation, enabled)
            for source, name in enumerate(robots)
        ]
        self._views = itertools.cycle([robot.view for robot in self._robots])
        self._offer_switches()
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 1)
        self._worker_spoke = self.create_guard_condition(self._on_worker)
        steady = RosClock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self.create_timer(_WATCH_PERIOD_S, self._watch, clock=steady)
        self.create_timer(_REPORT_PERIOD_S, self._report, clock=steady)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._show_change()

    def _make_shared(self, robots: Collection[str], own_clock: Clock | None) -> Shared:
        clock = NodeClock(self, own_clock)
        file = self.get_parameter('latch_file').value
        path = (
            Path(file).expanduser()
            if file
            else latch_path(self.get_fully_qualified_name(), self.context.get_domain_id())
        )
        latches, log = Latches(path, tuple(robots)), Log(self, clock)
        if latches.problem:
            log.error(latches.problem)
        commands = CommandWatch(self.get_parameter('max_command_age_s').value, clock)
        return Shared(clock, log, latches, commands, Rivals(self), RequestCounters())

    # -- lifecycle ---------------------------------------------------------------------------------

    def autostart(self) -> None:
        """Configure now, and activate when the policy is ready, unless the parameter says no."""
        if self.get_parameter('autostart').value:
            self._activate_when_ready = True
            self._try(self.trigger_configure)

    @_transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start loading and return at once."""
        try:
            self._params = read_parameters(self)
        except ParameterError as error:
            self._fail(Cause(Reason.INVALID_PARAMETER, str(error)))
            return TransitionCallbackReturn.FAILURE
        self._error = None
        self._warm = False
        self._node_clock.start_over()
        self._worker = InferenceWorker(
            functools.partial(self._build_policy, self._params),
            WorkerLimits(
                self._params.max_image_age_s,
                self._params.inference_timeout_s,
                self._params.hang_timeout_s,
            ),
            clock=self._node_clock,
            unnorm_key=self._params.unnorm_key,
            notify=self._on_notified,
            sources=len(self._robots),
        )
        for robot in self._robots:
            robot.configure(self._params, self._worker)
        self._beat(*silence_limit(self._worker.status(), self._params))  # as in _on_notified
        self._worker.start()
        self._show_change()
        return TransitionCallbackReturn.SUCCESS

    @_transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Refused until the policy is ready."""
        assert self._worker is not None  # configured
        status = self._worker.status()
        if status.phase is not Phase.READY:
            self._log.error(
                f'activate is refused: the policy is not ready yet ({progress_text(status)})'
            )
            return TransitionCallbackReturn.FAILURE
        self._prepare(status)
        super().on_activate(state)
        self._activate_when_ready = False
        self._active = True
        self._look_for_rivals()
        for robot in self._robots:
            robot.activate()
        return TransitionCallbackReturn.SUCCESS

    @_transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Nothing that is under way becomes an action any more."""
        self._stop()
        return super().on_deactivate(state)

    @_transition
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the policy's memory back, and forget the instruction."""
        self._activate_when_ready = False  # from now on a person decides
        self._close_worker()
        for robot in self._robots:
            robot.inputs.forget_instruction()
        self._show_change()
        return TransitionCallbackReturn.SUCCESS

    @_transition
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._activate_when_ready = False
        self._stop()
        self._close_worker()
        self._shut_down = True
        self._show_change()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised an error: give back what there is, or end the process."""
        self._activate_when_ready = False
        try:
            self._stop()
            self._close_worker()
            self._show_change()
        except Exception as error:  # rclpy would finalize the node, and keep it
            self._end(f'nor can the node recover from that: {error}')
            self._log.error(failure_text(error))
        return TransitionCallbackReturn.SUCCESS

    def keep_transition_error(self, transition: str, error: Exception) -> None:
        """Log what a transition raised, and show it: the node goes to ERROR."""
        self._log.error(f'{transition}: {failure_text(error)}')
        message = f'{transition} raised an error: {error}; it is a mistake of vla_ros'
        self._error = Cause(Reason.TRANSITION_FAILED, message)

    def close(self) -> bool:
        """End the worker before the publishers go; False if a thread is left that does not end."""
        if self.context.ok():
            self._stop()
        self._active = False
        self._close_worker()
        if self.ended.done() and self.context.ok():
            ends_s = self._node_clock.monotonic_s() + _FLUSH_TIMEOUT_S
            for robot in self._robots:
                robot.flush(max(0.0, ends_s - self._node_clock.monotonic_s()))
        self.destroy_node()
        return not self.ended.done()

    def _try(self, trigger: Callable[[], TransitionCallbackReturn]) -> None:
        """Trigger a transition that the node wants itself; a manager may have been faster."""
        try:
            trigger()
        except RuntimeError as error:  # RCLError
            self._log.warning(f'{trigger.__name__}: not possible: {error}')

    # -- what a person switches and sets -----------------------------------------------------------

    def _offer_switches(self) -> None:
        """The services of all robots at once, and of each that has a name."""
        latches = self._shared.latches
        SwitchServices(self, '', [robot.switch for robot in self._robots], latches)
        for robot in self._robots:
            if robot.prefix:
                SwitchServices(self, robot.prefix, [robot.switch], latches)

    def _on_set_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        unknown = [p.name for p in changed if not self.has_parameter(p.name)]
        if unknown:  # rclpy lets the empty name pass
            return SetParametersResult(
                successful=False, reason=f'parameter {quoted(unknown[0])} is unknown'
            )
        own = {p.name: p.value for p in changed if p.name in DEFINITIONS}
        fixed = sorted(name for name in own if DEFINITIONS[name].settable is not Settable.ALWAYS)
        if fixed and self._worker is not None:
            return SetParametersResult(
                successful=False,
                reason=f'{", ".join(fixed)} can only be set while the node is unconfigured: '
                'deactivate, clean up, set, configure',
            )
        try:
            for name, value in own.items():
                check_value(name, value)
            check_instruction(own.get('instruction', ''))
        except (ParameterError, InstructionError) as error:
            return SetParametersResult(successful=False, reason=str(error))
        if 'instruction' in own:
            for robot in self._robots:
                robot.inputs.instruct(own['instruction'])
        return SetParametersResult(successful=True)

    # -- the worker --------------------------------------------------------------------------------

    def _build_policy(self, parameters: Parameters, progress: ProgressCallback) -> Policy:
        """Worker only: all of it may take seconds, and the executor has to answer meanwhile."""
        self._log.info(f'pictures are converted by: {backend()}')
        self._contracts = load_contracts(parameters.contracts or None)
        return self._load_policy(parameters, progress)

    def _on_notified(self) -> None:
        """Worker only: what begins now may keep the interpreter's lock, for a time of its own."""
        if self._worker is not None:
            status = self._worker.status()
            if status.progress is None and status.phase in (Phase.WARMING_UP, Phase.READY):
                self._beat(*silence_limit(status, self._params))
        self._worker_spoke.trigger()

    def _on_worker(self) -> None:
        """The worker has changed its phase, or has results."""
        if self._worker is None:
            return
        status = self._worker.status()
        if status.phase is Phase.FAILED and status.failure is not None:
            self._fail(status.failure)
        elif status.phase is Phase.READY:
            self._prepare(status)
            if self._activate_when_ready:
                self._try(self.trigger_activate)
        self._settle_results()
        self._show_change()

    def _prepare(self, status: WorkerStatus) -> None:
        """Once the policy is warm: robots can be moved from now on."""
        if self._warm or status.spec is None or status.warmup_times is None:
            return
        self._warm = True
        for robot in self._robots:
            robot.prepare(status.spec, self._contracts)
        self._log.info(warmup_text(status.load_s, status.warmup_times))
        if why := why_too_slow(status, self._params):
            self._log.warning(why)

    def _settle_results(self) -> None:
        self._watch_surroundings()  # the clock may have jumped since the timer looked
        # One by one: what one of them changes decides about the next.
        while self._worker is not None and (result := self._worker.next_result()) is not None:
            self._robots[result.source].settle(result)

    def _close_worker(self) -> None:
        if self._worker is None:
            return
        self._beat(CLOSE_LIMIT_S, f'ending the policy may take {CLOSE_LIMIT_S:g} s')
        # First of all: the worker may take its time.
        close_motions([robot.motion for robot in self._robots if robot.motion], self._node_clock)
        if not self._worker.close(0.0 if self.ended.done() else _JOIN_TIMEOUT_S):
            # Another worker beside it would be a second model in memory.
            self._end(f'the policy did not stop within {_JOIN_TIMEOUT_S:g} s')
        self._settle_results()
        for robot in self._robots:
            robot.release()
        self._worker = None
        self._shared.commands.stall.look(counts=False)

    # -- state -------------------------------------------------------------------------------------

    def _situation(self) -> Situation:
        """The node's; RUNNING if it is active, for each robot then has its own."""
        if self._shut_down:
            shut_down = Cause(Reason.SHUT_DOWN, 'shut down for good')
            return Situation.of(State.UNCONFIGURED, shut_down)
        if self._error:
            return Situation.of(State.ERROR, self._error)
        if self._worker is None:
            return Situation(State.UNCONFIGURED)
        status = self._worker.status()
        if status.phase is Phase.LOADING:
            return Situation(State.LOADING, message=progress_text(status))
        if status.phase is Phase.WARMING_UP:
            return Situation(State.WARMING_UP, message=progress_text(status))
        if status.phase is Phase.FAILED:
            return Situation.of(State.ERROR, status.failure)
        return Situation(State.RUNNING if self._active else State.READY)

    def _show_change(self) -> None:
        for robot in self._robots:
            robot.show_change()

    def _stop(self) -> None:
        self._active = False
        for robot in self._robots:
            robot.inputs.stop_listening()
        if self._worker is not None:
            self._worker.reset()
        self._show_change()

    def _fail(self, cause: Cause) -> None:
        """Go to ERROR and give back what was loaded; configure starts anew."""
        self._error = cause
        self._activate_when_ready = False
        self._show_change()  # what follows may have to wait for a thread
        if self._active:
            self._try(self.trigger_deactivate)
        if self._worker is not None:
            self._try(self.trigger_cleanup)
        self._show_change()

    def _end(self, why: str) -> None:
        """Have the process end: nothing else frees a thread that does not come back."""
        if self.ended.done():
            return
        message = f'{self._error.message}; {why}' if self._error else why
        self._error = Cause(Reason.POLICY_HUNG, message)
        self._log.error(f'{why}: the process has to end')
        self.ended.set_result(EXIT_HUNG)

    # -- regularly ---------------------------------------------------------------------------------

    def _before_callback(self) -> None:
        """Called by the executor before every callback; nothing may be done after a stall before
        the robots hold."""
        stalled_s = self._shared.commands.stall.look(counts=self._warm)
        for robot in self._robots:
            if stalled_s and self._active:
                robot.start_over(
                    Cause(
                        Reason.EXECUTOR_STALLED,
                        f'the node did not run for {stalled_s:.1f} s (suspended, or the machine is '
                        'overloaded); what was under way is dropped, and commands that waited are '
                        'refused',
                    )
                )
            if robot.motion is not None:
                robot.motion.catch_up()

    def _watch(self) -> None:
        """Act on what has taken too long."""
        status = None if self._worker is None else self._worker.status()
        self._beat(*silence_limit(status, self._params))
        self._before_callback()
        if status is None:
            return
        if cause := time_out(status, self._params):
            self._fail(cause)
        self._watch_surroundings(self._overdue())
        self._show_change()
        self._show_one_view()

    def _overdue(self) -> set[int]:
        """The robots that wait for an inference which is late: they hold, or the process ends."""
        if self._worker is None:
            return set()
        deadline = self._worker.enforce_deadline()
        if deadline is Deadline.HUNG:
            limit_s = self._params.hang_timeout_s
            self._end(f'the inference did not stop within hang_timeout_s, {limit_s:g} s')
        overdue = self._worker.overdue()
        if deadline is Deadline.MISSED and self._active:
            limit_s = self._params.inference_timeout_s
            message = f'overrun: inference_timeout_s, {limit_s:g} s, is over'
            for source in overdue:
                self._robots[source].hold(Cause(Reason.INFERENCE_OVERRUN, message))
        return overdue

    def _watch_surroundings(self, overdue: Collection[int] = ()) -> None:
        """What each robot's clock, camera and instruction no longer bear out is dropped.

        :param overdue: these hold already, and say why.
        """
        clock = self._node_clock.look()
        if not self._active:
            return
        for source, robot in enumerate(self._robots):
            if clock.jumped or source not in overdue:
                robot.watch(clock.fault, clock.jumped)

    def _look_for_rivals(self) -> None:
        topics = [topic for robot in self._robots for topic in robot.output_topics]
        self._shared.rivals.look(topics)
        for robot in self._robots:
            robot.look_around()

    def _show_one_view(self) -> None:
        """At most one: each takes some milliseconds, and twists have to go out between them."""
        for view in itertools.islice(self._views, len(self._robots)):
            if view.show_if_due():
                return

    def _report(self) -> None:
        """Once a second: each robot's status, and the diagnostics of all."""
        self._look_for_rivals()
        name = self.get_fully_qualified_name().lstrip('/')
        statuses = [robot.report() for robot in self._robots]
        self._diagnostics.publish(diagnostics_message(statuses, name))
