"""One robot at the node: its topics, what it is shown and told, and when and why it holds.

Used by the executor's thread. Refuses to know the node's lifecycle and the other robots: what one
of them lacks, or does wrong, is its own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rclpy.lifecycle import LifecycleNode

from vla_ros.motion import ActionContract
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.ros.inputs import Inputs
from vla_ros.ros.messages import action_message, status_message
from vla_ros.ros.motion_output import MotionOutput
from vla_ros.ros.node_clock import NodeClock
from vla_ros.ros.operator_view import OperatorViewPublisher
from vla_ros.ros.parameters import Parameters, topic_prefix
from vla_ros.ros.stamps import from_time
from vla_ros.ros.status import StatusReporter
from vla_ros.ros.switches import Switch
from vla_ros.scheduling import (
    ActionGate,
    InferenceWorker,
    Result,
    SlotStatistics,
    failure_text,
)
from vla_ros.types import InstructionError, Observation


class RobotPort:
    """Joins one robot's inputs, gate and reports to one source of the worker."""

    def __init__(
        self,
        node: LifecycleNode,
        clock: NodeClock,
        name: str,
        source: int,
        node_state: Callable[[], tuple[str, str]],
        enabled: bool,
    ) -> None:
        """
        :param name: what the topics' names begin with; empty: nothing.
        :param source: the robot's number at the worker.
        :param node_state: the node's state, and why; RUNNING if it is active.
        :param enabled: whether it may act before anybody has enabled it.
        """
        prefix = self.prefix = topic_prefix(name)
        self._node = node
        self._clock = clock
        self._name = name
        self._source = source
        self._node_state = node_state
        self._params = Parameters()
        self._frame_id = ''
        self._gate = ActionGate(self._params.max_action_age_s, clock)
        self._worker: InferenceWorker | None = None
        self._slot_statistics = SlotStatistics()  # of the last worker
        self._motion: MotionOutput | None = None
        self._reporter = StatusReporter(node, name, prefix, self._state, self._status)
        self._actions = node.create_lifecycle_publisher(VlaAction, f'{prefix}action', 1)
        self.inputs = Inputs(
            node,
            clock,
            on_observation=self._submit,
            on_fault=self.start_over,
            on_new_instruction=self.start_over,
            prefix=prefix,
        )
        self.switch = Switch(prefix, enabled, self._on_switched)
        self.inputs.wanted = enabled
        self._view = OperatorViewPublisher(
            node, clock, name, prefix, self._state, lambda: self.inputs.instruction
        )

    # -- lifecycle ---------------------------------------------------------------------------------

    def configure(
        self,
        parameters: Parameters,
        contracts: Mapping[str, ActionContract],
        worker: InferenceWorker,
    ) -> None:
        """Count from zero, by these parameters. The instruction stays, if there is one."""
        self._params = parameters
        self._frame_id = parameters.frame_ids[self._source]
        self._gate = ActionGate(parameters.max_action_age_s, self._clock)
        self._worker = worker
        if parameters.motion == 'twist':
            self._motion = MotionOutput(
                self._node,
                self._clock,
                self.prefix,
                self._frame_id,
                parameters,
                contracts,
            )
        self._view.configure(self._frame_id, contracts)
        self.inputs.configure(parameters)
        self.inputs.instruct(self.inputs.instruction or parameters.instruction)

    def activate(self) -> None:
        self.inputs.listen()
        self._start_afresh()

    def release(self) -> None:
        """The worker has ended."""
        assert self._worker is not None  # configured
        self._slot_statistics = self._worker.statistics(self._source)
        self._worker = None

    def close_motion(self) -> None:
        """Stand still, and say so for as long as that takes to be heard."""
        if self._motion is not None:
            self._motion.close()
            self._motion = None

    # -- observations and actions ------------------------------------------------------------------

    def start_over(self, why: str = '') -> None:
        """Drop what is under way; hold until the first action of what comes now."""
        if self._worker is not None:
            self._worker.reset(self._source)
        self.hold(why or f'no action yet: waiting for a picture on {self.inputs.image_topic}')

    def hold(self, why: str) -> None:
        self._gate.fault = why
        self.show_change()

    def watch(self, clock_fault: str, clock_jumped: bool) -> None:
        """Drop what is under way when clock, camera or instruction no longer bear it out."""
        if clock_jumped:
            self.inputs.camera.start_over()
        self.inputs.expire_instruction()
        why = clock_fault or self.inputs.why_no_picture()
        if why and why != self._gate.fault:
            self.start_over(why)

    def settle(self, result: Result) -> None:
        """Publish the action, or keep the reason why not."""
        published = self._gate.admit(result)
        self._view.keep(result, published)
        if published:
            message = action_message(
                result,
                self._clock.now_ns(),
                self._params.max_action_age_s,
                self._frame_id,
                sequence=self._gate.counters.published,
            )
            self._actions.publish(message)
            if self._motion is not None:
                assert result.prediction is not None  # admitted
                self._motion.execute(
                    result.prediction,
                    from_time(message.header.stamp),
                    from_time(message.valid_until),
                )
        elif isinstance(result.error, InstructionError):
            self.inputs.refuse_instruction(str(result.error))
        elif result.error is not None:
            self._node.get_logger().error(failure_text(result.error), throttle_duration_sec=10.0)

    def _on_switched(self) -> None:
        self.inputs.wanted = not self.switch.why_off
        self._start_afresh()

    def _start_afresh(self) -> None:
        """Start over after a time in which anything may have happened to the robot."""
        if self._motion is not None:
            self._motion.forget()
        self.start_over()

    def _submit(self, observation: Observation) -> None:
        assert self._worker is not None  # pictures are heard while active
        self._worker.submit(observation, self._source)

    # -- reports -----------------------------------------------------------------------------------

    def show_change(self) -> None:
        """Publish and log the state if it has changed; stand still in all but one of them."""
        if self._motion is not None and self._state()[0] != VlaStatus.RUNNING:
            self._motion.stop()
        self._reporter.show_change()
        self._view.show_change()

    def report(self) -> VlaStatus:
        """Publish the status; what it was. Follow the camera's quality of service, too."""
        self.inputs.follow_publishers()
        self._view.show()
        return self._reporter.report()

    def flush(self) -> None:
        """Wait, not for long, until all that listen have the last status: the process ends.

        :raises RCLError: if the context has been shut down.
        """
        self._reporter.flush()

    def _state(self) -> tuple[str, str]:
        """The state for this robot, and why."""
        state, why = self._node_state()
        if state != VlaStatus.RUNNING:
            return state, why or self.switch.why_off
        why = self.switch.why_off or self.inputs.why_no_instruction() or self._gate.fault
        return (VlaStatus.HOLDING, why) if why else (VlaStatus.RUNNING, '')

    def _status(self) -> VlaStatus:
        worker, slot = None, self._slot_statistics
        if self._worker is not None:
            worker, slot = self._worker.status(), self._worker.statistics(self._source)
        return status_message(
            self._name,
            *self._state(),
            self._params,
            self.inputs,
            self._gate,
            None if self._motion is None else self._motion.motion,
            worker,
            slot,
            self._clock.jumps,
        )
