"""The node ``vla``: pictures and instructions in, actions out.

All in here runs in the executor's one thread, but for ``load_openvla`` and the two clocks, which
the worker calls. Callbacks only convert and submit; the worker wakes the executor through a guard
condition. What is decided is decided elsewhere: the worker knows what is fresh, the gate what may
move the robot.
"""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile

from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.ros import images
from vla_ros.ros.console import unbuffer_output
from vla_ros.ros.inputs import InputCounters, Inputs
from vla_ros.ros.messages import action_message, diagnostics_message, status_message
from vla_ros.ros.parameters import (
    ParameterError,
    Parameters,
    declare_parameters,
    read_parameters,
)
from vla_ros.scheduling import (
    ActionGate,
    Deadline,
    InferenceWorker,
    Outcome,
    Phase,
    Result,
    SlotStatistics,
    WorkerLimits,
    WorkerStatus,
)
from vla_ros.types import (
    InstructionError,
    Observation,
    Policy,
    PolicyError,
    ProgressCallback,
    check_instruction,
)

EXIT_BAD_ARGUMENTS = 2
EXIT_HUNG = 70

_WATCH_PERIOD_S = 0.05
_REPORT_PERIOD_S = 1.0
_JOIN_TIMEOUT_S = 5.0


LoadPolicy = Callable[[Parameters, ProgressCallback], Policy]


def load_openvla(parameters: Parameters, progress: ProgressCallback) -> Policy:
    """Build the policy. Worker only: importing torch takes seconds, and the node has to answer."""
    from vla_ros.openvla import OpenVLAPolicy

    policy = OpenVLAPolicy.from_pretrained(
        parameters.model,
        device=parameters.device,
        dtype=parameters.dtype,
        quantization=parameters.quantization,
        revision=parameters.revision or None,
        progress=progress,
    )
    policy.check_unnorm_key(parameters.unnorm_key)
    return policy


