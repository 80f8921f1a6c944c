"""What comes in of one robot: pictures and instructions, joined to observations, all counted.

Used by the executor's thread. Refuses to know what becomes of an observation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import String

from vla_ros.pictures.images import UnusableImage
from vla_ros.ros.image_subscription import TRANSPORTS, ImageSubscription
from vla_ros.ros.parameters import Parameters
from vla_ros.ros.stamps import from_time
from vla_ros.scheduling import CameraWatch, Clock
from vla_ros.types import InstructionError, Observation, check_instruction


@dataclass
class InputCounters:
    """
    :param received: pictures heard.
    :param rejected: of these, no usable pictures.
    :param idle: of these, came while there was no instruction, or the robot was switched off.
    :param instructions_rejected: instructions that were not usable.
    :param instructions_expired: instructions that were not repeated in time.
    """

    received: int = 0
    rejected: int = 0
    idle: int = 0
    instructions_rejected: int = 0
    instructions_expired: int = 0


class Inputs:
    """Hears instructions always, pictures between :meth:`listen` and :meth:`stop_listening`."""

    def __init__(
        self,
        node: LifecycleNode,
        clock: Clock,
        on_observation: Callable[[Observation], None],
        on_fault: Callable[[str], None],
        on_new_instruction: Callable[[], None],
        prefix: str = '',
    ) -> None:
        """
        :param on_fault: told why a picture could not be used.
        :param prefix: what the topics' names begin with.
        """
        self.instruction = ''  # in force; empty: hold
        self.wanted = True  # pictures are, whenever there is an instruction
        self._instruction_error = ''  # why the last one is not in force
        self._node = node
        self._clock = clock
        self._prefix = prefix
        self._on_observation = on_observation
        self._on_fault = on_fault
        self._on_new_instruction = on_new_instruction
        self._images: ImageSubscription | None = None
        self._listening_since_s = 0.0
        self._said_s = 0.0  # when a person last gave the instruction in force
        self._uninstructed_since_s = time.monotonic()
        self._last_picture_s: float | None = None  # since listening
        self._instructions = node.create_subscription(
            String, f'{prefix}instruction', lambda message: self.instruct(message.data), 1
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
        """Hear pictures from now on."""
        self._listening_since_s = time.monotonic()
        self._last_picture_s = None
        self.camera.start_over()
        message_type, suffix, to_rgb = TRANSPORTS[self._params.image_transport]
        self._images = ImageSubscription(
            self._node,
            message_type,
            f'{self._prefix}image{suffix}',
            lambda message: self._on_picture(message, to_rgb),
            self._params.image_reliability,
        )

    def stop_listening(self) -> None:
        if self._images is not None:
            self._images.destroy()
            self._images = None

    def follow_publishers(self) -> None:
        if self._images is not None:
            self._images.follow_publishers()

    # -- what is missing -----------------------------------------------------------------------

    def why_no_instruction(self) -> str:
        """Empty if one is in force."""
        if self.instruction or self._instruction_error:
            return self._instruction_error
        why = f'no instruction on {self._instructions.topic_name}'
        limit_s = self._params.no_instruction_timeout_s
        since_s = max(self._uninstructed_since_s, self._listening_since_s)
        pictures_come = self._last_picture_s is not None and not self.why_no_picture()
        if not pictures_come or time.monotonic() - since_s <= limit_s:
            return why
        return (
            f'{why} for no_instruction_timeout_s, {limit_s:g} s, while pictures come on '
            f'{self.image_topic}'
        )

    def why_no_picture(self) -> str:
        """Empty while they come, or may still come in time."""
        now_s = time.monotonic()
        if self._last_picture_s is None:
            limit_s = self._params.first_image_timeout_s
            if now_s - self._listening_since_s <= limit_s:
                return ''
            publishers = self._node.count_publishers(self.image_topic)
            return (
                f'no first picture on {self.image_topic} within first_image_timeout_s, '
                f'{limit_s:g} s; publishers there: {publishers}'
            )
        limit_s = self._params.image_timeout_s
        if now_s - self._last_picture_s <= limit_s:
            return ''
        return f'no new picture on {self.image_topic} for image_timeout_s, {limit_s:g} s'

    def expire_instruction(self) -> None:
        """Take back an instruction that nobody has repeated in time."""
        limit_s = self._params.max_instruction_age_s
        if self.instruction and limit_s and time.monotonic() - self._said_s > limit_s:
            self.counters.instructions_expired += 1
            self._put_in_force(
                '',
                f'instruction {self.instruction[:80]!r} is older than max_instruction_age_s, '
                f'{limit_s:g} s; repeat it for as long as it shall be carried out',
            )

    # -- instructions ----------------------------------------------------------------------------

    def instruct(self, instruction: str) -> None:
        """Let an instruction take effect; one that is not usable means hold."""
        error = ''
        try:
            check_instruction(instruction)
        except InstructionError as refusal:
            self.counters.instructions_rejected += 1
            instruction, error = '', str(refusal)
        if not instruction.strip():
            instruction = ''
        self._said_s = time.monotonic()
        self._put_in_force(instruction, error)

    def refuse_instruction(self, error: str) -> None:
        """The policy itself could not use the instruction in force."""
        self.counters.instructions_rejected += 1
        self._put_in_force('', error)

    def _put_in_force(self, instruction: str, error: str) -> None:
        if (instruction, error) == (self.instruction, self._instruction_error):
            return
        self.instruction, self._instruction_error = instruction, error
        if not instruction:
            self._uninstructed_since_s = time.monotonic()
        self._on_new_instruction()

    # -- pictures --------------------------------------------------------------------------------

    def _on_picture(self, message: Any, to_rgb: Callable[[Any], NDArray[np.uint8]]) -> None:
        self.counters.received += 1
        try:
            image = to_rgb(message)
        except (UnusableImage, MemoryError) as error:
            self.counters.rejected += 1
            self._last_picture_s = time.monotonic()
            self._on_fault(f'picture rejected: {error}')
            return
        stamp_ns = from_time(message.header.stamp)
        verdict = self.camera.judge(image, stamp_ns)
        if not verdict.usable and not verdict.why:
            return  # nothing new: the camera may be silent
        self._last_picture_s = time.monotonic()
        if verdict.why:
            self._on_fault(verdict.why)
        elif self.instruction and self.wanted:
            self._on_observation(Observation(image, self.instruction, stamp_ns))
        else:
            self.counters.idle += 1
