"""The observations of one robot: its cameras and its state, joined by their stamps.

Used by the executor's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState

from vla_ros.graph.stamps import from_time
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, Reason
from vla_ros.ros.cameras import Cameras
from vla_ros.ros.shared import Shared
from vla_ros.scheduling.assembly import Assembler, AssemblyCounters, AssemblyLimits
from vla_ros.types import Observation, PolicySpec

_STATES_WAITING = 50


class Observations:
    """Hears images and states between :meth:`listen` and :meth:`stop_listening`."""

    def __init__(
        self,
        node: LifecycleNode,
        shared: Shared,
        prefix: str,
        parameters: Parameters,
        spec: PolicySpec,
        instruction: Callable[[], str],
        on_observation: Callable[[Observation], None],
        on_fault: Callable[[Cause], None],
    ) -> None:
        """Count from zero, without a subscription.

        :param prefix: prefix of the topics' names.
        :param spec: the cameras and the state that the policy needs.
        :param instruction: the one to carry out now; empty: none.
        :param on_fault: called with the reason why an image or a state cannot be used.
        """
        self.cameras = Cameras(
            node, shared.clock, shared.log, prefix, parameters, self._on_image, on_fault
        )
        limits = AssemblyLimits(
            parameters.sync_tolerance_s, parameters.image_timeout_s, parameters.state_timeout_s
        )
        self._assembler = Assembler(spec, limits, shared.clock, AssemblyCounters())
        self._node, self._clock = node, shared.clock
        self._prefix = prefix
        self._spec = spec
        self._instruction = instruction
        self._on_observation, self._on_fault = on_observation, on_fault
        self._states: list[Subscription] = []  # one at most
        self.listening_since_s = 0.0

    @property
    def counters(self) -> tuple[Any, ...]:
        """The counters, as dataclasses."""
        return (self.cameras.counters, self.cameras.watch_counters, self._assembler.counters)

    def listen(self) -> None:
        """Subscribe to the images and the state that the policy needs."""
        self.listening_since_s = self._clock.monotonic_s()
        self.cameras.listen(self._spec.cameras)
        if self._spec.state_dim:
            quality = QoSProfile(depth=_STATES_WAITING, reliability=ReliabilityPolicy.BEST_EFFORT)
            topic = f'{self._prefix}state'
            self._states = [
                self._node.create_subscription(JointState, topic, self._on_state, quality)
            ]

    def stop_listening(self) -> None:
        """End the subscriptions."""
        self.cameras.stop_listening()
        self._assembler.clear()
        for subscription in self._states:
            self._node.destroy_subscription(subscription)
        self._states = []

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

    @property
    def arriving_topics(self) -> str:
        """The topics of the cameras, with commas between them; empty unless all send images."""
        arrive = self.cameras.all_came and not self.cameras.why_silent()
        return self.cameras.topics if arrive else ''

    def why_none(self) -> Cause | None:
        """Return why there are no observations; None while they come, or may still in time."""
        return self.cameras.why_silent() or self._assembler.cause()

    def _on_image(self, camera: str, pixels: NDArray[np.uint8], stamp_ns: int) -> None:
        if instruction := self._instruction():
            self._submit(self._assembler.add_image(camera, pixels, stamp_ns, instruction))
        else:
            self.cameras.counters.idle += 1

    def _on_state(self, message: JointState) -> None:
        values, stamp_ns = np.array(message.position), from_time(message.header.stamp)
        try:
            self._submit(self._assembler.add_state(values, stamp_ns, self._instruction()))
        except ValueError as error:
            self._on_fault(Cause(Reason.STATE_REJECTED, f'state rejected: {error}'))

    def _submit(self, observation: Observation | None) -> None:
        if observation is not None:
            self._on_observation(observation)
