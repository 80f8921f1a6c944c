"""The node ``vla``: one policy for one robot or several; its lifecycle, its time-outs.

What belongs to one robot is in ``robot.py``; the worker knows the robots as its sources. All in
here runs in the executor's one thread, but for ``_build_policy`` and the clock, which the worker
calls. Callbacks only convert and submit; the worker wakes the executor through a guard condition.
What is decided is decided elsewhere: the worker knows what is fresh, the gate what may move the
robot.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future

from vla_ros.motion import ContractError, load_contracts
from vla_ros.msg import VlaStatus
from vla_ros.pictures import images
from vla_ros.ros import loading
from vla_ros.ros.loading import (
    LoadPolicy,
    progress_text,
    warmup_text,
    why_too_long,
    why_too_slow,
)
from vla_ros.ros.messages import diagnostics_message
from vla_ros.ros.node_clock import NodeClock
from vla_ros.ros.parameters import (
    ParameterError,
    Parameters,
    check_value,
    declare_parameters,
    read_parameters,
    read_robot_names,
)
from vla_ros.ros.robot import RobotPort
from vla_ros.ros.switches import SwitchServices
from vla_ros.scheduling import Deadline, InferenceWorker, Phase, WorkerLimits, WorkerStatus
from vla_ros.types import InstructionError, Policy, ProgressCallback, check_instruction

EXIT_HUNG = 70

_WATCH_PERIOD_S = 0.02  # by so much a deadline may be noticed late
_REPORT_PERIOD_S = 1.0
_JOIN_TIMEOUT_S = 2.0  # launch sends SIGTERM 5 s after SIGINT


class VlaNode(LifecycleNode):
    """Configure loads and warms the policy in the worker; activate lets it move the robot."""

    def __init__(self, load_policy: LoadPolicy = loading.load_policy, **options: Any) -> None:
        """
        :param load_policy: called by the worker; what it raises puts the node into ERROR.
        :raises ParameterError: if a parameter set at the start is not allowed.
        """
        super().__init__('vla', **options)
        declare_parameters(self)
        self._load_policy = load_policy
        self.ended = Future()  # done when a hung thread makes the process end; its exit code
        self._params = Parameters()
        self._worker: InferenceWorker | None = None
        self._warm = False
        self._active = False
        self._activate_when_ready = False
        self._shut_down = False
        self._error = ''

        self._node_clock = NodeClock(self)
        enabled = self.get_parameter('enabled').value
        self._robots = [
            RobotPort(self, self._node_clock, name, source, self._state, enabled)
            for source, name in enumerate(read_robot_names(self))
        ]
        self._offer_switches()
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 1)
        self._worker_spoke = self.create_guard_condition(self._on_worker)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self.create_timer(_WATCH_PERIOD_S, self._watch, clock=steady)
        self.create_timer(_REPORT_PERIOD_S, self._report, clock=steady)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._show_change()

    # -- lifecycle ---------------------------------------------------------------------------------

    def autostart(self) -> None:
        """Configure now, and activate when the policy is ready, unless the parameter says no."""
        if self.get_parameter('autostart').value:
            self._activate_when_ready = True
            self.trigger_configure()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start loading and return at once."""
        try:
            self._params = read_parameters(self)
            contracts = load_contracts(self._params.contracts or None)
        except (ParameterError, ContractError) as error:
            self._fail(str(error))
            return TransitionCallbackReturn.FAILURE
        self._error = ''
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
            notify=self._worker_spoke.trigger,
            sources=len(self._robots),
        )
        for robot in self._robots:
            robot.configure(self._params, contracts, self._worker)
        self._worker.start()
        self._show_change()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Refused until the policy is ready."""
        assert self._worker is not None  # configured
        status = self._worker.status()
        if status.phase is not Phase.READY:
            self.get_logger().error(
                f'activate is refused: the policy is not ready yet ({progress_text(status)})'
            )
            return TransitionCallbackReturn.FAILURE
        super().on_activate(state)
        self._activate_when_ready = False
        self._active = True
        for robot in self._robots:
            robot.activate()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Nothing that is under way becomes an action any more."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the policy's memory back, and forget the instruction."""
        self._activate_when_ready = False  # from now on a person decides
        self._close_worker()
        for robot in self._robots:
            robot.inputs.instruct('')
        self._show_change()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._activate_when_ready = False
        self._stop()
        self._close_worker()
        self._shut_down = True
        self._show_change()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised an error, which rclpy keeps to itself: give back what there is."""
        self._error = f'an error in a transition from {state.label}; it is a mistake of vla_ros'
        self._activate_when_ready = False
        self._stop()
        self._close_worker()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> bool:
        """End the worker before the publishers go; False if a thread is left that does not end."""
        if self.context.ok():
            self._stop()
        self._active = False
        self._close_worker()
        if self.ended.done() and self.context.ok():
            for robot in self._robots:
                robot.flush()
        self.destroy_node()
        return not self.ended.done()

    # -- what a person switches and sets -----------------------------------------------------------

    def _offer_switches(self) -> None:
        """The services of all robots at once, and of each that has a name."""
        SwitchServices(self, '', [robot.switch for robot in self._robots])
        for robot in self._robots:
            if robot.prefix:
                SwitchServices(self, robot.prefix, [robot.switch])

    def _on_set_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        own = {p.name: p.value for p in changed if p.name in Parameters.__dataclass_fields__}
        fixed = sorted(own.keys() - {'instruction'})
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
        """Worker only: both take seconds, and the executor has to answer meanwhile."""
        self.get_logger().info(f'pictures are converted by: {images.backend()}')
        return self._load_policy(parameters, progress)

    def _on_worker(self) -> None:
        """The worker has changed its phase, or has results."""
        if self._worker is None:
            return
        status = self._worker.status()
        if status.phase is Phase.FAILED:
            self._fail(status.failure)
        elif status.phase is Phase.READY and not self._warm:
            self._warm = True
            self._log_warmup(status)
        if status.phase is Phase.READY and self._activate_when_ready:
            self.trigger_activate()
        self._settle_results()
        self._show_change()

    def _log_warmup(self, status: WorkerStatus) -> None:
        self.get_logger().info(warmup_text(status))
        if why := why_too_slow(status, self._params):
            self.get_logger().warning(why)

    def _settle_results(self) -> None:
        self._watch_surroundings()  # the clock may have jumped since the timer looked
        # One by one: what one of them changes decides about the next.
        while self._worker is not None and (result := self._worker.next_result()) is not None:
            self._robots[result.source].settle(result)

    def _close_worker(self) -> None:
        if self._worker is None:
            return
        for robot in self._robots:  # first of all: the worker may take its time
            robot.close_motion()
        if not self._worker.close(0.0 if self.ended.done() else _JOIN_TIMEOUT_S):
            # Another worker beside it would be a second model in memory.
            self._end_hung(f'the policy did not stop within {_JOIN_TIMEOUT_S:g} s')
        self._settle_results()
        for robot in self._robots:
            robot.release()
        self._worker = None

    # -- state -------------------------------------------------------------------------------------

    def _state(self) -> tuple[str, str]:
        """The node's state, and why; RUNNING if it is active, for each robot then has its own."""
        if self._error:
            return VlaStatus.ERROR, self._error
        if self._worker is None:
            return VlaStatus.UNCONFIGURED, 'shut down for good' if self._shut_down else ''
        status = self._worker.status()
        if status.phase is Phase.LOADING:
            return VlaStatus.LOADING, progress_text(status)
        if status.phase is Phase.WARMING_UP:
            return VlaStatus.WARMING_UP, progress_text(status)
        if status.phase is Phase.FAILED:
            return VlaStatus.ERROR, status.failure
        return (VlaStatus.RUNNING if self._active else VlaStatus.READY), ''

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

    def _fail(self, why: str) -> None:
        """Go to ERROR and give back what was loaded; configure starts anew."""
        self._error = why
        self._activate_when_ready = False
        self._show_change()  # what follows may have to wait for a thread
        if self._active:
            self.trigger_deactivate()
        if self._worker is not None:
            self.trigger_cleanup()
        self._show_change()

    # -- timers ------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Act on what has taken too long."""
        if self._worker is None:
            return
        if why := why_too_long(self._worker.status(), self._params):
            self._fail(why)
        self._watch_surroundings(self._overdue())
        self._show_change()

    def _overdue(self) -> set[int]:
        """The robots that wait for an inference which is late: they hold, or the process ends."""
        if self._worker is None:
            return set()
        deadline = self._worker.enforce_deadline()
        if deadline is Deadline.HUNG:
            limit_s = self._params.hang_timeout_s
            self._end_hung(f'the inference did not stop within hang_timeout_s, {limit_s:g} s')
        overdue = self._worker.overdue()
        if deadline is Deadline.MISSED and self._active:
            limit_s = self._params.inference_timeout_s
            for source in overdue:
                self._robots[source].hold(f'overrun: inference_timeout_s, {limit_s:g} s, is over')
        return overdue

    def _watch_surroundings(self, overdue: Collection[int] = ()) -> None:
        """What each robot's clock, camera and instruction no longer bear out is dropped.

        :param overdue: these hold already, and say why.
        """
        clock_fault, jumped = self._node_clock.look()
        if not self._active:
            return
        for source, robot in enumerate(self._robots):
            if jumped or source not in overdue:
                robot.watch(clock_fault, jumped)

    def _end_hung(self, why: str) -> None:
        """Have the process end: nothing else frees a thread that does not come back."""
        if self.ended.done():
            return
        self._error = f'{self._error}; {why}' if self._error else why
        self.get_logger().error(f'{why}: the process has to end')
        self.ended.set_result(EXIT_HUNG)

    def _report(self) -> None:
        """Once a second: each robot's status, and the diagnostics of all."""
        name = self.get_fully_qualified_name().lstrip('/')
        statuses = [robot.report() for robot in self._robots]
        self._diagnostics.publish(diagnostics_message(statuses, name))
