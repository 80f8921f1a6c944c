# SPDX-License-Identifier: Apache-2.0
"""The state of one robot: the whole vector of a topic, or parts of messages by a contract.

Used by the executor's thread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState

from vla_ros.graph.stamps import from_time
from vla_ros.motion import Pose
from vla_ros.motion.state import EE_POSE, JOINT_STATES, JointPositions
from vla_ros.motion.state_parts import Joined, StateParts
from vla_ros.reasons import Cause, Reason
from vla_ros.ros.axes import ContractAxes
from vla_ros.ros.pose_input import PoseInput
from vla_ros.scheduling.assembly import Assembler
from vla_ros.types import Observation

_WAITING = 50
_QUALITY = QoSProfile(depth=_WAITING, reliability=ReliabilityPolicy.BEST_EFFORT)

OnObservation = Callable[[Observation | None], None]
OnFault = Callable[[Cause], None]


class StateInput:
    """Gives states to an assembler between :meth:`listen` and :meth:`stop_listening`."""

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        parts: StateParts,
        axes: ContractAxes,
        contract_frame: str,
        tool: PoseInput,
        assembler: Assembler,
        instruction: Callable[[], str],
        on_observation: OnObservation,
        on_fault: OnFault,
    ) -> None:
        """Start without a subscription.

        :param parts: of the state by the contract; without any, the topic ``state`` has all of it.
        :param axes: how the axes of the contract's frame lie.
        :param contract_frame: that frame, ``base`` or ``end_effector``.
        :param tool: the pose of the robot's tool, where a part needs it.
        :param instruction: the one to carry out now; empty: none.
        :param on_observation: called with an observation, or None, after each state.
        :param on_fault: called with the reason why a state cannot be used.
        """
        self._node, self._prefix = node, prefix
        self._assembler = assembler
        self._instruction = instruction
        self._on_observation, self._on_fault = on_observation, on_fault
        self._parts, self._tool = parts, tool
        self._axes, self._contract_frame = axes, contract_frame
        self._subscriptions: list[Subscription] = []

    def adjust(
        self, tolerance_s: float, frame_id: str, axes: ContractAxes, contract_frame: str
    ) -> None:
        """Apply another tolerance and other frames from now on."""
        before = *self._axes.names, self._contract_frame
        self._axes, self._contract_frame = axes, contract_frame
        if before != (*axes.names, contract_frame):
            self._parts.clear()  # poses along other axes
        self._parts.adjust(tolerance_s, frame_id)

    def listen(self) -> None:
        """Subscribe to the topics that the state needs."""
        callbacks = {'state': self._on_state, JOINT_STATES: self._on_joints}
        for topic in self._parts.topics or ('state',):
            if topic == EE_POSE:
                self._tool.add(self)
                continue
            name = f'{self._prefix}{topic}'
            self._subscriptions.append(
                self._node.create_subscription(JointState, name, callbacks[topic], _QUALITY)
            )

    def stop_listening(self) -> None:
        """End the subscriptions, and forget all states."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        self._tool.remove(self)
        self.clear()

    def clear(self) -> None:
        """Forget all parts of states: the clock has jumped."""
        self._parts.clear()

    def explain(self, cause: Cause) -> Cause:
        """Return the cause, with the part of the state that is missing or old."""
        if not self._parts.topics or cause.reason not in (Reason.STATE_MISSING, Reason.STATE_STALE):
            return cause
        why = self._parts.why_none()
        return Cause(cause.reason, f'{cause.message}; {why}') if why else cause

    def _on_state(self, message: JointState) -> None:
        values, stamp_ns = np.array(message.position), from_time(message.header.stamp)
        try:
            observation = self._assembler.add_state(values, stamp_ns, self._instruction())
        except ValueError as error:
            self._on_fault(Cause(Reason.STATE_REJECTED, f'state rejected: {error}'))
        else:
            self._on_observation(observation)

    def _on_joints(self, message: JointState) -> None:
        joints = JointPositions(message.name, message.position)
        if not self._parts.concerns(joints):
            self._assembler.counters.states_unrelated += 1
        stamp_ns = from_time(message.header.stamp)
        self._take(lambda: self._parts.add_joints(joints, stamp_ns))

    @property
    def pose_frame(self) -> str:
        return self._parts.frame_id

    def on_pose(self, pose: Pose, frame: str, stamp_ns: int) -> None:
        def add() -> Joined | None:
            self._parts.check_frame(frame)
            told = self._axes.told(pose, frame, self._contract_frame)
            if isinstance(told, Cause):
                raise ValueError(told.message)
            return self._parts.add_pose(told, frame, stamp_ns)

        self._take(add)

    def on_no_pose(self, cause: Cause) -> None:
        def refuse() -> None:
            raise ValueError(cause.message)

        self._take(refuse)

    def _take(self, add: Callable[[], Joined | None]) -> None:
        counters = self._assembler.counters
        counters.states_received += 1
        try:
            joined = add()
        except ValueError as error:
            counters.states_rejected += 1
            self._on_fault(Cause(Reason.STATE_REJECTED, f'state rejected: {error}'))
            return
        if joined is not None:
            instruction = self._instruction()
            self._on_observation(
                self._assembler.keep_state(joined.values, joined.stamp_ns, instruction)
            )
