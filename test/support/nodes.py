# SPDX-License-Identifier: Apache-2.0
"""Steps that tests of a running node share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lifecycle_msgs.msg import Transition

from support.graph import Robot
from vla_ros.reasons import Reason, State

PATIENT = ('inference_timeout_s:=5.0', 'max_action_age_s:=5.0', 'image_timeout_s:=60.0')


def started(stack: Robot, instruction: str = 'go') -> Robot:
    """Until the node is RUNNING."""
    stack.wait_for_state(State.HOLDING)
    stack.wait_until_heard()
    stack.instruct(instruction)
    stack.recovers()
    return stack


def mended(stack: Robot, model: str = 'scripted') -> None:
    """A person sets the model right and configures anew: the node acts."""
    assert stack.lifecycle_state() == 'unconfigured'
    assert stack.set_parameter_of_node('model', model).successful
    assert stack.transition(Transition.TRANSITION_CONFIGURE)
    stack.wait_for_state(State.READY)
    assert stack.transition(Transition.TRANSITION_ACTIVATE)
    started(stack)


def never_acted(stack: Robot) -> bool:
    states = {status.state for status in stack.statuses}
    return not stack.actions and not states & {State.RUNNING, State.HOLDING}


def holds_and_heals(
    stack: Robot, made: Any, change: Mapping[str, Any], told: tuple[Reason | str, str]
) -> None:
    """A change of what the robot sends makes the node hold; healed, it acts again.

    :param made: what sends; its attributes change, and ``heal`` sets them right.
    :param told: the reason, and a part of the message.
    """
    for name, value in change.items():
        setattr(made, name, value)
    stack.wait_for_state(State.HOLDING, *told)
    acted = len(stack.actions)
    made.heal()
    stack.wait_for_state(State.RUNNING)
    stack.wait_for(lambda: len(stack.actions) > acted)
