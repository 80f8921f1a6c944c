# SPDX-License-Identifier: Apache-2.0
"""The node ``vla``: one policy for one robot or several; its lifecycle and its time-outs.

Everything here runs in the executor's one thread. What exists while the node is configured is in
``configuration.py``, and what belongs to one robot in ``robot.py`` and ``robot_session.py``.
"""

from __future__ import annotations

import dataclasses
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
from vla_ros.errors import VlaError
from vla_ros.msg import VlaPolicyInfo
from vla_ros.parameters.check import ParameterError, check_all, check_value
from vla_ros.parameters.definition import DEFINITIONS, Parameters, Settable
from vla_ros.reasons import Cause, Reason, State
from vla_ros.recording import Recorder
from vla_ros.ros import loading
from vla_ros.ros.bond import Bond
from vla_ros.ros.configuration import LOAD_AGAIN, Beat, Configuration
from vla_ros.ros.frames import Frames
from vla_ros.ros.goals import SuccessService
from vla_ros.ros.latch import Latches, latch_path
from vla_ros.ros.loading import LoadPolicy, busy_text, progress_text, silence_limit, time_out
from vla_ros.ros.log import Log
from vla_ros.ros.messages import diagnostics_message, policy_message
from vla_ros.ros.node_clock import NodeClock
from vla_ros.ros.parameters import declare_parameters, read_parameters, read_robot_names
from vla_ros.ros.requests import Requests
from vla_ros.ros.rivals import Rivals
from vla_ros.ros.robot import NodeView, RobotPort
from vla_ros.ros.shared import RequestCounters, Shared
from vla_ros.ros.situation import Situation
from vla_ros.ros.switches import SwitchServices
from vla_ros.scheduling import CommandWatch, Deadline, Phase, failure_text
from vla_ros.text import quoted
from vla_ros.types import check_instruction

EXIT_HUNG = 70
CLOSE_LIMIT_S = 8.0  # for the policy's end and the robots' last messages; launch kills after 10 s

_DEFAULTS = Parameters()  # while nothing is configured
_WATCH_PERIOD_S = 0.02  # by so much a deadline may be noticed late
_REPORT_PERIOD_S = 1.0
_CLEANUP_TIMEOUT_S = 4.0  # for the policy's end; nav2's manager waits 5 s for the transition
_JOIN_TIMEOUT_S = 2.0  # the same when the process ends: launch sends SIGTERM 5 s after SIGINT
_FLUSH_TIMEOUT_S = 0.5  # of the last status, of all robots
_LATCH_TIMEOUT_S = 0.5  # for the operator's decisions when the process ends
_RECORD_TIMEOUT_S = 1.5  # for what waits to be recorded when the process ends

Transition = Callable[['VlaNode', LifecycleState], TransitionCallbackReturn]


