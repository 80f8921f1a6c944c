"""What one robot's cameras, its state and its operator say: joined to observations, all counted.

Used by the executor's thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from vla_ros.graph.stamps import from_time
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, Reason
from vla_ros.ros.cameras import Cameras
from vla_ros.ros.shared import Shared
from vla_ros.scheduling.assembly import Assembler, AssemblyCounters, AssemblyLimits
from vla_ros.text import is_blank
from vla_ros.types import NO_POLICY, InstructionError, Observation, PolicySpec, check_instruction

_MOST_WAITING = 100  # instructions; each takes effect, in order: one of them may be a hold
_MANY_CHANGES = 4  # of the instruction, without an action between them
_CHANGES_WITHIN_S = 5.0
_STATES_WAITING = 50


@dataclass
class InputCounters:
    """
    :param idle: usable images that came without an instruction, or for a robot that is off.
    :param instructions_rejected: instructions that were not usable.
    :param instructions_expired: instructions that were not repeated in time.
    :param instructions_stale: instructions that came too late to be obeyed.
    """

    idle: int = 0
    instructions_rejected: int = 0
    instructions_expired: int = 0
    instructions_stale: int = 0


class Inputs:
    """Hears instructions always, images and states between listen and stop_listening."""

    def __init__(
        self,
        node: LifecycleNode,
        shared: Shared,
        robot: str,
        prefix: str,
        on_observation: Callable[[Observation], None],
        on_fault: Callable[[Cause], None],
        on_new_instruction: Callable[[Cause], None],
    ) -> None:
        """
        :param robot: its name; empty if it needs none.
        :param prefix: what the topics' names begin with.
        :param on_fault: told why an image could not be used.
        :param on_new_instruction: told whenever another instruction, or none, is in force.
        """
        self.instruction = ''  # in force; empty: hold
        self.wanted = True  # images are, whenever there is an instruction
        self._node = node
        self._clock, self._log = shared.clock, shared.log
        self._latches, self._commands = shared.latches, shared.commands
        self._robot = robot
        self._prefix = prefix
        self._on_observation = on_observation
        self._on_fault = on_fault
        self._on_new_instruction = on_new_instruction
        self._cause: Cause | None = None  # why the last instruction is not in force
        self._states: Subscription | None = None
        self._listening_since_s = 0.0
        self._said_s = 0.0  # when the operator last gave the instruction in force
        self._uninstructed_since_s = self._clock.monotonic_s()
        self._changes_s: deque[float] = deque(maxlen=_MANY_CHANGES)  # since the last action
        self._operator_spoke = False  # since the node came up
        self._latched_publisher = False  # of instructions
        self._instructions = node.create_subscription(
            String, f'{prefix}instruction', self._hear, _MOST_WAITING
        )
        self.cameras = Cameras(node, self._clock, self._log, prefix, self._on_image, on_fault)
        self.configure(Parameters())

    @property
    def image_topic(self) -> str:
        """The topics of all cameras; empty while not listening."""
        return self.cameras.topics

    def configure(self, parameters: Parameters) -> None:
        """Count from zero, by these parameters. The instruction stays."""
        self._params = parameters
        self.counters = InputCounters()
        self.cameras.configure(parameters)
        self.assembler = self._assembler_for(NO_POLICY, AssemblyCounters())

    def _assembler_for(self, spec: PolicySpec, counters: AssemblyCounters) -> Assembler:
        limits = AssemblyLimits(
            self._params.sync_tolerance_s,
            self._params.image_timeout_s,
            self._params.state_timeout_s,
        )
        return Assembler(spec, limits, self._clock, counters)

    def listen(self, spec: PolicySpec) -> None:
        """Hear the images and the state that the policy needs, from now on."""
        self._listening_since_s = self._clock.monotonic_s()
        self.assembler = self._assembler_for(spec, self.assembler.counters)
        self.cameras.listen(spec.cameras)
        if spec.state_dim:
            quality = QoSProfile(depth=_STATES_WAITING, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._states = self._node.create_subscription(
                JointState, f'{self._prefix}state', self._on_state, quality
            )

    def stop_listening(self) -> None:
        """End the subscriptions of images and states."""
        self.cameras.stop_listening()
        self.assembler.drop()
        if self._states is not None:
            self._node.destroy_subscription(self._states)
            self._states = None

    def follow_publishers(self) -> None:
        """Adapt to the publishers there are now. Call it about once a second."""
        self.cameras.follow_publishers()
        topic = self._instructions.topic_name
        self._latched_publisher = any(
            publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
            for publisher in self._node.get_publishers_info_by_topic(topic)
        )

    # -- what is missing -----------------------------------------------------------------------

    def why_no_instruction(self) -> Cause | None:
        """Return why no instruction is in force; None if one is."""
        if self.instruction or self._cause:
            return self._cause
        return Cause(Reason.NO_INSTRUCTION, self._no_instruction_message())

    def why_no_observation(self) -> Cause | None:
        """Return why there are no observations; None while they come, or may still in time."""
        return self.cameras.why_silent() or self.assembler.cause()

    def expire_instruction(self) -> None:
        """Take back an instruction that nobody has repeated in time."""
        limit_s = self._params.max_instruction_age_s
        if self.instruction and limit_s and self._clock.monotonic_s() - self._said_s > limit_s:
            self.counters.instructions_expired += 1
            self._hold(
                Reason.INSTRUCTION_EXPIRED,
                f'instruction {self.instruction[:80]!r} is older than max_instruction_age_s, '
                f'{limit_s:g} s; repeat it for as long as it shall be carried out',
            )

    def has_acted(self) -> None:
        """An action of the instruction in force was published."""
        self._changes_s.clear()

    def _no_instruction_message(self) -> str:
        topic = self._instructions.topic_name
        message = f'no instruction on {topic}'
        limit_s = self._params.no_instruction_timeout_s
        since_s = max(self._uninstructed_since_s, self._listening_since_s)
        images_come = self.cameras.all_came and not self.cameras.why_silent()
        if images_come and self._clock.monotonic_s() - since_s > limit_s:
            message += (
                f' for no_instruction_timeout_s, {limit_s:g} s, while pictures come on '
                f'{self.image_topic}'
            )
        if self._latches[self._robot].held and self._params.instruction:
            message += (
                '; the operator said hold, so the parameter instruction is not in force: '
                'publish an instruction'
            )
        if self._latched_publisher:
            message += (
                f'; what was published on {topic} before this node came up is not obeyed '
                '(its publisher is transient local): publish it again'
            )
        return message

    # -- instructions ----------------------------------------------------------------------------

    def instruct(self, instruction: str) -> None:
        """Let the operator's instruction take effect; one that is not usable means hold."""
        self._operator_spoke = True
        self._say(instruction)

    def begin_with(self, instruction: str) -> None:
        """Let a configuration's instruction take effect, unless the operator has said hold."""
        if not self.instruction and instruction and not self._latches[self._robot].held:
            self._say(instruction)

    def forget_instruction(self) -> None:
        """Hold until the next one; unlike the operator's, this hold ends with the configuration."""
        self._put_in_force('', None)

    def refuse_instruction(self, why: str) -> None:
        """The instruction is not usable, as whoever looked at it says."""
        self.counters.instructions_rejected += 1
        self._hold(Reason.INSTRUCTION_REJECTED, why)

    def _say(self, instruction: str) -> None:
        try:
            check_instruction(instruction)
        except InstructionError as refusal:
            self.refuse_instruction(str(refusal))
            return
        self._said_s = self._clock.monotonic_s()
        self._put_in_force('' if is_blank(instruction) else instruction, None)
        self._latch()

    def _hear(self, message: String, info: Mapping[str, Any]) -> None:
        late = '' if is_blank(message.data) else self._commands.why_not(info['source_timestamp'])
        if not late:
            self.instruct(message.data)
            return
        self._operator_spoke = True
        self.counters.instructions_stale += 1
        self._hold(
            Reason.INSTRUCTION_STALE, f'instruction {message.data[:80]!r} came too late: {late}'
        )

    def _hold(self, reason: Reason, message: str) -> None:
        self._put_in_force('', Cause(reason, message))
        self._latch()

    def _latch(self) -> None:
        """Have the operator's last word outlive the process: the robot first, then the disk."""
        if self._operator_spoke:
            self._latches.set(self._robot, held=not self.instruction)
            self._latches.save()

    def _put_in_force(self, instruction: str, cause: Cause | None) -> None:
        if (instruction, cause) == (self.instruction, self._cause):
            return
        self.instruction, self._cause = instruction, cause
        now_s = self._clock.monotonic_s()
        if not instruction:
            self._uninstructed_since_s = now_s
        self._changes_s.append(now_s)
        self._on_new_instruction(self._why_changed(now_s))

    def _why_changed(self, now_s: float) -> Cause:
        changes = self._changes_s
        topic = self._instructions.topic_name
        if len(changes) < _MANY_CHANGES or now_s - changes[0] > _CHANGES_WITHIN_S:
            return Cause(
                Reason.INSTRUCTION_CHANGED,
                'no action yet of the new instruction: waiting for a picture on '
                f'{self.image_topic}',
            )
        return Cause(
            Reason.INSTRUCTION_CONFLICT,
            f'the instruction changed {len(changes)} times in {now_s - changes[0]:.1f} s, each '
            f'time before an action could come; publishers on {topic}: '
            f'{self._node.count_publishers(topic)}; have one of them instruct at a time',
        )

    # -- images and states -----------------------------------------------------------------------

    def _on_image(self, camera: str, pixels: NDArray[np.uint8], stamp_ns: int) -> None:
        if self.instruction and self.wanted:
            self._submit(self.assembler.add_image(camera, pixels, stamp_ns, self.instruction))
        else:
            self.counters.idle += 1

    def _on_state(self, message: JointState) -> None:
        values, stamp_ns = np.array(message.position), from_time(message.header.stamp)
        wanted = self.instruction if self.wanted else ''
        try:
            self._submit(self.assembler.add_state(values, stamp_ns, wanted))
        except ValueError as error:
            self._on_fault(Cause(Reason.STATE_REJECTED, f'state rejected: {error}'))

    def _submit(self, observation: Observation | None) -> None:
        if observation is not None:
            self._on_observation(observation)
