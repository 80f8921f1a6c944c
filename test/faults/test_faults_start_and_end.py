# SPDX-License-Identifier: Apache-2.0
"""What goes wrong before the node is active, and how its process ends.

The second half of the faults in docs/faults.md, injected through the real node in its own process.
"""

from __future__ import annotations

import re
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lifecycle_msgs.msg import Transition
from safetensors.torch import load_file, save_file

from support.fakes import FakePolicy
from support.graph import FRESH, Robot, Running, noise, running_node
from support.in_process import unstarted_node
from support.nodes import PATIENT, mended, never_acted, started
from vla_ros.reasons import Reason, State
from vla_ros.ros.loading import load_policy
from vla_ros.types import Cancel, InferenceCancelled, WarmupTimes

LOAD_TIMEOUT = Reason.LOAD_TIMEOUT, 'loading took longer than load_timeout_s, 1 s'
WARMUP_TIMEOUT = Reason.WARMUP_TIMEOUT, 'warming up took longer than warmup_timeout_s, 1 s'
HANGS = ('inference_timeout_s:=0.2', 'hang_timeout_s:=0.4')


def limit_of(reason: Reason) -> tuple[str, str]:
    """Only this limit is short, since a busy machine may take long for the other step."""
    return 'autostart:=false', f'{reason.name.lower()}_s:=1.0'


def fails(stack: Robot, reason: Reason, message: str) -> None:
    """Configure now, with the limit of ``limit_of``."""
    stack.wait_for_state(State.UNCONFIGURED)
    assert stack.transition(Transition.TRANSITION_CONFIGURE)
    began_s = time.monotonic()
    stack.wait_for_state(State.ERROR, reason, message)
    print(f'{reason.name} after {time.monotonic() - began_s:.2f} s; the limit is 1 s')


# -- loading and warming up --------------------------------------------------------------------


@pytest.mark.parametrize(
    ('model', 'reason', 'message'),
    [
        ('/nowhere/openvla', Reason.LOADING_FAILED, "'/nowhere/openvla' is not a folder"),
        ('scripted:explode', Reason.LOADING_FAILED, "'explode'"),
        ('scripted:raise@load', Reason.LOADING_FAILED, 'scripted'),
        ('scripted:oom@load', Reason.LOADING_FAILED, 'memory'),
        ('scripted:raise@warmup', Reason.WARMUP_FAILED, 'scripted'),
        ('scripted:oom@warmup', Reason.WARMUP_FAILED, 'memory'),
        ('scripted:self_check@warmup', Reason.WARMUP_FAILED, 'self-check'),
    ],
)
def test_a_policy_that_can_not_be_made_ready(model: str, reason: Reason, message: str) -> None:
    with unstarted_node(load_policy, model=model) as (stack, _):
        stack.wait_for_state(State.ERROR, reason, message)
        assert never_acted(stack)
        mended(stack)


@pytest.mark.parametrize(
    ('model', 'reason', 'message'),
    [
        ('scripted:stuck@load', *LOAD_TIMEOUT),
        ('scripted:slow=30@load', *LOAD_TIMEOUT),
        ('scripted:stuck@warmup', *WARMUP_TIMEOUT),
    ],
)
def test_a_preparation_that_takes_too_long(model: str, reason: Reason, message: str) -> None:
    with running_node(f'model:={model}', *limit_of(reason)) as running:
        stack = running.robot
        fails(stack, reason, message)
        assert never_acted(stack)
        mended(stack)
    assert running.process.returncode == 0


@pytest.mark.parametrize(
    ('model', 'reason', 'message'),
    [('scripted:hung@load', *LOAD_TIMEOUT), ('scripted:hung@warmup', *WARMUP_TIMEOUT)],
)
def test_a_preparation_that_hangs_ends_with_70(model: str, reason: Reason, message: str) -> None:
    with running_node(f'model:={model}', *limit_of(reason)) as running:
        stack = running.robot
        fails(stack, reason, message)
        assert running.ends() == 70
        assert never_acted(stack)
    assert 'Traceback' not in running.output


@pytest.mark.parametrize(
    ('step', 'state', 'named'),
    [('load', State.LOADING, 'loading'), ('warmup', State.WARMING_UP, 'warming up')],
    ids=['load', 'warmup'],
)
def test_cleanup_of_a_hung_preparation_is_answered_and_ends_with_70(
    step: str, state: State, named: str
) -> None:
    with running_node(f'model:=scripted:hung@{step}') as running:
        running.robot.wait_for_state(state)
        assert running.robot.transition(Transition.TRANSITION_DEACTIVATE)
        assert running.robot.transition(Transition.TRANSITION_CLEANUP)
        assert running.ends() == 70
    assert re.search(f'{named}.* did not stop within 4 s', running.output)
    assert 'Traceback' not in running.output


