# SPDX-License-Identifier: Apache-2.0
"""The node's messages as the server's values. Pure functions; any thread."""

from __future__ import annotations

from typing import Any

from vla_ros.client import ReceivedAction
from vla_ros.graph.stamps import from_duration, from_time
from vla_ros.msg import VlaStatus
from vla_ros.reasons import Reason, State
from vla_ros.types import ActionSpace
from vla_ros.web.messages import Action
from vla_ros.web.robot import Report

_MAX_ROWS, _MAX_PROBABILITIES = 64, 1024  # that a page draws


def report_of(status: VlaStatus) -> Report:
    """Return a status, whose texts are printable."""
    counters = fields_of(status.counters)
    return Report(
        State(status.state) if status.state in set(State) else State.UNKNOWN,
        Reason(status.reason).name if status.reason in set(Reason) else str(status.reason),
        status.message,
        status.elapsed_s,
        status.instruction,
        counters['instructions_rejected'] + counters['instructions_stale'],
        policy=fields_of(status.policy),
        counters=counters,
        latencies=fields_of(status.latencies),
        motion=fields_of(status.motion),
        recording=fields_of(status.recording),
    )


def action_of(robot: str, received: ReceivedAction) -> Action:
    """Return an action for the pages.

    :param robot: key of the robot.
    """
    message = received.message
    space = message.action_space
    published_ns = from_time(message.header.stamp)
    return Action(
        robot=robot,
        sequence=message.sequence,
        stamp=str(received.stamp_ns),
        age_s=0.0,
        instruction=message.instruction,
        space=ActionSpace(space).name if space in set(ActionSpace) else str(space),
        frame=message.header.frame_id,
        unnorm_key=message.unnorm_key,
        names=tuple(message.names),
        rows=tuple(tuple(row) for row in received.actions[:_MAX_ROWS].tolist()),
        period_s=from_duration(message.period),
        gripper={
            'column': message.gripper_column,
            'closed': message.gripper_closed,
            'open': message.gripper_open,
        },
        probabilities=tuple(map(float, message.token_probabilities[:_MAX_PROBABILITIES])),
        inference_s=from_duration(message.inference_time),
        latency_s=from_duration(message.latency),
        valid_s=(from_time(message.valid_until) - published_ns) / 1e9,
    )


def fields_of(message: Any) -> dict[str, Any]:
    """Return the fields of a message, and of messages in it, as dictionaries."""
    values = {name: getattr(message, name) for name in message.get_fields_and_field_types()}
    return {
        name: fields_of(value) if hasattr(value, 'get_fields_and_field_types') else plain(value)
        for name, value in values.items()
    }


def plain(value: Any) -> Any:
    """Return the value of a field or a parameter; arrays as lists."""
    return value if isinstance(value, (bool, int, float, str)) else list(value)
