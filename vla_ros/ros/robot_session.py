# SPDX-License-Identifier: Apache-2.0
"""One robot while a warm policy is loaded: what it sees, what it may do, and why it holds.

Used by the executor's thread. The faults of one robot do not affect the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rclpy.lifecycle import LifecycleNode

from vla_ros.motion import Contract, describe
from vla_ros.motion.joint_limits import JointLimit
from vla_ros.motion.state_parts import ContractState
from vla_ros.msg import VlaLatencies, VlaMotion, VlaRecording, VlaStatus
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, Reason
from vla_ros.recording import Track
from vla_ros.ros.axes import ContractAxes
from vla_ros.ros.instructions import Instructions
from vla_ros.ros.messages import latencies_message, motion_message
from vla_ros.ros.observations import Needs, Observations
from vla_ros.ros.operator_view import OperatorViewPublisher
from vla_ros.ros.output import Admitted, Output, OutputSetup
from vla_ros.ros.outputs import make_outputs
from vla_ros.ros.pose_input import PoseInput
from vla_ros.ros.recording import RecordedPolicy, RecordedTopics, Recording
from vla_ros.ros.shared import Shared
from vla_ros.ros.switches import Switch
from vla_ros.scheduling import (
    ActionGate,
    InferenceWorker,
    Result,
    failure_text,
    rows_played_ns,
)
from vla_ros.types import InstructionError, Observation, PolicySpec


@dataclass(frozen=True)
class RobotParts:
    """What a robot has in every state of the node.

    :ivar source: number of the robot at the worker.
    :ivar prefix: prefix of the names of its topics and services.
    :ivar status_topic: full name of the topic of its status.
    """

    source: int
    prefix: str
    status_topic: str
    instructions: Instructions
    switch: Switch
    view: OperatorViewPublisher


@dataclass(frozen=True)
class LoadedPolicy:
    """A warm policy, and what is known of its actions.

    :ivar contracts: by unnorm_key.
    :ivar state: by the contract.
    :ivar description: limits by joint, from the file of the robot description.
    """

    worker: InferenceWorker
    spec: PolicySpec
    contracts: Mapping[str, Contract]
    state: ContractState
    description: Mapping[str, JointLimit]


@dataclass(frozen=True)
class SessionReport:
    """What the status says of a session; before the first one, all is zero.

    :ivar counters: dataclasses whose fields are counters of VlaCounters.
    """

    counters: tuple[Any, ...] = ()
    in_flight: int = 0
    latencies: VlaLatencies = field(default_factory=VlaLatencies)
    motion: VlaMotion = field(default_factory=VlaMotion)
    recording: VlaRecording = field(default_factory=VlaRecording)


class RobotSession:
    """Joins one robot's observations, gate and outputs to its source of the worker."""

    def __init__(
        self,
        node: LifecycleNode,
        shared: Shared,
        parts: RobotParts,
        parameters: Parameters,
        policy: LoadedPolicy,
        track: Track,
        on_change: Callable[[], None],
    ) -> None:
        """Make the outputs. The robot does not act until :meth:`activate`.

        :param track: of its recording.
        :param on_change: called when the robot begins to hold, or holds for another reason.
        """
        self._clock, self._log, self._rivals = shared.clock, shared.log, shared.rivals
        self._parts = parts
        self._params = parameters
        self._policy = policy
        self._on_change = on_change
        self._gate = ActionGate(parameters.max_action_age_s, shared.clock)
        self._watched: Cause | None = None  # the cause at the last watch
        self.active = False
        self._node, self._shared = node, shared
        robot = parts.prefix.rstrip('/')
        self._recording = Recording(track, shared.clock, shared.log, robot, parameters.record)
        self._tool = PoseInput(node, shared.frames, parts.prefix, parameters, parts.source)
        self._outputs = make_outputs(self._setup())
        self._output_counters = [group for output in self._outputs for group in output.counters]
        self._is_off = bool(self.why_off())
        self.observations = Observations(
            node,
            shared,
            parts.prefix,
            parameters,
            self._needs(),
            instruction=lambda: '' if self._is_off else parts.instructions.text,
            on_observation=self._submit,
            on_fault=self.drop,
        )

    # -- lifecycle ---------------------------------------------------------------------------------

    def activate(self) -> None:
        """Listen to images; act from now on."""
        self.active = True
        self.observations.listen()
        self.drop_all()

    def deactivate(self) -> None:
        """Stop listening and acting. The worker is reset by the caller, for all robots."""
        self.active = False
        self._recording.end('DEACTIVATED')
        self.observations.stop_listening()

    def hand_over_outputs(self) -> list[Output]:
        """Return the outputs, which the caller closes; the robot never acts afterwards."""
        self.active = False
        outputs, self._outputs = self._outputs, []
        return outputs

    def adjust(
        self,
        parameters: Parameters,
        contracts: Mapping[str, Contract],
        state: ContractState,
    ) -> None:
        """Apply what may change while the policy is loaded: limits, frame, contracts, topics.

        :param state: as in :class:`LoadedPolicy`.
        """
        self._params = parameters
        self._policy = replace(self._policy, contracts=contracts, state=state)
        self._gate.adjust(parameters.max_action_age_s)
        self._tool.adjust(parameters)
        self._recording.switch(parameters.record)
        if self.observations.adjust(parameters, self._needs()):
            self._recording.end('TOPICS_CHANGED')
            self.drop_all()  # what came before may have been of other topics
        setup = self._setup()
        for output in self._outputs:
            output.adjust(setup)

    def _needs(self) -> Needs:
        """Return what the observations must have, by the current parameters."""
        parameters, robot, state = self._params, self._parts.source, self._policy.state
        # The axes of the end effector are no place from which its pose could be told.
        is_tool = state.frame == 'end_effector' and parameters.motion != 'pose'
        return Needs(
            self._policy.spec,
            state.parts,
            '' if is_tool else parameters.frame_ids[robot],
            ContractAxes(self._shared.frames, parameters, robot),
            state.frame,
            self._tool,
        )

    def _setup(self) -> OutputSetup:
        """Return what the outputs need, by the current parameters."""
        return OutputSetup(
            self._node,
            self._shared,
            self._parts.prefix,
            self._parts.source,
            self._params.frame_ids[self._parts.source],
            self._params,
            self._policy.contracts,
            self._params.workspaces[self._parts.source],
            self._policy.spec.cameras[0],
            self._tool,
            self._policy.description,
        )

    # -- holding -----------------------------------------------------------------------------------

    def drop(self, cause: Cause) -> None:
        """Drop all observations and inferences, and hold until the first action of later images."""
        self.observations.drop()
        self._policy.worker.reset(self._parts.source)
        self._recording.start_over()
        self.hold(cause)

    def drop_all(self) -> None:
        """Drop what :meth:`drop` does, and what is known of the robot: anything may have happened.

        The robot may have been moved while it was off or the node was inactive.
        """
        for output in self._outputs:
            output.forget()
        self.drop(self._waiting_for_image(Reason.NO_IMAGE_YET, 'no action yet'))

    def hold(self, cause: Cause) -> None:
        """Hold until the next action; a running inference continues."""
        self._gate.cause = cause
        self._policy.worker.end_chunk(self._parts.source)
        self._on_change()

    def hold_outputs(self) -> None:
        """Stop the robot; called often while it must not act."""
        for output in self._outputs:
            output.hold()

    def obey(self, conflict: Cause | None) -> None:
        """Begin with a new instruction, or hold if there is none.

        :param conflict: why no instruction is obeyed for long, if several publishers instruct.
        """
        why = self._why_no_instruction()
        self._recording.end(why.reason.name if why else Reason.INSTRUCTION_CHANGED.name)
        if self._parts.instructions.text:
            self._recording.expect()
        changed = 'no action yet of the new instruction'
        self.drop(conflict or self._waiting_for_image(Reason.INSTRUCTION_CHANGED, changed))

    def why_off(self) -> Cause | None:
        """Return why the robot must not act, whatever it sees and is told; None if it may."""
        return self._parts.switch.cause or self._rivals.cause(self.topics)

    @property
    def cause(self) -> Cause | None:
        """Why the active robot holds; None if it acts."""
        return self.why_off() or self._why_no_instruction() or self._gate.cause

    def _why_no_instruction(self) -> Cause | None:
        instructions, observations = self._parts.instructions, self.observations
        if instructions.text:
            return None
        return instructions.why_none(
            self._params, observations.arriving_topics, observations.listening_since_s
        )

    @property
    def topics(self) -> list[str]:
        """Full names of the topics that move the robot."""
        return [topic for output in self._outputs for topic in output.topics]

    def _waiting_for_image(self, reason: Reason, what: str) -> Cause:
        return Cause(reason, f'{what}: waiting for an image on {self.observations.cameras.topics}')

    # -- regularly ---------------------------------------------------------------------------------

    def look_around(self) -> None:
        """Begin or end to hold because the robot was switched, or because of rivals."""
        if self._is_off != bool(self.why_off()):
            self.on_switched()

    def on_switched(self) -> None:
        """Start over, or hold."""
        off = self.why_off()
        self._is_off = off is not None
        if off is not None:
            self._recording.end(off.reason.name)
        self.drop_all()

    def forget_stamps(self) -> None:
        """Forget what was stamped before the clock jumped."""
        self._recording.end(Reason.CLOCK_JUMP.name)
        self.observations.forget_stamps()
        self._shared.frames.forget()
        self._tool.forget()
        for output in self._outputs:
            output.forget_stamps()

    def watch(self, clock_fault: Cause | None, clock_jumped: bool) -> None:
        """Drop observations and inferences that clock, cameras or instruction no longer support."""
        self._parts.instructions.expire(self._params.max_instruction_age_s)
        if self._is_still:
            self._policy.worker.end_chunk(self._parts.source)
        cause = clock_fault or self.observations.why_none()
        watched, self._watched = self._watched, cause
        if cause is None:
            return
        # If the gate has another reason, an action has come since, or another fault. The text of a
        # cause may change while the reason stays, and that drops nothing.
        known = cause.reason == _reason(watched) == _reason(self._gate.cause)
        if clock_jumped or not known:
            self.drop(cause)
        elif cause != self._gate.cause:
            self.hold(cause)

    def catch_up(self) -> None:
        """Send what is due, if other callbacks have delayed it."""
        for output in self._outputs:
            output.catch_up()

    def follow_publishers(self) -> None:
        """Adapt to the publishers there are now. Call it about once a second."""
        self.observations.follow_publishers()

    # -- observations and actions ------------------------------------------------------------------

    def settle(self, result: Result) -> None:
        """Publish the actions, or keep the reason why not."""
        admitted = self._gate.admit(result)
        key = result.prediction.unnorm_key if result.prediction else ''
        contract = self._policy.contracts.get(key)
        self._parts.view.keep(result, admitted, self._policy.spec, contract)
        from_ns = self._publish(result, contract) if admitted else None
        self._policy.worker.judge(result, from_ns)
        if admitted:
            return
        self._record(result, contract, None)
        if isinstance(result.error, InstructionError):
            self._parts.instructions.reject(str(result.error))
        elif result.error is not None:
            self._log.error(failure_text(result.error), every_s=10.0)

    def _publish(self, result: Result, contract: Contract | None) -> int | None:
        """Publish the actions; return when the next inference may begin, None if immediately."""
        tokens = result.predicted().tokens
        self._parts.instructions.has_acted(
            float(tokens.probabilities.min(initial=1.0)) if tokens is not None else math.nan
        )
        max_age_ns = round(self._params.max_action_age_s * 1e9)
        published, stamp_ns = self._clock.now(), result.observation.stamp_ns
        is_timed = self._params.chunk_timing == 'timed'
        admitted = Admitted(
            result,
            description=describe(self._policy.spec, contract),
            published=published,
            # An image may be stamped a little in the future.
            due_ns=min(stamp_ns, published.node_ns) if is_timed else published.node_ns,
            valid_until_ns=stamp_ns + max_age_ns,
            sequence=self._gate.counters.published,
        )
        for output in self._outputs:
            output.publish(admitted)
        self._record(result, contract, admitted)
        return None if self._is_still else self._rows_played_ns(admitted)

    @property
    def _is_still(self) -> bool:
        """Whether an output does not carry out the last actions."""
        return any(output.cause for output in self._outputs)

    def _rows_played_ns(self, admitted: Admitted) -> int | None:
        """Return when ``replan_rows`` have been played; None if nothing tells."""
        rows, period_s = self._params.replan_rows, admitted.description.period_s
        if not rows:
            return None
        if not period_s:
            key = admitted.result.predicted().unnorm_key
            self._log.warning(
                f'replan_rows has no effect: neither the policy nor a contract for {key!r} tells '
                'the period of its rows',
                every_s=10.0,
            )
            return None
        return rows_played_ns(admitted.due_ns, rows, period_s)

    def _submit(self, observation: Observation) -> None:
        self._policy.worker.submit(observation, self._parts.source)

    # -- recording ---------------------------------------------------------------------------------

    def _record(self, result: Result, contract: Contract | None, admitted: Admitted | None) -> None:
        """Record an answer; the first one to an instruction begins an episode."""
        prediction = result.prediction
        if prediction is None:
            return
        if self._recording.awaits_episode:
            info = self._policy.worker.status().info
            policy = RecordedPolicy(info, self._policy.spec, prediction.unnorm_key, contract)
            instruction = result.observation.instruction
            self._recording.begin(instruction, self._recorded_topics(), self._params, policy)
        self._recording.keep(result, admitted, self._params.frame_ids[self._parts.source])

    def _recorded_topics(self) -> RecordedTopics:
        def full(name: str) -> str:
            return str(self._node.resolve_topic_name(f'{self._parts.prefix}{name}'))

        return RecordedTopics(
            images=self.observations.cameras.topic_of,
            state=full('state') if self._policy.spec.state_dim else '',
            instruction=self._parts.instructions.topic,
            action=self._outputs[0].topics[0],
            status=self._parts.status_topic,
            episode=full('episode'),
        )

    def record_status(self, status: VlaStatus) -> None:
        """Record a status that was published, if there is an episode."""
        self._recording.keep_status(status)

    def mark_success(self) -> str:
        """Mark the episode as a success; return what to tell, empty if there is none."""
        return self._recording.mark_success()

    # -- report ------------------------------------------------------------------------------------

    def report(self) -> SessionReport:
        """Return the counters and latencies now."""
        slot = self._policy.worker.statistics(self._parts.source)
        cause = next((output.cause for output in self._outputs if output.cause), None)
        limited = next((output.limited for output in self._outputs if output.limited), '')
        recorded, recording = self._recording.report()
        return SessionReport(
            (
                *self.observations.counters,
                slot,
                self._gate.counters,
                self._gate.drafts,
                *self._output_counters,
                *recorded,
            ),
            in_flight=slot.taken - self._gate.counters.total,
            latencies=latencies_message(self._gate),
            motion=motion_message(self._params, cause, limited),
            recording=recording,
        )


def _reason(cause: Cause | None) -> Reason:
    return Reason.NONE if cause is None else cause.reason
