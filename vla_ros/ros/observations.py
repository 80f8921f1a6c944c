# SPDX-License-Identifier: Apache-2.0
"""The observations of one robot: its cameras and its state, joined by their stamps.

Used by the executor's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode

from vla_ros.motion.state import StatePart
from vla_ros.motion.state_parts import StateParts
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause
from vla_ros.ros.axes import ContractAxes
from vla_ros.ros.cameras import Cameras
from vla_ros.ros.pose_input import PoseInput
from vla_ros.ros.recording import Heard
from vla_ros.ros.shared import Shared
from vla_ros.ros.state_input import StateInput
from vla_ros.scheduling.assembly import Assembler, AssemblyCounters, AssemblyLimits
from vla_ros.types import Observation, PolicySpec


@dataclass(frozen=True)
class Needs:
    """What a robot's observations must have.

    :param spec: the cameras and the length of the state.
    :param state: parts of the state by the contract; empty: the topic ``state`` has all of it.
    :param frame_id: frame that its ``ee_pose`` must have for the state; empty: any one.
    :param axes: how the axes of the contract's frame lie to the robot's.
    :param contract_frame: that frame, ``base`` or ``end_effector``.
    :param tool: the pose of the robot's tool.
    """

    spec: PolicySpec
    state: Sequence[StatePart]
    frame_id: str
    axes: ContractAxes
    contract_frame: str
    tool: PoseInput


class Observations:
    """Hears images and states between :meth:`listen` and :meth:`stop_listening`."""

    def __init__(
        self,
        node: LifecycleNode,
        shared: Shared,
        prefix: str,
        parameters: Parameters,
        needs: Needs,
        instruction: Callable[[], str],
        on_observation: Callable[[Observation], None],
        on_fault: Callable[[Cause], None],
    ) -> None:
        """Count from zero, without a subscription.

        :param prefix: prefix of the topics' names.
        :param needs: what the policy needs.
        :param instruction: the one to carry out now; empty: none.
        :param on_fault: called with the reason why an image or a state cannot be used.
        """
        self.cameras = Cameras(
            node, shared.clock, shared.log, prefix, parameters, self._on_image, on_fault
        )
        limits = _limits(parameters)
        self._spec = needs.spec
        self._assembler = Assembler(self._spec, limits, shared.clock, AssemblyCounters())
        self._clock = shared.clock
        self._instruction = instruction
        self._on_observation = on_observation
        self._node, self._prefix, self._on_fault = node, prefix, on_fault
        self._state_parts = tuple(needs.state)
        self._state = self._state_input(parameters, needs)
        self._listens = False
        self.listening_since_s = 0.0
        # The newest image message of each camera, for the recording; None: there is none.
        self._messages: dict[str, Any] | None = {} if parameters.record else None

    def _state_input(self, parameters: Parameters, needs: Needs) -> StateInput:
        return StateInput(
            self._node,
            self._prefix,
            StateParts(needs.state, parameters.sync_tolerance_s, needs.frame_id),
            needs.axes,
            needs.contract_frame,
            needs.tool,
            self._assembler,
            self._instruction,
            self._submit,
            self._on_fault,
        )

    @property
    def counters(self) -> tuple[Any, ...]:
        """The counters, as dataclasses."""
        return (self.cameras.counters, self.cameras.watch_counters, self._assembler.counters)

    def adjust(self, parameters: Parameters, needs: Needs) -> bool:
        """Apply other limits, topics and parts of the state from now on.

        :returns: whether the node listens to other topics now, so that all must come anew.
        """
        renewed = self.cameras.adjust(parameters)
        self._assembler.adjust(_limits(parameters))
        if parameters.record != (self._messages is not None):
            self._messages = {} if parameters.record else None
        if tuple(needs.state) == self._state_parts:
            self._state.adjust(
                parameters.sync_tolerance_s, needs.frame_id, needs.axes, needs.contract_frame
            )
        else:
            renewed = True
            self._state.stop_listening()
            self._state_parts = tuple(needs.state)
            self._state = self._state_input(parameters, needs)
        if renewed and self._listens:
            self.stop_listening()
            self.listen()
        return renewed and self._listens

    def listen(self) -> None:
        """Subscribe to the images and the state that the policy needs."""
        self._listens = True
        self.listening_since_s = self._clock.monotonic_s()
        self.cameras.listen(self._spec.cameras)
        if self._spec.state_dim:
            self._state.listen()

    def stop_listening(self) -> None:
        """End the subscriptions."""
        self._listens = False
        self.cameras.stop_listening()
        self._assembler.clear()
        self._state.stop_listening()

    def follow_publishers(self) -> None:
        """Adapt to the publishers there are now. Call it about once a second."""
        self.cameras.follow_publishers()

    def drop(self) -> None:
        """Drop the images that wait for other parts of their observation."""
        self._assembler.drop()

    def forget_stamps(self) -> None:
        """Forget the stamps of the last images, and all images and states: the clock has jumped."""
        self.cameras.forget_stamps()
        self._assembler.clear()
        self._state.clear()

    @property
    def arriving_topics(self) -> str:
        """The topics of the cameras, with commas between them; empty unless all send images."""
        arrive = self.cameras.all_came and not self.cameras.why_silent()
        return self.cameras.topics if arrive else ''

    def why_none(self) -> Cause | None:
        """Return why there are no observations; None while they come, or may still in time."""
        if silent := self.cameras.why_silent():
            return silent
        cause = self._assembler.cause()
        return cause and self._state.explain(cause)

    def _on_image(
        self, camera: str, pixels: NDArray[np.uint8], stamp_ns: int, message: Any
    ) -> None:
        if instruction := self._instruction():
            if self._messages is not None:
                self._messages[camera] = message
            self._submit(self._assembler.add_image(camera, pixels, stamp_ns, instruction))
        else:
            self.cameras.counters.idle += 1

    def _submit(self, observation: Observation | None) -> None:
        if observation is None:
            return
        if self._messages is not None:
            # The assembler, too, has joined the newest image of each camera.
            observation = Heard(**vars(observation), messages=self._messages)
            self._messages = {}
        self._on_observation(observation)


def _limits(parameters: Parameters) -> AssemblyLimits:
    return AssemblyLimits(
        parameters.sync_tolerance_s, parameters.image_timeout_s, parameters.state_timeout_s
    )
