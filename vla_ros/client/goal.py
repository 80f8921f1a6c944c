# SPDX-License-Identifier: Apache-2.0
"""Goals of the action server ``~/execute``, for a client in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.action import ActionClient

from vla_ros.action import ExecuteInstruction
from vla_ros.client.instruction import carried
from vla_ros.graph.stamps import to_duration

if TYPE_CHECKING:
    from vla_ros.client.vla_client import VlaClient

OnFeedback = Callable[[Any], object]  # ExecuteInstruction.Feedback


class RunningGoal:
    """A goal that the node has accepted. Used by the client's thread."""

    def __init__(self, client: VlaClient, handle: Any) -> None:
        self._client, self._handle = client, handle
        self._result = handle.get_result_async()
        self._result.add_done_callback(lambda _: client.wake())

    def cancel(self) -> None:
        """Let the robot hold; :meth:`result` then says so."""
        self._handle.cancel_goal_async()

    def result(self, timeout_s: float) -> Any | None:
        """Return the ExecuteInstruction.Result; None if it does not come in time."""
        self._client.wait_until(self._result.done, timeout_s)
        return self._result.result().result if self._result.done() else None


class GoalClient:
    """Sends goals to one robot. Used by the client's thread."""

    def __init__(self, client: VlaClient, name: str) -> None:
        self._client = client
        self._actions = ActionClient(client.node, ExecuteInstruction, name)

    def close(self) -> None:
        """Destroy the action client."""
        self._actions.destroy()

    def start(
        self, instruction: str, time_limit_s: float, on_feedback: OnFeedback, timeout_s: float
    ) -> RunningGoal | None:
        """Return the goal; None if the node rejects it, or does not answer in time.

        :raises InstructionError: if a message can't carry the instruction.
        """
        client = self._client
        goal = ExecuteInstruction.Goal(
            instruction=carried(instruction), time_limit=to_duration(time_limit_s)
        )
        ends_s = client.clock.monotonic_s() + timeout_s
        if not client.wait_until(self._actions.server_is_ready, timeout_s):
            return None
        answer = self._actions.send_goal_async(
            goal, feedback_callback=lambda message: on_feedback(message.feedback)
        )
        answer.add_done_callback(lambda _: client.wake())
        client.wait_until(answer.done, ends_s - client.clock.monotonic_s())
        handle = answer.result() if answer.done() else None
        return RunningGoal(client, handle) if handle is not None and handle.accepted else None
