# SPDX-License-Identifier: Apache-2.0
"""One robot at the node, in every state of the node: its instruction, switch, status and view.

Used by the executor's thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rclpy.lifecycle import LifecycleNode

from vla_ros.motion import Contract
from vla_ros.motion.state_parts import ContractState
from vla_ros.msg import VlaPolicyInfo, VlaStatus
from vla_ros.parameters.definition import Parameters
from vla_ros.reasons import Cause, State
from vla_ros.recording import Track
from vla_ros.ros.goals import Goals, GoalView
from vla_ros.ros.instructions import Instructions
from vla_ros.ros.messages import (
    counters_message,
    motion_message,
    recording_message,
    status_message,
)
from vla_ros.ros.operator_view import OperatorViewPublisher
from vla_ros.ros.parameters import topic_prefix
from vla_ros.ros.robot_session import LoadedPolicy, RobotParts, RobotSession, SessionReport
from vla_ros.ros.shared import Shared
from vla_ros.ros.situation import Situation
from vla_ros.ros.status import StatusReporter
from vla_ros.ros.switches import Switch


class NodeView(NamedTuple):
    """What a robot has to know of its node.

    :param situation: returns the node's state now; READY also while it is active.
    :param policy: returns the policy that is loaded, or was asked for.
    """

    situation: Callable[[], Situation]
    policy: Callable[[], VlaPolicyInfo]


class RobotPort:
    """What a robot has while the node exists; its session exists while a warm policy is loaded."""

    def __init__(
        self,
        node: LifecycleNode,
        shared: Shared,
        name: str,
        source: int,
        node_view: NodeView,
        enabled: bool,
    ) -> None:
        """Create the topics that the robot has in every state.

        :param name: prefix of the topics' names; empty: none.
        :param source: number of the robot at the worker.
        :param enabled: whether it may act before anybody has enabled it.
        """
        prefix = self.prefix = topic_prefix(name)
        self._node, self._shared, self._name = node, shared, name
        self._node_view = node_view
        self._session: RobotSession | None = None
        self._report = SessionReport()  # of the last session
        self._reporter = StatusReporter(
            node,
            shared.clock,
            shared.log,
            name,
            prefix,
            self._situation,
            self._status,
            self._record_status,
        )
        self.instructions = Instructions(node, shared, name, prefix, self._on_instruction)
        self.switch = Switch(name, prefix, enabled, shared.latches, self._on_switched)
        self.view = OperatorViewPublisher(
            node, shared.clock, name, prefix, self._situation, lambda: self.instructions.text
        )
        goal_view = GoalView(self._situation, self.show_change)
        self.goals = Goals(node, shared, prefix, self.instructions, goal_view)
        self._parts = RobotParts(
            source, prefix, self._reporter.topic, self.instructions, self.switch, self.view
        )

    # -- lifecycle ---------------------------------------------------------------------------------

    def configure(self, parameters: Parameters) -> None:
        """Count from zero. The instruction stays, if there is one."""
        self._report = _as_configured(parameters)
        self.view.clear(parameters.frame_ids[self._parts.source])
        self.instructions.configure(parameters.instruction)

    def adjust(
        self,
        parameters: Parameters,
        contracts: Mapping[str, Contract],
        state: ContractState,
    ) -> None:
        """Apply what may change while the node is configured.

        :param state: as in :class:`LoadedPolicy`.
        """
        self.view.rename(parameters.frame_ids[self._parts.source])
        if self._session is not None:
            self._session.adjust(parameters, contracts, state)
        else:
            self._report = _as_configured(parameters)

    def begin(self, parameters: Parameters, policy: LoadedPolicy, track: Track) -> RobotSession:
        """Begin a session: the policy is warm.

        :param track: of the robot's recording.
        """
        self._session = RobotSession(
            self._node, self._shared, self._parts, parameters, policy, track, self.show_change
        )
        return self._session

    def release(self) -> None:
        """End the session; its outputs are closed already. The report stays."""
        if self._session is not None:
            motion = self._report.motion  # as configured: there is no motion any more
            self._report = dataclasses.replace(self._session.report(), motion=motion)
        self._session = None

    def _on_instruction(self, conflict: Cause | None) -> None:
        if self._session is not None:
            self._session.obey(conflict)

    def _on_switched(self) -> None:
        if self._session is not None:
            self._session.on_switched()
        self.show_change()

    def mark_success(self) -> str:
        """Mark the recorded episode as a success; return what to tell, empty if there is none."""
        return '' if self._session is None else self._session.mark_success()

    # -- reports -----------------------------------------------------------------------------------

    def show_change(self) -> None:
        """Publish and log the state if it has changed; the robot moves only while RUNNING."""
        if self._session is not None and self._situation().state != State.RUNNING:
            self._session.hold_outputs()
        self._reporter.show_change()

    def report(self) -> VlaStatus:
        """Publish and return the status. Adapt to the publishers there are now, too."""
        self.instructions.follow_publishers()
        if self._session is not None:
            self._session.follow_publishers()
        return self._reporter.report()

    def flush(self, timeout_s: float) -> None:
        """Wait until all listeners have the last status.

        :raises RCLError: if the context has been shut down.
        """
        self._reporter.flush(timeout_s)

    def _situation(self) -> Situation:
        node = self._node_view.situation()
        if node.state != State.READY or self._session is None or not self._session.active:
            off = self.switch.cause
            return node if node.message or not off else Situation.of(node.state, off)
        cause = self._session.cause
        return Situation.of(State.HOLDING if cause else State.RUNNING, cause)

    def _status(self) -> VlaStatus:
        report = self._report if self._session is None else self._session.report()
        counters = counters_message(
            self.instructions.counters,
            self._shared.requests,
            *report.counters,
            in_flight=report.in_flight,
            clock_jumps=self._shared.clock.jumps,
        )
        return status_message(
            self._name,
            self._situation(),
            self.instructions.text,
            self._node_view.policy(),
            counters,
            report.latencies,
            report.motion,
            report.recording,
        )

    def _record_status(self, status: VlaStatus) -> None:
        if self._session is not None:
            self._session.record_status(status)


def _as_configured(parameters: Parameters) -> SessionReport:
    """Return the report of a robot before its session."""
    return SessionReport(
        motion=motion_message(parameters), recording=recording_message(parameters.record)
    )
