"""The node ``vla``: pictures and instructions in, actions out.

All in here runs in the executor's one thread, but for ``_build_policy`` and the two clocks, which
the worker calls. Callbacks only convert and submit; the worker wakes the executor through a guard
condition. What is decided is decided elsewhere: the worker knows what is fresh, the gate what may
move the robot.
"""

from __future__ import annotations

import functools
import time
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future

from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.ros import images, loading
from vla_ros.ros.inputs import Inputs
from vla_ros.ros.loading import LoadPolicy, progress_text
from vla_ros.ros.messages import action_message, status_message
from vla_ros.ros.parameters import (
    ParameterError,
    Parameters,
    check_value,
    declare_parameters,
    read_parameters,
)
from vla_ros.ros.status import StatusReporter
from vla_ros.scheduling import (
    ActionGate,
    ClockWatch,
    Deadline,
    InferenceWorker,
    Phase,
    Result,
    SlotStatistics,
    WorkerLimits,
    WorkerStatus,
    failure_text,
)
from vla_ros.types import (
    InstructionError,
    Observation,
    Policy,
    ProgressCallback,
    check_instruction,
)

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
        self._gate = ActionGate(self._params.max_action_age_s, self)
        self._worker: InferenceWorker | None = None
        self._slot_statistics = SlotStatistics()  # of the last worker
        self._warm = False
        self._active = False
        self._activate_when_ready = False
        self._shut_down = False
        self._error = ''

        self._reporter = StatusReporter(self, self._state, self._status)
        self._actions = self.create_lifecycle_publisher(VlaAction, 'action', 1)
        self._worker_spoke = self.create_guard_condition(self._on_worker)
        self._clock_watch = ClockWatch(self)
        self._inputs = Inputs(
            self,
            clock=self,
            on_observation=self._on_observation,
            on_fault=self._start_over,
            on_new_instruction=self._start_over,
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self.create_timer(_WATCH_PERIOD_S, self._watch, clock=steady)
        self.create_timer(_REPORT_PERIOD_S, self._report, clock=steady)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._reporter.show_change()

    # -- the clock that worker and gate go by; any thread ------------------------------------------

    def now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def monotonic_s(self) -> float:
        return time.monotonic()

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
        except ParameterError as error:
            self._fail(str(error))
            return TransitionCallbackReturn.FAILURE
        self._error = ''
        self._warm = False
        self._slot_statistics = SlotStatistics()
        self._gate = ActionGate(self._params.max_action_age_s, self)
        self._clock_watch = ClockWatch(self)
        self._inputs.configure(self._params)
        self._inputs.instruct(self._inputs.instruction or self._params.instruction)
        self._worker = InferenceWorker(
            functools.partial(self._build_policy, self._params),
            WorkerLimits(
                self._params.max_image_age_s,
                self._params.inference_timeout_s,
                self._params.hang_timeout_s,
            ),
            clock=self,
            unnorm_key=self._params.unnorm_key,
            notify=self._worker_spoke.trigger,
        )
        self._worker.start()
        self._reporter.show_change()
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
        self._inputs.listen()
        self._active = True
        self._start_over()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Nothing that is under way becomes an action any more."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the policy's memory back, and forget the instruction."""
        self._activate_when_ready = False  # from now on a person decides
        self._close_worker()
        self._inputs.instruct('')
        self._reporter.show_change()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._activate_when_ready = False
        self._stop()
        self._close_worker()
        self._shut_down = True
        self._reporter.show_change()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> bool:
        """End the worker before the publishers go; False if a thread is left that does not end."""
        self._active = False
        self._close_worker()
        if self.ended.done() and self.context.ok():
            self._reporter.flush()
        self.destroy_node()
        return not self.ended.done()

    # -- what a person sets ------------------------------------------------------------------------

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
            self._inputs.instruct(own['instruction'])
        return SetParametersResult(successful=True)

    # -- the worker --------------------------------------------------------------------------------

    def _on_observation(self, observation: Observation) -> None:
        assert self._worker is not None  # pictures are heard while active
        self._worker.submit(observation)

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
        self._reporter.show_change()

    def _log_warmup(self, status: WorkerStatus) -> None:
        times = status.warmup_times
        assert times is not None  # warm
        self.get_logger().info(
            f'loaded in {status.load_s:.1f} s, warm after {times.total_s:.1f} s more; the first '
            f'action took {times.first_inference_s:.2f} s, one takes '
            f'{times.steady_inference_s:.2f} s now'
        )
        if times.steady_inference_s > self._params.inference_timeout_s:
            self.get_logger().warning(
                f'an action takes {times.steady_inference_s:.2f} s here and inference_timeout_s is '
                f'{self._params.inference_timeout_s:g}: all would be late; raise '
                'inference_timeout_s and max_action_age_s'
            )

    def _settle_results(self) -> None:
        self._watch_surroundings()  # the clock may have jumped since the timer looked
        # One by one: what one of them changes decides about the next.
        while self._worker is not None and (result := self._worker.next_result()) is not None:
            self._settle(result)

    def _settle(self, result: Result) -> None:
        """Publish the action, or keep the reason why not."""
        if self._gate.admit(result):
            message = action_message(
                result,
                self.now_ns(),
                self._params.max_action_age_s,
                self._params.frame_id,
                sequence=self._gate.counters.published,
            )
            self._actions.publish(message)
        elif isinstance(result.error, InstructionError):
            self._inputs.refuse_instruction(str(result.error))
        elif result.error is not None:
            self.get_logger().error(failure_text(result.error), throttle_duration_sec=10.0)

    def _close_worker(self) -> None:
        if self._worker is None:
            return
        if not self._worker.close(0.0 if self.ended.done() else _JOIN_TIMEOUT_S):
            # Another worker beside it would be a second model in memory.
            self._end_hung(f'the policy did not stop within {_JOIN_TIMEOUT_S:g} s')
        self._settle_results()
        self._slot_statistics = self._worker.statistics()
        self._worker = None

    # -- state -------------------------------------------------------------------------------------

    def _state(self) -> tuple[str, str]:
        """The state, and why."""
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
        if not self._active:
            return VlaStatus.READY, ''
        why = self._inputs.why_no_instruction() or self._gate.fault
        return (VlaStatus.HOLDING, why) if why else (VlaStatus.RUNNING, '')

    def _start_over(self, why: str = '') -> None:
        """Drop what is under way; hold until the first action of what comes now."""
        if self._worker is not None:
            self._worker.reset()
        self._hold(why or f'no action yet: waiting for a picture on {self._inputs.image_topic}')

    def _hold(self, why: str) -> None:
        self._gate.fault = why
        self._reporter.show_change()

    def _stop(self) -> None:
        self._active = False
        self._inputs.stop_listening()
        if self._worker is not None:
            self._worker.reset()
        self._reporter.show_change()

    def _fail(self, why: str) -> None:
        """Go to ERROR and give back what was loaded; configure starts anew."""
        self._error = why
        self._activate_when_ready = False
        self._reporter.show_change()  # what follows may have to wait for a thread
        if self._active:
            self.trigger_deactivate()
        if self._worker is not None:
            self.trigger_cleanup()
        self._reporter.show_change()

    def _status(self) -> VlaStatus:
        state, why = self._state()
        worker, slot = None, self._slot_statistics
        if self._worker is not None:
            worker, slot = self._worker.status(), self._worker.statistics()
        message = status_message(state, why, self._params, self._inputs, self._gate, worker, slot)
        message.clock_jumps = self._clock_watch.jumps
        return message

    # -- timers ------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Act on what has taken too long."""
        if self._worker is None:
            return
        status = self._worker.status()
        if status.phase is Phase.LOADING:
            self._watch_preparation(status, 'load_timeout_s', self._params.load_timeout_s)
        elif status.phase is Phase.WARMING_UP:
            self._watch_preparation(status, 'warmup_timeout_s', self._params.warmup_timeout_s)
        if not self._is_late():
            self._watch_surroundings()
        self._reporter.show_change()

    def _watch_preparation(self, status: WorkerStatus, limit: str, limit_s: float) -> None:
        if status.elapsed_s > limit_s:
            self._fail(
                f'{status.phase.value} took longer than {limit}, {limit_s:g} s '
                f'({progress_text(status)})'
            )

    def _is_late(self) -> bool:
        """Whether the inference under way is; then the node holds, or ends."""
        if self._worker is None:
            return False
        deadline = self._worker.enforce_deadline()
        if deadline is Deadline.HUNG:
            limit_s = self._params.hang_timeout_s
            self._end_hung(f'the inference did not stop within hang_timeout_s, {limit_s:g} s')
        elif deadline is Deadline.MISSED and self._active:
            limit_s = self._params.inference_timeout_s
            self._hold(f'overrun: inference_timeout_s, {limit_s:g} s, is over')
        return deadline is not Deadline.MET

    def _watch_surroundings(self) -> None:
        """Drop what is under way when clock, camera or instruction no longer bear it out."""
        simulated = self.get_clock().ros_time_is_active
        jumped_s = self._clock_watch.jump_s(simulated)
        if not self._active:
            return
        self._inputs.expire_instruction()
        why = self._inputs.why_no_picture()
        if jumped_s:
            self._inputs.camera.start_over()
            why = (
                f"clock jump: this machine's clock went {jumped_s:+.3f} s by itself, so ages are "
                'unknown; what was under way is dropped'
            )
        elif simulated and self.now_ns() == 0:
            why = 'no simulated time: use_sim_time is true, and nothing publishes /clock'
        if why and why != self._gate.fault:
            self._start_over(why)

    def _end_hung(self, why: str) -> None:
        """Have the process end: nothing else frees a thread that does not come back."""
        if self.ended.done():
            return
        self._error = f'{self._error}; {why}' if self._error else why
        self.get_logger().error(f'{why}: the process has to end')
        self.ended.set_result(EXIT_HUNG)

    def _report(self) -> None:
        """Once a second: status, diagnostics, and the camera's quality of service."""
        self._inputs.follow_publishers()
        self._reporter.report()