class Patient(FakePolicy):
    """Is warm when the test says so, or is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = threading.Event()

    def warmup(self, progress: object = None, cancel: Cancel | None = None) -> WarmupTimes:
        while not self.ready.wait(0.005):
            if cancel is not None and cancel.is_set():
                raise InferenceCancelled
        return WarmupTimes(0.0, 0.0, 0.0)


def test_an_activation_before_the_policy_is_ready_lets_it_act_when_it_is() -> None:
    """So does any lifecycle manager: configure, then activate, each answered at once."""
    policy = Patient()
    with unstarted_node(lambda *_: policy, autostart=False) as (stack, _):
        assert stack.transition(Transition.TRANSITION_CONFIGURE)
        assert stack.transition(Transition.TRANSITION_ACTIVATE)
        assert stack.lifecycle_state() == 'active'
        stack.wait_for_state(State.WARMING_UP)
        stack.say('go')
        stack.see()
        policy.ready.set()
        started(stack)


def test_a_deactivation_while_it_warms_up() -> None:
    """Deactivated: it is READY, and does not act. Activated again: it acts."""
    policy = Patient()
    with unstarted_node(lambda *_: policy, instruction='go') as (stack, _):
        stack.wait_for_state(State.WARMING_UP)
        assert stack.lifecycle_state() == 'active'
        assert stack.transition(Transition.TRANSITION_DEACTIVATE)
        assert stack.lifecycle_state() == 'inactive'
        policy.ready.set()
        stack.wait_for_state(State.READY)
        assert never_acted(stack)
        assert stack.transition(Transition.TRANSITION_ACTIVATE)
        started(stack)
        assert stack.transition(Transition.TRANSITION_DEACTIVATE)
        stack.wait_for_state(State.READY)


def test_a_cleanup_while_an_active_node_warms_up() -> None:
    with unstarted_node(lambda *_: Patient()) as (stack, _):
        stack.wait_for_state(State.WARMING_UP)
        assert stack.transition(Transition.TRANSITION_DEACTIVATE)
        assert stack.transition(Transition.TRANSITION_CLEANUP)
        assert stack.lifecycle_state() == 'unconfigured'
        stack.wait_for_state(State.UNCONFIGURED)
        assert never_acted(stack)


def zeroed_projector(weights: dict[str, torch.Tensor]) -> None:
    for name in weights:
        if name.startswith('projector.'):
            weights[name].zero_()


def one_weight_nan(weights: dict[str, torch.Tensor]) -> None:
    weights['projector.fc1.weight'][0, 0] = torch.nan


@pytest.mark.parametrize(
    ('spoil', 'reason', 'message'),
    [
        (zeroed_projector, Reason.WARMUP_FAILED, 'self-check of the image failed'),
        (one_weight_nan, Reason.LOADING_FAILED, 'projector.fc1.weight'),
    ],
)
def test_a_checkpoint_that_would_move_the_robot_blindly(
    tiny_checkpoint: Path,
    tmp_path: Path,
    spoil: Callable[[dict[str, torch.Tensor]], None],
    reason: Reason,
    message: str,
) -> None:
    spoiled = tmp_path / 'spoiled'
    shutil.copytree(tiny_checkpoint, spoiled)
    [shard] = spoiled.glob('*.safetensors')
    weights = load_file(shard)
    spoil(weights)
    save_file(weights, shard, metadata={'format': 'pt'})
    with unstarted_node(load_policy, model=str(spoiled), device='cpu') as (stack, _):
        stack.wait_for_state(State.ERROR, reason, message)
        assert never_acted(stack)
        mended(stack, str(tiny_checkpoint))


@pytest.mark.parametrize(
    ('parameters', 'why'),
    [
        (['max_action_age_s:=0.5'], 'inference_timeout_s is 1, above max_action_age_s, 0.5'),
        (['image_transport:=smoke'], "image_transport is 'smoke'; allowed: raw, compressed"),
    ],
)
def test_parameters_that_can_not_be(parameters: list[str], why: str) -> None:
    with running_node('model:=scripted', *parameters) as running:
        stack = running.robot
        stack.wait_for_state(State.ERROR, Reason.INVALID_PARAMETER, why)
        name, value = (
            ('max_action_age_s', 1.5) if 'action' in parameters[0] else ('image_transport', 'raw')
        )
        assert stack.set_parameter_of_node(name, value).successful
        mended(stack)


# -- the process ends --------------------------------------------------------------------------


def test_a_hung_inference_ends_with_70_and_the_next_process_acts() -> None:
    with running_node('model:=scripted:hung@2', 'instruction:=go', *HANGS) as running:
        stack = started(running.robot)
        with stack.expects_hold(Reason.INFERENCE_OVERRUN, 0.2, 'inference_timeout_s, 0.2 s'):
            stack.see(noise())
        count = len(stack.actions)
        stack.wait_for_state(State.ERROR, Reason.POLICY_HUNG, 'hang_timeout_s, 0.4 s')
        assert running.ends() == 70
        assert len(stack.actions) == count
        running.start()
        stack.wait_for_state(State.HOLDING, Reason.NO_IMAGE_YET)
        stack.wait_until_heard()
        stack.recovers()
    assert 'Traceback' not in running.output


@pytest.mark.parametrize(('fault', 'code'), [('exit=3', 3), ('exit', -signal.SIGABRT)])
def test_a_native_crash_and_the_next_process_acts(fault: str, code: int) -> None:
    with running_node(f'model:=scripted:{fault}@2', 'instruction:=go') as running:
        stack = started(running.robot)
        stack.see(noise())
        assert running.ends() == code
        running.start()
        stack.wait_until_heard()
        stack.recovers()


def test_kill_9_and_the_next_process_acts() -> None:
    with running_node('model:=scripted', 'instruction:=go', program=FRESH) as running:
        stack = started(running.robot)
        running.process.kill()
        assert running.ends() == -signal.SIGKILL
        count = len(stack.actions)
        running.start()
        stack.wait_until_heard()
        stack.recovers()
        assert stack.actions[count].sequence == 1


def is_loading(running: Running) -> None:
    running.robot.wait_for_state(State.LOADING)


def is_warming_up(running: Running) -> None:
    running.robot.wait_for_state(State.WARMING_UP)


def is_inferring(running: Running) -> None:
    started(running.robot)
    running.robot.see(noise())
    running.robot.wait_for(lambda: running.robot.status.counters.in_flight == 1)


def is_late(running: Running) -> None:
    started(running.robot)
    with running.robot.expects_hold(Reason.INFERENCE_OVERRUN, within_s=1.0):
        running.robot.see(noise())


ENDINGS = {
    'loading': ('scripted:stuck@load', is_loading),
    'loading, hung': ('scripted:hung@load', is_loading),
    'warming up': ('scripted:stuck@warmup', is_warming_up),
    'warming up, hung': ('scripted:hung@warmup', is_warming_up),
    'inferring': ('scripted:slow=3@2', is_inferring),
    'inferring, hung': ('scripted:hung@2', is_late),
    'running': ('scripted', lambda running: started(running.robot)),
}


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('moment', ENDINGS)
def test_a_signal_ends_it_with_0(moment: str, sent: signal.Signals) -> None:
    script, comes = ENDINGS[moment]
    limits = PATIENT if comes is is_inferring else ()
    with running_node(f'model:={script}', *limits) as running:
        comes(running)
        count = len(running.robot.actions)
        running.process.send_signal(sent)
        running.process.send_signal(sent)  # as launch does after a terminal's Ctrl-C
        sent_s = time.monotonic()
        assert running.ends() == 0
        print(f'{moment}: ended after {time.monotonic() - sent_s:.2f} s; launch waits for 5 s')
        assert len(running.robot.actions) == count
    assert 'Traceback' not in running.output and 'ERROR' not in running.output


def threads_and_memory(running: Running) -> tuple[int, int]:
    """The node's threads, and its resident memory in kB."""
    status = Path(f'/proc/{running.process.pid}/status').read_text()
    fields = dict(line.split(':\t', 1) for line in status.splitlines() if ':\t' in line)
    return int(fields['Threads']), int(fields['VmRSS'].removesuffix(' kB'))


