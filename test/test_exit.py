"""How the process ends: its exit code, and never a traceback."""

from __future__ import annotations

import signal

import pytest
from graph import Robot, Running, running_command
from lifecycle_msgs.msg import Transition

from vla_ros.msg import VlaStatus

FAKE_NODE = 'fake_node'
SHORT = ('inference_timeout_s:=0.2', 'hang_timeout_s:=0.3', 'warmup_timeout_s:=1.0')


def end_of(running: Running, timeout_s: float = 30.0) -> int:
    return running.process.wait(timeout_s)


def let_it_hang(robot: Robot) -> None:
    """Until the node has noticed that its inference is late."""
    robot.wait_for_state(VlaStatus.HOLDING)
    robot.wait_until_heard()
    robot.say('go')
    robot.wait_for_state(VlaStatus.HOLDING, '/image')
    robot.see()
    robot.wait_for_state(VlaStatus.HOLDING, 'overrun')


def test_a_hung_inference_is_70() -> None:
    with running_command(FAKE_NODE, 'hung-inference', parameters=SHORT) as running:
        let_it_hang(running.robot)
        running.robot.wait_for_state(VlaStatus.ERROR, 'hang_timeout_s, 0.3 s')
        assert end_of(running) == 70
        assert not running.robot.actions
    assert 'Traceback' not in running.output
    assert 'the inference did not stop within hang_timeout_s' in running.output


def test_a_warmup_that_never_ends_is_70() -> None:
    with running_command(FAKE_NODE, 'stuck-warmup', parameters=SHORT) as running:
        running.robot.wait_for_state(VlaStatus.ERROR, 'warmup_timeout_s, 1 s')
        assert end_of(running) == 70
    assert 'Traceback' not in running.output


def test_cleanup_of_a_stuck_warmup_is_answered_and_ends_with_70() -> None:
    with running_command(FAKE_NODE, 'stuck-warmup') as running:
        running.robot.wait_for_state(VlaStatus.WARMING_UP)
        assert running.robot.transition(Transition.TRANSITION_CLEANUP)
        assert end_of(running) == 70
    assert 'Traceback' not in running.output


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ('kind', 'state'),
    [
        ('stuck-load', VlaStatus.LOADING),
        ('stuck-warmup', VlaStatus.WARMING_UP),
        ('well', VlaStatus.HOLDING),
    ],
)
def test_a_signal_ends_it_with_0(kind: str, state: str, sent: signal.Signals) -> None:
    with running_command(FAKE_NODE, kind) as running:
        running.robot.wait_for_state(state)
        running.process.send_signal(sent)
        running.process.send_signal(sent)  # as launch does after a terminal's Ctrl-C
        assert end_of(running) == 0
    assert 'Traceback' not in running.output


def test_a_signal_while_an_inference_hangs_ends_it_with_0() -> None:
    with running_command(FAKE_NODE, 'hung-inference') as running:
        let_it_hang(running.robot)
        running.process.send_signal(signal.SIGINT)
        assert end_of(running) == 0
    assert 'Traceback' not in running.output
