# SPDX-License-Identifier: Apache-2.0
"""Steps that tests of a running node share."""

from __future__ import annotations

from lifecycle_msgs.msg import Transition

from support.graph import Robot
from vla_ros.reasons import State

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
