"""What one robot's camera and operator say: images and instructions, joined, all counted.

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
from rclpy.qos import DurabilityPolicy
from std_msgs.msg import String

from vla_ros.graph.stamps import from_time
from vla_ros.images.raw import UnusableImage
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, Reason
from vla_ros.ros.image_subscription import TRANSPORTS, ImageSubscription
from vla_ros.ros.shared import Shared
from vla_ros.scheduling import CameraWatch, failure_text
from vla_ros.text import is_blank
from vla_ros.types import InstructionError, Observation, check_instruction

_MOST_WAITING = 100  # instructions; each takes effect, in order: one of them may be a hold
_MANY_CHANGES = 4  # of the instruction, without an action between them
_CHANGES_WITHIN_S = 5.0


@dataclass
class InputCounters:
    """
    :param received: images heard.
    :param rejected: of these, not usable as images.
    :param idle: of these, came while there was no instruction, or the robot was switched off.
    :param instructions_rejected: instructions that were not usable.
    :param instructions_expired: instructions that were not repeated in time.
    :param instructions_stale: instructions that came too late to be obeyed.
    """

    received: int = 0
    rejected: int = 0
    idle: int = 0
    instructions_rejected: int = 0
    instructions_expired: int = 0
    instructions_stale: int = 0


class Inputs:
    """Hears instructions always, images between :meth:`listen` and :meth:`stop_listening`."""

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
        self._images: ImageSubscription | None = None
        self._listening_since_s = 0.0
        self._said_s = 0.0  # when the operator last gave the instruction in force
        self._uninstructed_since_s = self._clock.monotonic_s()
        self._last_image_s: float | None = None  # since listening
        self._changes_s: deque[float] = deque(maxlen=_MANY_CHANGES)  # since the last action
        self._operator_spoke = False  # since the node came up
        self._latched_publisher = False  # of instructions
        self._instructions = node.create_subscription(
            String, f'{prefix}instruction', self._hear, _MOST_WAITING
        )
        self.configure(Parameters())

    @property
    def image_topic(self) -> str:
        """Empty while not listening."""
        return '' if self._images is None else self._images.topic

    def configure(self, parameters: Parameters) -> None:
        """Count from zero, by these parameters. The instruction stays."""
        self._params = parameters
        self.counters = InputCounters()
        self.camera = CameraWatch(parameters.frozen_image_timeout_s, self._clock)

    def listen(self) -> None:
        """Hear images from now on."""
        self._listening_since_s = self._clock.monotonic_s()
        self._last_image_s = None
        self.camera.start_over()
        message_type, suffix, to_rgb = TRANSPORTS[self._params.image_transport]
        self._images = ImageSubscription(
            self._node,
            message_type,
            f'{self._prefix}image{suffix}',
            lambda message: self._on_image(message, to_rgb),
            self._params.image_reliability,
        )

    def stop_listening(self) -> None:
        if self._images is not None:
            self._images.destroy()
            self._images = None

    def follow_publishers(self) -> None:
        """Adapt to the publishers there are now. Call it about once a second."""
        if self._images is not None:
            self._images.follow_publishers()
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

    def why_no_image(self) -> Cause | None:
        """Return why there are no images; None while they come, or may still come in time."""
        now_s = self._clock.monotonic_s()
        if self._last_image_s is None:
            limit_s = self._params.first_image_timeout_s
            if now_s - self._listening_since_s <= limit_s:
                return None
            publishers = self._node.count_publishers(self.image_topic)
            return Cause(
                Reason.NO_FIRST_IMAGE,
                f'no first picture on {self.image_topic} within first_image_timeout_s, '
                f'{limit_s:g} s; publishers there: {publishers}',
            )
        limit_s = self._params.image_timeout_s
        if now_s - self._last_image_s <= limit_s:
            return None
        return Cause(
            Reason.IMAGE_TIMEOUT,
            f'no new picture on {self.image_topic} for image_timeout_s, {limit_s:g} s',
        )

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
        images_come = self._last_image_s is not None and not self.why_no_image()
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

    # -- images ----------------------------------------------------------------------------------

    def _on_image(self, message: Any, to_rgb: Callable[[Any], NDArray[np.uint8]]) -> None:
        self.counters.received += 1
        try:
            image = to_rgb(message)
        except Exception as error:
            if not isinstance(error, (UnusableImage, MemoryError)):
                self._log.error(f'{self.image_topic}: {failure_text(error)}', every_s=1.0)
            self.counters.rejected += 1
            self._last_image_s = self._clock.monotonic_s()
            self._on_fault(Cause(Reason.IMAGE_REJECTED, f'picture rejected: {error}'))
            return
        stamp_ns = from_time(message.header.stamp)
        verdict = self.camera.judge(image, stamp_ns)
        if not verdict.usable and not verdict.cause:
            return  # nothing new: the camera may be silent
        self._last_image_s = self._clock.monotonic_s()
        if verdict.cause:
            self._on_fault(verdict.cause)
        elif self.instruction and self.wanted:
            self._on_observation(Observation.of_one(image, self.instruction, stamp_ns))
        else:
            self.counters.idle += 1
