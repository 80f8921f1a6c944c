# SPDX-License-Identifier: Apache-2.0
"""The levels of the diagnostics: a robot that waits for orders is no warning."""

from __future__ import annotations

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from vla_ros.msg import VlaStatus
from vla_ros.reasons import Reason, State
from vla_ros.ros.messages import diagnostics_message


@pytest.mark.parametrize(
    ('state', 'reason', 'level'),
    [
        (State.RUNNING, Reason.NONE, DiagnosticStatus.OK),
        (State.READY, Reason.NONE, DiagnosticStatus.OK),
        (State.HOLDING, Reason.NO_INSTRUCTION, DiagnosticStatus.OK),
        (State.HOLDING, Reason.INSTRUCTION_CHANGED, DiagnosticStatus.OK),
        (State.HOLDING, Reason.IMAGE_TIMEOUT, DiagnosticStatus.WARN),
        (State.HOLDING, Reason.STOPPED, DiagnosticStatus.WARN),
        (State.WARMING_UP, Reason.NONE, DiagnosticStatus.WARN),
        (State.ERROR, Reason.LOADING_FAILED, DiagnosticStatus.ERROR),
    ],
)
def test_the_level_of_a_state(state: State, reason: Reason, level: bytes) -> None:
    [told] = diagnostics_message([VlaStatus(state=state, reason=reason)], 'vla').status
    assert told.level == level


def test_a_motion_that_is_refused_is_a_warning() -> None:
    status = VlaStatus(state=State.RUNNING)
    status.motion.message = 'no contract'
    [told] = diagnostics_message([status], 'vla').status
    assert told.level == DiagnosticStatus.WARN