def test_configurations_with_changing_models_leave_nothing_behind(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from vla_ros.synthetic.random_checkpoint import write_random_checkpoint

    models = [str(tiny_checkpoint), str(write_random_checkpoint(tmp_path / 'two', seed=2))]
    parameters = ('model:=scripted', 'device:=cpu', 'frozen_image_timeout_s:=0.0')
    with running_node(*parameters, program=FRESH) as running:
        stack = started(running.robot)
        measured = []
        for turn in range(14):
            assert stack.transition(Transition.TRANSITION_DEACTIVATE)
            assert stack.transition(Transition.TRANSITION_CLEANUP)
            stack.wait_for_state(State.UNCONFIGURED)
            assert stack.set_parameter_of_node('model', models[turn % 2]).successful
            assert stack.transition(Transition.TRANSITION_CONFIGURE)
            stack.wait_for_state(State.READY)
            assert stack.transition(Transition.TRANSITION_ACTIVATE)
            started(stack)
            measured.append(threads_and_memory(running))
        threads, memory_kb = zip(*measured[4:], strict=True)
        assert threads[-1] <= threads[0]
        # An allocator takes some megabytes now and then: what leaks, leaks whenever the same model
        # is loaded, which is in every second turn.
        later_kb = zip(memory_kb, memory_kb[2:], strict=False)
        leaked_kb = statistics.median(after - before for before, after in later_kb)
        weights_kb = sum(f.stat().st_size for f in tiny_checkpoint.glob('*.safetensors')) / 1024
        print(f'{memory_kb} kB; the weights have {weights_kb:.0f} kB')
        assert leaked_kb < weights_kb / 10
    assert running.process.returncode == 0
