"""What comes in: pictures and instructions, joined to observations, each picture counted.

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
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from vla_ros.ros.image_subscription import ImageSubscription
from vla_ros.ros.images import UnusableImage, compressed_to_rgb, image_to_rgb
from vla_ros.ros.parameters import Parameters
from vla_ros.ros.stamps import from_time
from vla_ros.types import InstructionError, Observation, check_instruction


@dataclass
class InputCounters:
    """
    :param received: pictures heard.
    :param rejected: of these, not usable.
    :param idle: of these, came while there was no instruction.
    :param instructions_rejected: instructions that were not usable.
    """

    received: int = 0
    rejected: int = 0
    idle: int = 0
    instructions_rejected: int = 0


class Inputs:
    """Hears instructions always, pictures between :meth:`listen` and :meth:`stop_listening`."""

    def __init__(
        self,
        node: LifecycleNode,
        on_observation: Callable[[Observation], None],
        on_picture_rejected: Callable[[str], None],
        on_new_instruction: Callable[[], None],
    ) -> None:
        self.counters = InputCounters()
        self.instruction = ''  # in force; empty: hold
        self.instruction_error = ''  # why the last one is not in force
        self._node = node
        self._on_observation = on_observation
        self._on_picture_rejected = on_picture_rejected
        self._on_new_instruction = on_new_instruction
        self._last_picture_s = 0.0
        self._images: ImageSubscription | None = None
        self._instructions = node.create_subscription(
            String, 'instruction', lambda message: self.instruct(message.data), 1
        )

    @property
    def instruction_topic(self) -> str:
        return self._instructions.topic_name

    @property
    def image_topic(self) -> str:
        """Empty while not listening."""
        return '' if self._images is None else self._images.topic

    @property
    def silence_s(self) -> float:
        """How long no picture came, since the later of listening and the last instruction."""
        return time.monotonic() - self._last_picture_s

    def listen(self, parameters: Parameters) -> None:
        """Hear pictures from now on."""
        self._last_picture_s = time.monotonic()
        kind: tuple[type, str, Callable[[Any], NDArray[np.uint8]]]
        if parameters.image_transport == 'compressed':
            kind = (CompressedImage, 'image/compressed', compressed_to_rgb)
        else:
            kind = (Image, 'image', image_to_rgb)
        message_type, topic, to_rgb = kind
        self._images = ImageSubscription(
            self._node,
            message_type,
            topic,
            lambda message: self._on_picture(message, to_rgb),
            parameters.image_reliability,
        )

    def stop_listening(self) -> None:
        if self._images is not None:
            self._images.destroy()
            self._images = None

    def follow_publishers(self) -> None:
        if self._images is not None:
            self._images.follow_publishers()

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
        if (instruction, error) != (self.instruction, self.instruction_error):
            self.instruction, self.instruction_error = instruction, error
            self._last_picture_s = time.monotonic()
            self._on_new_instruction()

    def refuse_instruction(self, error: str) -> None:
        """The policy itself could not use the instruction in force."""
        self.counters.instructions_rejected += 1
        self.instruction, self.instruction_error = '', error
        self._on_new_instruction()

    def _on_picture(self, message: Any, to_rgb: Callable[[Any], NDArray[np.uint8]]) -> None:
        self.counters.received += 1
        self._last_picture_s = time.monotonic()
        try:
            image = to_rgb(message)
        except UnusableImage as error:
            self.counters.rejected += 1
            self._on_picture_rejected(str(error))
            return
        if not self.instruction:
            self.counters.idle += 1
            return
        stamp_ns = from_time(message.header.stamp)
        self._on_observation(Observation(image, self.instruction, stamp_ns))
