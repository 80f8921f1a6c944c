"""One robot at the node: its topics, what it is shown and told, and when and why it holds.

Used by the executor's thread. What one robot lacks, or does wrong, does not concern the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile

from vla_ros.graph.stamps import from_time
from vla_ros.motion import ActionContract, MotionCounters, describe
from vla_ros.msg import VlaAction, VlaStatus
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, Reason, State
from vla_ros.ros.inputs import Inputs
from vla_ros.ros.messages import (
    action_message,
    counters_message,
    latencies_message,
    motion_message,
    policy_message,
    status_message,
)
from vla_ros.ros.motion_output import MotionOutput
from vla_ros.ros.operator_view import OperatorViewPublisher
from vla_ros.ros.parameters import topic_prefix
from vla_ros.ros.shared import Shared
from vla_ros.ros.situation import Situation
from vla_ros.ros.status import StatusReporter
from vla_ros.ros.switches import Switch
from vla_ros.scheduling import (
    ActionGate,
    InferenceWorker,
    Result,
    SlotStatistics,
    failure_text,
)
from vla_ros.types import NO_POLICY, InstructionError, Observation, PolicySpec


class RobotPort:
    """Joins one robot's inputs, gate and reports to one source of the worker."""

    def __init__(
        self,
        node: LifecycleNode,
        shared: Shared,
        name: str,
        source: int,
        node_situation: Callable[[], Situation],
        enabled: bool,
    ) -> None:
        """
        :param name: what the topics' names begin with; empty: nothing.
        :param source: the robot's number at the worker.
        :param node_situation: the node's; RUNNING if it is active.
        :param enabled: whether it may act before anybody has enabled it.
        """
        prefix = self.prefix = topic_prefix(name)
        self._node, self._shared = node, shared
        self._clock, self._log = shared.clock, shared.log
        self._name, self._source = name, source
        self._node_situation = node_situation
        self._params = Parameters()
        self._frame_id = ''
        self._spec = NO_POLICY
        self._contracts: Mapping[str, ActionContract] = {}
        self._gate = ActionGate(self._params.max_action_age_s, self._clock)
        self._watched_cause: Cause | None = None  # at the last look
        self._worker: InferenceWorker | None = None
        self._slot_statistics = SlotStatistics()  # of the last worker
        self.motion: MotionOutput | None = None
        self._motions = MotionCounters()  # of the last configuration
        self.output_topics = self._full_names('action')  # those that move the robot
        self._reporter = StatusReporter(
            node, self._clock, self._log, name, prefix, self._situation, self._status
        )
        self._offer_actions()
        self.inputs = Inputs(
            node,
            shared,
            name,
            prefix,
            on_observation=self._submit,
            on_fault=self.start_over,
            on_new_instruction=self.start_over,
        )
        self.switch = Switch(name, prefix, enabled, shared.latches, self._on_switched)
        self.inputs.wanted = not self._why_off()
        self.view = OperatorViewPublisher(
            node, self._clock, name, prefix, self._situation, lambda: self.inputs.instruction
        )

    # -- lifecycle ---------------------------------------------------------------------------------

    def configure(self, parameters: Parameters, worker: InferenceWorker) -> None:
        """Count from zero, by these parameters. The instruction stays, if there is one."""
        if parameters.max_action_age_s != self._params.max_action_age_s:
            self._node.destroy_lifecycle_publisher(self._actions)
            self._params = parameters
            self._offer_actions()
        self._params = parameters
        self._frame_id = parameters.frame_ids[self._source]
        self._gate = ActionGate(parameters.max_action_age_s, self._clock)
        self._worker = worker
        self._motions = MotionCounters()
        self.view.configure(self._frame_id, {})
        self.inputs.configure(parameters)
        self.inputs.begin_with(parameters.instruction)

    def prepare(self, spec: PolicySpec, contracts: Mapping[str, ActionContract]) -> None:
        """Make the outputs: the policy is loaded, and what its actions mean is known."""
        self._spec, self._contracts = spec, contracts
        self.view.configure(self._frame_id, contracts)
        if self._params.motion == 'twist':
            self.motion = MotionOutput(
                self._node,
                self._clock,
                self._log,
                self.prefix,
                self._frame_id,
                self._params,
                contracts,
            )
            self._motions = self.motion.motion.counters
            self.output_topics = self._full_names('action', 'twist')

    def activate(self) -> None:
        self.inputs.listen(self._spec)
        self._start_afresh()

    def release(self) -> None:
        """The worker has ended, and the motion."""
        if self._worker is not None:
            self._slot_statistics = self._worker.statistics(self._source)
        self._worker = None
        self.motion = None
        self.output_topics = self._full_names('action')

    # -- observations and actions ------------------------------------------------------------------

    def start_over(self, cause: Cause) -> None:
        """Drop what is under way; hold until the first action of what comes now."""
        self.inputs.assembler.drop()
        if self._worker is not None:
            self._worker.reset(self._source)
        self.hold(cause)

    def hold(self, cause: Cause) -> None:
        self._gate.cause = cause
        self.show_change()

    def watch(self, clock_fault: Cause | None, clock_jumped: bool) -> None:
        """Drop what is under way when clock, camera or instruction no longer bear it out."""
        if clock_jumped:
            self.inputs.cameras.forget_stamps()
        self.inputs.expire_instruction()
        cause = clock_fault or self.inputs.why_no_observation()
        # The gate still has the last fault's cause if no action has come since. An inference may
        # have begun after that fault, and a new one of the same text has to drop it.
        is_new = clock_jumped or cause != self._watched_cause
        self._watched_cause = cause
        if cause and (is_new or cause != self._gate.cause):
            self.start_over(cause)

    def settle(self, result: Result) -> None:
        """Publish the action, or keep the reason why not."""
        published = self._gate.admit(result)
        self.view.keep(result, published)
        if published:
            self._publish(result)
        elif isinstance(result.error, InstructionError):
            self.inputs.refuse_instruction(str(result.error))
        elif result.error is not None:
            self._log.error(failure_text(result.error), every_s=10.0)

    def _publish(self, result: Result) -> None:
        self.inputs.has_acted()
        now, prediction = self._clock.now(), result.predicted()
        description = describe(self._spec, self._contracts.get(prediction.unnorm_key))
        message = action_message(
            result,
            description,
            now.node_ns,
            self._params.max_action_age_s,
            self._frame_id,
            sequence=self._gate.counters.published,
        )
        self._actions.publish(message)
        if self.motion is not None:
            self.motion.execute(prediction, description, now, from_time(message.valid_until))

    def _full_names(self, *topics: str) -> list[str]:
        return [self._node.resolve_topic_name(f'{self.prefix}{topic}') for topic in topics]

    def _offer_actions(self) -> None:
        # What is not delivered while it is valid shall not be delivered.
        quality = QoSProfile(depth=1, lifespan=Duration(seconds=self._params.max_action_age_s))
        self._actions = self._node.create_lifecycle_publisher(
            VlaAction, f'{self.prefix}action', quality
        )

    def look_around(self) -> None:
        """Begin or end to hold because of others on the ROS graph."""
        if self.inputs.wanted == bool(self._why_off()):
            self._on_switched()

    def _why_off(self) -> Cause | None:
        """Why the robot may not act, whatever it sees and is told."""
        return self.switch.cause or self._shared.rivals.cause(self.output_topics)

    def _on_switched(self) -> None:
        self.inputs.wanted = not self._why_off()
        self._start_afresh()

    def _start_afresh(self) -> None:
        """Start over after a time in which anything may have happened to the robot."""
        if self.motion is not None:
            self.motion.forget()
        self.start_over(
            Cause(
                Reason.NO_IMAGE_YET,
                f'no action yet: waiting for a picture on {self.inputs.image_topic}',
            )
        )

    def _submit(self, observation: Observation) -> None:
        assert self._worker is not None  # images are heard while active
        self._worker.submit(observation, self._source)

    # -- reports -----------------------------------------------------------------------------------

    def show_change(self) -> None:
        """Publish and log the state if it has changed; stand still in all but one of them."""
        if self.motion is not None and self._situation().state != State.RUNNING:
            self.motion.stop()
        self._reporter.show_change()

    def report(self) -> VlaStatus:
        """Publish the status; what it was. Follow the publishers' quality of service, too."""
        self.inputs.follow_publishers()
        return self._reporter.report()

    def flush(self, timeout_s: float) -> None:
        """Wait until all that listen have the last status.

        :raises RCLError: if the context has been shut down.
        """
        self._reporter.flush(timeout_s)

    def _situation(self) -> Situation:
        node = self._node_situation()
        if node.state != State.RUNNING:
            off = self.switch.cause
            return node if node.message or not off else Situation.of(node.state, off)
        cause = self._why_off() or self.inputs.why_no_instruction() or self._gate.cause
        return Situation.of(State.HOLDING if cause else State.RUNNING, cause)

    def _status(self) -> VlaStatus:
        worker, slot = None, self._slot_statistics
        if self._worker is not None:
            worker, slot = self._worker.status(), self._worker.statistics(self._source)
        return status_message(
            self._name,
            self._situation(),
            self.inputs.instruction,
            policy_message(self._params, worker),
            counters_message(
                self.inputs.counters,
                self.inputs.cameras.counters,
                self.inputs.cameras.watch_counters,
                self.inputs.assembler.counters,
                slot,
                self._gate.counters,
                self._gate.drafts,
                self._motions,
                self._shared.requests,
                in_flight=slot.taken - self._gate.counters.total,
                clock_jumps=self._clock.jumps,
            ),
            latencies_message(self._gate),
            motion_message(self._params.motion, self.motion.motion.cause if self.motion else None),
        )
