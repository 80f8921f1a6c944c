"""The node ``vla``: pictures and instructions in, actions out.

All in here runs in the executor's one thread, but for ``_build_policy`` and the two clocks, which
the worker calls. Callbacks only convert and submit; the worker wakes the executor through a guard
condition. What is decided is decided elsewhere: the worker knows what is fresh, the gate what may
move the robot.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future

from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.ros import images
from vla_ros.ros.console import unbuffer_output
from vla_ros.ros.inputs import InputCounters, Inputs
from vla_ros.ros.loading import (
    LoadPolicy,
    load_openvla,
    progress_text,
)
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
    Deadline,
    InferenceWorker,
    Phase,
    Result,
    SlotStatistics,
    WorkerLimits,
    failure_text,
)
from vla_ros.types import (
    InstructionError,
    Observation,
    Policy,
    ProgressCallback,
    check_instruction,
)

EXIT_BAD_ARGUMENTS = 2
EXIT_HUNG = 70

_WATCH_PERIOD_S = 0.05
_REPORT_PERIOD_S = 1.0
_JOIN_TIMEOUT_S = 3.0  # launch sends SIGTERM 5 s after SIGINT


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
        self.ended = Future()  # done when a hung thread makes the process end; its exit code
        self._params = Parameters()
        self._gate = ActionGate(self._params.max_action_age_s, self)
        self._worker: InferenceWorker | None = None
        self._slot_statistics = SlotStatistics()  # of the last worker
        self._active = False
        self._activate_when_ready = False
        self._shut_down = False
        self._error = ''

        self._reporter = StatusReporter(self, self._state, self._status)
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
        self._gate = ActionGate(self._params.max_action_age_s, self)
        self._inputs.counters = InputCounters()
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
        self._close_worker()
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
        elif status.phase is Phase.READY and self._activate_when_ready:
            self.get_logger().info(f'the policy is warm, after {status.warmup_s:.1f} s')
            self.trigger_activate()
        self._settle_results()
        self._reporter.show_change()

    def _settle_results(self) -> None:
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
        if self._active:
            self.trigger_deactivate()
        if self._worker is not None:
            self.trigger_cleanup()
        self._reporter.show_change()

    def _status(self) -> VlaStatus:
        state, why = self._state()
        info, slot = None, self._slot_statistics
        if self._worker is not None:
            info, slot = self._worker.status().info, self._worker.statistics()
        return status_message(state, why, self._params, self._inputs, self._gate, info, slot)

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
                    f'{limits.warmup_timeout_s:g} s ({progress_text(status)})'
                )
            return
        deadline = self._worker.enforce_deadline()
        if deadline is Deadline.HUNG:
            limit_s = limits.hang_timeout_s
            self._end_hung(f'the inference did not stop within hang_timeout_s, {limit_s:g} s')
            self._reporter.show_change()
        elif deadline is Deadline.MISSED and self._active:
            self._hold(f'overrun: inference_timeout_s, {limits.inference_timeout_s:g} s, is over')
        elif self._active and self._inputs.silence_s > limits.image_timeout_s:
            topic = self._inputs.image_topic
            self._hold(f'no picture on {topic} for {limits.image_timeout_s:g} s')

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


def main(arguments: list[str] | None = None, load_policy: LoadPolicy = load_openvla) -> int:
    """Run the node; the exit code is 0, 2 (unusable arguments) or 70 (a hung inference)."""
    unbuffer_output()
    try:
        rclpy.init(args=arguments)
        node = VlaNode(load_policy)
    except (ParameterError, RuntimeError) as error:
        print(f'vla_node: unusable arguments: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return EXIT_BAD_ARGUMENTS
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        node.autostart()
        executor.spin_until_future_complete(node.ended)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError:
        if node.context.ok():  # otherwise a callback was publishing when the signal came
            raise
    finally:
        # A terminal sends Ctrl-C to launch and to us, and launch passes it on: once is enough.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        exit_code = node.ended.result() or 0
        ended = node.close()
        rclpy.try_shutdown()
        if not ended:
            os._exit(exit_code)  # the thread that does not end would keep the interpreter
    return exit_code


if __name__ == '__main__':
    sys.exit(main())
