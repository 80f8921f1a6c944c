# SPDX-License-Identifier: Apache-2.0
"""A client of one robot's action server, by the three services of which an action consists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from action_msgs.srv import CancelGoal
from builtin_interfaces.msg import Duration, Time

from simulate.scheduler import NS
from vla_ros.action import ExecuteInstruction

if TYPE_CHECKING:
    from simulate.world import World

_SERVICES = ExecuteInstruction.Impl


class GoalClient:
    """Sends goals, cancels them and asks for their results."""

    def __init__(self, world: World, robot: int) -> None:
        self._world, self._robot = world, robot
        self._count = 0
        self._name = f'/vla/{world.prefix(robot)}execute/_action'
        self.last = b''  # the identifier of the last goal

    def send(
        self, instruction: str, limit_s: float, waits: bool = True, wants_result: bool = True
    ) -> bytes:
        """Send a goal; its result is asked for when it is accepted.

        :param waits: whether the client is still there when the answer comes.
        :returns: the goal's identifier.
        """
        self._count += 1
        key = bytes((self._robot + 1, *self._count.to_bytes(3, 'big'), *bytes(12)))
        self.send_again(key, instruction, limit_s, waits, wants_result)
        return key

    def send_again(
        self,
        key: bytes,
        instruction: str,
        limit_s: float,
        waits: bool = True,
        wants_result: bool = True,
    ) -> None:
        """Send a goal by an identifier that there may be already."""
        self.last = key
        request = _SERVICES.SendGoalService.Request()
        request.goal_id.uuid = list(key)
        limit_ns = round(limit_s * NS)
        request.goal.instruction = instruction
        request.goal.time_limit = Duration(sec=limit_ns // NS, nanosec=limit_ns % NS)

        def hear(response: Any) -> None:
            if response.accepted and wants_result:
                self.ask_result(key)

        self._ask('send_goal', request, hear if waits else None)

    def cancel(self, key: bytes, until: Time | None = None) -> None:
        """Cancel one goal, and those up to a moment; all, if there is neither."""
        request = CancelGoal.Request()
        request.goal_info.goal_id.uuid = list(key or bytes(16))
        if until is not None:
            request.goal_info.stamp = until
        self._ask('cancel_goal', request, lambda response: None)

    def ask_result(self, key: bytes, waits: bool = True) -> None:
        request = _SERVICES.GetResultService.Request()
        request.goal_id.uuid = list(key)
        self._ask('get_result', request, (lambda response: None) if waits else None)

    def _ask(self, service: str, request: Any, hear: Any) -> None:
        world = self._world
        world.graph.request(
            f'{self._name}/{service}',
            request,
            hear,
            world.scheduler.system_ns(),
            world.transport_s(),
        )