class VlaNode(LifecycleNode):
    """Configure loads and warms the policy in the worker; activate lets it move the robot."""

    def __init__(self, load_policy: LoadPolicy = load_openvla, **options: Any) -> None:
        """
        :param load_policy: called by the worker; what it raises puts the node into ERROR.
        :raises ParameterError: if a parameter set at the start is not allowed.
        """
        super().__init__('vla', **options)
        declare_parameters(self)
        self._load_policy = load_policy
        self.exit_code = 0
        self._params = Parameters()
        self._gate = ActionGate(self._params.max_action_age_s, self)
        self._worker: InferenceWorker | None = None
        self._slot_statistics = SlotStatistics()  # of the last worker
        self._active = False
        self._activate_when_ready = False
        self._error = ''
        self._shown = ('', '')  # state and why, as last published
        self._state_since_s = self.monotonic_s()

        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._statuses = self.create_publisher(VlaStatus, 'status', latched)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 1)
        self._actions = self.create_lifecycle_publisher(VlaAction, 'action', 1)
        self._worker_spoke = self.create_guard_condition(self._on_worker)
        self._inputs = Inputs(
            self,
            on_observation=self._on_observation,
            on_picture_rejected=lambda why: self._hold(f'picture rejected: {why}'),
            on_new_instruction=self._start_over,
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self.create_timer(_WATCH_PERIOD_S, self._watch, clock=steady)
        self.create_timer(_REPORT_PERIOD_S, self._report, clock=steady)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._show_state()

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
        self._gate = ActionGate(self._params.max_action_age_s, self)
        self._inputs.counters = InputCounters()
        self._inputs.instruct(self._inputs.instruction or self._params.instruction)
        self._worker = InferenceWorker(
            functools.partial(self._load_policy, self._params),
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
        self.get_logger().info(f'pictures are converted by: {images.backend()}')
        self._show_state()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Refused until the policy is ready."""
        assert self._worker is not None  # configured
        status = self._worker.status()
        if status.phase is not Phase.READY:
            self.get_logger().error(
                f'activate is refused: the policy is not ready yet ({_progress_text(status)})'
            )
            return TransitionCallbackReturn.FAILURE
        super().on_activate(state)
        self._inputs.listen(self._params)
        self._active = True
        self._start_over()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Nothing that is under way becomes an action any more."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the policy's memory back, and forget the instruction."""
        self._close_worker()
        self._inputs.instruct('')
        self._show_state()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        self._close_worker()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> bool:
        """End the worker before the publishers go; False if it did not come back."""
        ended = self._close_worker()
        self.destroy_node()
        return ended

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
            read_parameters(self, own)
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

    def _on_worker(self) -> None:
        """The worker has changed its phase, or has results."""
        if self._worker is None:
            return
        status = self._worker.status()
        if status.phase is Phase.FAILED:
            self._fail(_error_text(status.error))
        elif status.phase is Phase.READY and self._activate_when_ready:
            self._activate_when_ready = False
            self.get_logger().info(f'the policy is warm, after {status.warmup_s:.1f} s')
            self.trigger_activate()
        else:
            for result in self._worker.results():
                self._settle(result)
            self._show_state()

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
        elif result.outcome is Outcome.FAILED:
            self.get_logger().error(_traceback_text(result.error), throttle_duration_sec=10.0)

    def _close_worker(self) -> bool:
        if self._worker is None:
            return True
        ended = self._worker.close(_JOIN_TIMEOUT_S)
        if not ended:  # another worker beside it would be a second model in memory
            self._exit_hung(f'the policy did not stop within {_JOIN_TIMEOUT_S:g} s')
        for result in self._worker.results():
            self._settle(result)
        self._slot_statistics = self._worker.statistics()
        self._worker = None
        gc.collect()  # a model has reference cycles, and its memory is wanted back now
        return ended

    # -- state -------------------------------------------------------------------------------------

    def _state(self) -> tuple[str, str]:
        """The state, and why."""
        if self._error:
            return VlaStatus.ERROR, self._error
        if self._worker is None:
            return VlaStatus.UNCONFIGURED, ''
        status = self._worker.status()
        if status.phase is Phase.LOADING:
            return VlaStatus.LOADING, _progress_text(status)
        if status.phase is Phase.WARMING_UP:
            return VlaStatus.WARMING_UP, _progress_text(status)
        if not self._active:
            return VlaStatus.READY, ''
        if self._inputs.instruction_error:
            return VlaStatus.HOLDING, self._inputs.instruction_error
        if not self._inputs.instruction:
            return VlaStatus.HOLDING, f'no instruction on {self._inputs.instruction_topic}'
        if self._gate.fault:
            return VlaStatus.HOLDING, self._gate.fault
        return VlaStatus.RUNNING, ''

    def _start_over(self) -> None:
        """Drop what is under way; hold until the first action of what comes now."""
        if self._worker is not None:
            self._worker.reset()
        self._hold(f'no action yet: waiting for a picture on {self._inputs.image_topic}')

    def _hold(self, why: str) -> None:
        self._gate.fault = why
        self._show_state()

    def _stop(self) -> None:
        self._active = False
        self._inputs.stop_listening()
        if self._worker is not None:
            self._worker.reset()
        self._show_state()

    def _fail(self, why: str) -> None:
        """Go to ERROR and give back what was loaded; configure starts anew."""
        self._error = why
        self._activate_when_ready = False
        if self._active:
            self.trigger_deactivate()
        if self._worker is not None:
            self.trigger_cleanup()
        self._show_state()

    def _show_state(self) -> None:
        """Log and publish the state if it has changed."""
        state, why = self._state()
        if state != self._shown[0]:
            self._state_since_s = self.monotonic_s()
            self._log_state(state, why)
        elif why == self._shown[1] or state in (VlaStatus.LOADING, VlaStatus.WARMING_UP):
            return  # progress is told once a second
        self._shown = (state, why)
        self._statuses.publish(self._status())

    def _log_state(self, state: str, why: str) -> None:
        text = f'{state}: {why}' if why else state
        if state == VlaStatus.ERROR:
            self.get_logger().error(text)
        else:  # rclpy wants one severity per line of code
            self.get_logger().info(text)

    def _status(self) -> VlaStatus:
        state, why = self._state()
        info, slot = None, self._slot_statistics
        if self._worker is not None:
            info, slot = self._worker.status().info, self._worker.statistics()
        message = status_message(state, why, self._params, self._inputs, self._gate, info, slot)
        message.header.stamp = self.get_clock().now().to_msg()
        message.elapsed_s = self.monotonic_s() - self._state_since_s
        return message

    # -- timers ------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Act on what has taken too long."""
        if self._worker is None:
            return
        limits = self._params
        status = self._worker.status()
        if status.phase in (Phase.LOADING, Phase.WARMING_UP):
            if status.elapsed_s > limits.warmup_timeout_s:
                self._fail(
                    f'{status.phase.value} took longer than warmup_timeout_s, '
                    f'{limits.warmup_timeout_s:g} s ({_progress_text(status)})'
                )
            return
        deadline = self._worker.enforce_deadline()
        if deadline is Deadline.HUNG:
            limit_s = limits.hang_timeout_s
            self._exit_hung(f'the inference did not stop within hang_timeout_s, {limit_s:g} s')
        elif deadline is Deadline.MISSED and self._active:
            self._hold(f'overrun: inference_timeout_s, {limits.inference_timeout_s:g} s, is over')
        elif self._active and self._inputs.silence_s > limits.image_timeout_s:
            topic = self._inputs.image_topic
            self._hold(f'no picture on {topic} for {limits.image_timeout_s:g} s')

    def _exit_hung(self, why: str) -> None:
        """Only the end of the process frees a thread that does not come back."""
        self.exit_code = EXIT_HUNG
        self._error = f'{why}: exit with code {EXIT_HUNG}'
        self._show_state()
        rclpy.try_shutdown(context=self.context)

    def _report(self) -> None:
        """Once a second: status, diagnostics, and the camera's quality of service."""
        self._inputs.follow_publishers()
        status = self._status()
        self._statuses.publish(status)
        name = self.get_fully_qualified_name().lstrip('/')
        self._diagnostics.publish(diagnostics_message(status, name))


def _progress_text(status: WorkerStatus) -> str:
    if status.progress is None:
        return status.phase.value
    return f'{status.progress.text}: {status.progress.done} of {status.progress.total}'


def _error_text(error: BaseException | None) -> str:
    """A sentence for an error that was foreseen, all there is for another."""
    return str(error) if isinstance(error, PolicyError) else _traceback_text(error)


def _traceback_text(error: BaseException | None) -> str:
    return ''.join(traceback.format_exception(error)).rstrip()


def main(arguments: list[str] | None = None, load_policy: LoadPolicy = load_openvla) -> int:
    """Run the node; the exit code is 0, 2 (unusable arguments) or 70 (a hung inference)."""
    unbuffer_output()
    try:
        rclpy.init(args=arguments)
        node = VlaNode(load_policy)
    except (ParameterError, RuntimeError) as error:
        print(f'vla_node: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return EXIT_BAD_ARGUMENTS
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        node.autostart()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # A terminal sends Ctrl-C to launch and to us, and launch passes it on: once is enough.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ended = node.close()
        rclpy.try_shutdown()
    if not ended:
        os._exit(node.exit_code or EXIT_HUNG)  # a thread that hangs would keep the interpreter
    return node.exit_code


if __name__ == '__main__':
    sys.exit(main())