def _transition(callback: Transition) -> Transition:
    """Log what a transition raises: rclpy does not."""

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
        beat: Beat = lambda limit_s, why: None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        """Create the topics and services that exist in every state.

        :param load_policy: called by the worker; what it raises puts the node into ERROR.
        :param beat: of the watchdog: for how long the executor may be silent now, and why.
        :param clock: in place of the node's own, for tests.
        :raises ParameterError: if a parameter set at the start is not allowed.
        """
        super().__init__('vla', **options)
        declare_parameters(self)
        self._load_policy = load_policy
        self._beat = beat
        self.exit_code = Future()  # done when the process must end
        self._configuration: Configuration | None = None
        self._policy_info = policy_message(_DEFAULTS, None)  # as long as nothing is configured
        self._shut_down = False
        self._is_closing = False
        self._started_itself = False  # it is active by autostart, and nobody has changed that
        self._error: Cause | None = None
        self._recorders: list[Recorder] = []  # of earlier configurations, which may still write

        robots = read_robot_names(self)
        self._shared = self._make_shared(robots, clock)
        self._log = self._shared.log
        self.requests = Requests(self._shared, self._before_callback, self._is_done_by_itself)
        enabled = self.get_parameter('enabled').value
        view = NodeView(self._situation, self._policy)
        self._robots = [
            RobotPort(self, self._shared, name, source, view, enabled)
            for source, name in enumerate(robots)
        ]
        self._views = itertools.cycle([robot.view for robot in self._robots])
        self._offer_switches()
        self._bond = Bond(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 1)
        self._worker_spoke = self.create_guard_condition(self._on_worker)
        steady = RosClock(clock_type=ClockType.STEADY_TIME)  # simulated time may stop
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
        frames = Frames(self, clock)
        return Shared(clock, log, latches, commands, Rivals(self), RequestCounters(), frames)

    # -- lifecycle ---------------------------------------------------------------------------------

    def autostart(self) -> None:
        """Configure and activate now, unless the parameter says no."""
        if self.get_parameter('autostart').value:
            self._try(self.trigger_configure)
            if self._configuration is not None:
                self._try(self.trigger_activate)
                self._started_itself = True

    def _is_done_by_itself(self, transition: str) -> bool:
        """Let a lifecycle manager take over what ``autostart`` began, step by step.

        :param transition: that the manager asks for.
        :returns: whether nothing is left to do; otherwise it is a transition as any other.
        """
        if not self._started_itself or transition not in ('configure', 'activate'):
            return False
        if transition == 'configure':  # a manager expects an inactive node after this
            self._log.info('a lifecycle manager takes over: it activates the node')
            self._try(self.trigger_deactivate)
        return True

    @_transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start loading and return immediately."""
        try:
            parameters = read_parameters(self)
        except ParameterError as error:
            self._fail(Cause(Reason.INVALID_PARAMETER, str(error)))
            return TransitionCallbackReturn.FAILURE
        self._error = None
        self._shared.clock.start_over()
        wake = self._worker_spoke.trigger
        self._configuration = Configuration(
            parameters, self._robots, self._shared, self._load_policy, self._beat, wake
        )
        self._configuration.start()
        self._show_change()
        return TransitionCallbackReturn.SUCCESS

    @_transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the robots act, as soon as the policy is ready."""
        configuration = self._configuration
        if configuration is None:
            return TransitionCallbackReturn.FAILURE
        super().on_activate(state)
        self._let_act(configuration)
        self._bond.begin()
        return TransitionCallbackReturn.SUCCESS

    @_transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop everything: no running inference becomes an action."""
        self._started_itself = False
        self._deactivate()
        return super().on_deactivate(state)

    @_transition
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the policy's memory, and forget the instruction."""
        self._close_configuration()
        for robot in self._robots:
            robot.instructions.forget()
        self._show_change()
        return TransitionCallbackReturn.SUCCESS

    @_transition
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End for good, from any state."""
        self._started_itself = False
        self._deactivate()
        self._close_configuration()
        self._shut_down = True
        self._show_change()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Clean up after a transition that raised an error, or end the process."""
        self._started_itself = False
        try:
            self._deactivate()
            self._close_configuration()
            self._show_change()
        except Exception as error:  # rclpy would finalize the node, and keep it
            self._end(f'nor can the node recover from that: {error}')
            self._log.error(failure_text(error))
        return TransitionCallbackReturn.SUCCESS

    def keep_transition_error(self, transition: str, error: Exception) -> None:
        """Log what a transition raised, and show it: the node goes to ERROR."""
        self._error = self._mistake(transition, error)

    def _mistake(self, transition: str, error: Exception) -> Cause:
        """Log an error that must not be, and return the reason of ERROR."""
        self._log.error(f'{transition}: {failure_text(error)}')
        message = f'{transition} raised an error: {error}; it is a mistake of vla_ros'
        return Cause(Reason.TRANSITION_FAILED, message)

    def end_goals(self) -> bool:
        """Hold for good, and end all goals: the process ends.

        :returns: whether results may still be on their way; they need an executor that spins.
        """
        self._is_closing = True
        self._deactivate()
        cause = self._error or Cause(Reason.SHUT_DOWN, 'the process of the node ends')
        return any([robot.goals.end(cause) for robot in self._robots])

    def close(self) -> bool:
        """End the worker before the publishers; return False if a thread is left that hangs.

        The robots' last statuses are delivered, if their listeners answer in time.
        """
        self._is_closing = True
        if self.context.ok():
            self._deactivate()
        self._close_configuration()
        for robot in self._robots:
            robot.goals.close()
        if self.context.ok():
            clock = self._shared.clock
            ends_s = clock.monotonic_s() + _FLUSH_TIMEOUT_S
            for robot in self._robots:
                robot.flush(max(0.0, ends_s - clock.monotonic_s()))
        self._join_recorders()
        if not self._shared.latches.wait(_LATCH_TIMEOUT_S):
            self._log.error(self._shared.latches.problem)
        self.destroy_node()
        return not self.exit_code.done()

    def _join_recorders(self) -> None:
        """Wait a moment for the recordings that are still being written."""
        clock = self._shared.clock
        ends_s = clock.monotonic_s() + _RECORD_TIMEOUT_S
        left = (max(0.0, ends_s - clock.monotonic_s()) for _ in self._recorders)
        if not all([one.join(left_s) for one, left_s in zip(self._recorders, left, strict=True)]):
            self._log.error(
                f'recording: the last messages are lost: the disk did not take them within '
                f'{_RECORD_TIMEOUT_S:g} s'
            )

    def _try(self, trigger: Callable[[], TransitionCallbackReturn]) -> None:
        """Trigger a transition that the node wants itself; a manager may have been faster."""
        try:
            trigger()
        except RuntimeError as error:  # RCLError
            self._log.warning(f'{trigger.__name__}: not possible: {error}')

    # -- services and parameters -------------------------------------------------------------------

    def _offer_switches(self) -> None:
        """Create the services for all robots together, and for each that has a name."""
        latches = self._shared.latches
        SwitchServices(self, '', [robot.switch for robot in self._robots], latches)
        SuccessService(self, '', self._robots)
        for robot in self._robots:
            if robot.prefix:
                SuccessService(self, robot.prefix, [robot])
                SwitchServices(self, robot.prefix, [robot.switch], latches)

    def _on_set_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        unknown = [p.name for p in changed if not self.has_parameter(p.name)]
        if unknown:  # rclpy lets the empty name pass
            return SetParametersResult(
                successful=False, reason=f'parameter {quoted(unknown[0])} is unknown'
            )
        own = {p.name: p.value for p in changed if p.name in DEFINITIONS}
        fixed = sorted(name for name in own if DEFINITIONS[name].settable is not Settable.ALWAYS)
        if fixed and self._configuration is not None:
            return SetParametersResult(
                successful=False,
                reason=f'{", ".join(fixed)} can only be set while the node is unconfigured, since '
                f'the policy is loaded, or the outputs are made, by it: {LOAD_AGAIN}',
            )
        try:
            for one in changed:  # each of them: a name may come twice, and the last value counts
                if one.name in DEFINITIONS:
                    check_value(one.name, one.value)
                if one.name == 'instruction':
                    check_instruction(one.value)
            self._adjust(own)
        except VlaError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if 'instruction' in own:
            for robot in self._robots:
                robot.instructions.set(own['instruction'])
        return SetParametersResult(successful=True)

    def _adjust(self, own: Mapping[str, Any]) -> None:
        """Apply what was set to the current configuration, or all of it at the next one.

        :raises VlaError: if it does not fit what is in force; nothing changes then.
        """
        configuration = self._configuration
        if configuration is None:
            if 'max_command_age_s' in own:  # commands have an age in every state
                self._shared.commands.adjust(own['max_command_age_s'])
            return
        parameters = dataclasses.replace(configuration.parameters, **own)
        check_all(parameters)
        configuration.adjust(parameters, 'contracts' in own)

    # -- the configuration -------------------------------------------------------------------------

    def _on_worker(self) -> None:
        """React to a new phase of the worker, or to its results."""
        configuration = self._configuration
        if configuration is None:
            return
        failure = configuration.status().failure
        if failure is not None:
            self._fail(failure)
        else:
            self._begin_if_ready(configuration)
        configuration.settle_results()
        self._show_change()

    def _begin_if_ready(self, configuration: Configuration) -> None:
        """Begin the robots' sessions if the policy is warm; an active node acts from now on."""
        try:
            if configuration.prepare() and configuration.is_activated:
                self._let_act(configuration)
        except VlaError as error:  # of what was set while the policy was loaded
            self._fail(Cause(Reason.INVALID_PARAMETER, str(error)))
        except Exception as error:
            self._fail(self._mistake('activate', error))

    def _let_act(self, configuration: Configuration) -> None:
        self._look_for_rivals()
        configuration.activate()

    def _deactivate(self) -> None:
        self._bond.end()
        if self._configuration is not None:
            self._configuration.deactivate()
        self._show_change()

    def _close_configuration(self) -> None:
        configuration = self._configuration
        if configuration is None:
            return
        self._beat(CLOSE_LIMIT_S, f'ending the policy may take {CLOSE_LIMIT_S:g} s')
        busy = 'the policy' if self._error else busy_text(configuration.status())
        limit_s = _JOIN_TIMEOUT_S if self._is_closing else _CLEANUP_TIMEOUT_S
        if not configuration.close(0.0 if self.exit_code.done() else limit_s):
            # Another worker beside it would be a second model in memory.
            self._end(f'{busy} did not stop within {limit_s:g} s')
        self._policy_info = policy_message(configuration.parameters, None)
        self._recorders = [one for one in self._recorders if not one.join(0.0)]
        self._recorders.append(configuration.recorder)
        self._configuration = None
        self._shared.commands.stall.look(counts=False)

    # -- state -------------------------------------------------------------------------------------

    def _situation(self) -> Situation:
        """Return the node's state; READY also while it is active."""
        if self._shut_down:
            shut_down = Cause(Reason.SHUT_DOWN, 'shut down for good')
            return Situation.of(State.UNCONFIGURED, shut_down)
        if self._error:
            return Situation.of(State.ERROR, self._error)
        if self._configuration is None:
            return Situation(State.UNCONFIGURED)
        status = self._configuration.status()
        if status.phase is Phase.LOADING:
            return Situation(State.LOADING, message=progress_text(status))
        if status.phase is Phase.WARMING_UP:
            return Situation(State.WARMING_UP, message=progress_text(status))
        if status.phase is Phase.FAILED:
            return Situation.of(State.ERROR, status.failure)
        return Situation(State.READY)

    def _policy(self) -> VlaPolicyInfo:
        """Return the policy that is loaded, or was asked for."""
        if self._configuration is None:
            return self._policy_info
        return policy_message(self._configuration.parameters, self._configuration.status())

    def _show_change(self) -> None:
        for robot in self._robots:
            robot.show_change()

    def _fail(self, cause: Cause) -> None:
        """Go to ERROR and free what was loaded; configure starts again."""
        self._error = cause
        self._show_change()  # what follows may have to wait for a thread
        if self._configuration is not None:
            if self._configuration.is_activated:
                self._try(self.trigger_deactivate)
            self._try(self.trigger_cleanup)
        self._show_change()

    def _end(self, why: str) -> None:
        """End the process: nothing else frees a thread that hangs."""
        if self.exit_code.done():
            return
        message = f'{self._error.message}; {why}' if self._error else why
        self._error = Cause(Reason.POLICY_HUNG, message)
        if self._is_closing:  # such as a Ctrl-C while a library loads: nothing is wrong
            self._log.info(f'{why}: it ends with the process')
        else:
            self._log.error(f'{why}: the process has to end')
        self.exit_code.set_result(EXIT_HUNG)

    # -- regularly ---------------------------------------------------------------------------------

    def _before_callback(self) -> None:
        """Make the robots hold after a stall; called by the executor before every callback."""
        configuration = self._configuration
        counts = configuration is not None and configuration.is_warm
        stalled_s = self._shared.commands.stall.look(counts)
        if configuration is not None:
            configuration.catch_up(stalled_s)

    def _watch(self) -> None:
        """Act on what has taken too long."""
        self._watch_policy()
        for robot in self._robots:
            robot.goals.watch()

    def _watch_policy(self) -> None:
        configuration = self._configuration
        if configuration is None:
            self._beat(*silence_limit(None, _DEFAULTS))
            self._before_callback()
            return
        status, parameters = configuration.status(), configuration.parameters
        self._beat(*silence_limit(status, parameters))
        self._before_callback()
        if cause := time_out(status, parameters):
            self._fail(cause)
        if configuration.enforce_deadline() is Deadline.HUNG:
            limit_s = parameters.hang_timeout_s
            self._end(f'the inference did not stop within hang_timeout_s, {limit_s:g} s')
        configuration.watch(configuration.overdue())
        self._show_change()
        self._show_one_view()

    def _look_for_rivals(self) -> None:
        sessions = self._configuration.sessions if self._configuration is not None else []
        self._shared.rivals.look([topic for session in sessions for topic in session.topics])
        for session in sessions:
            session.look_around()

    def _show_one_view(self) -> None:
        """Draw one view at most: each takes some milliseconds, and twists are due between them."""
        for view in itertools.islice(self._views, len(self._robots)):
            if view.show_if_due():
                return

    def _report(self) -> None:
        """Publish each robot's status, and the diagnostics of all, once a second."""
        self._look_for_rivals()
        name = self.get_fully_qualified_name().lstrip('/')
        statuses = [robot.report() for robot in self._robots]
        self._diagnostics.publish(diagnostics_message(statuses, name))
