# SPDX-License-Identifier: Apache-2.0
"""What goes wrong through the folder of a checkpoint, injected through the real node."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from lifecycle_msgs.msg import Transition
from safetensors.torch import load_file, save_file

from support.graph import UNDER_WAY_S, CameraThread, Robot, running_node
from support.nodes import PATIENT, mended, never_acted, started
from vla_ros.reasons import Reason, State

CHANGED = Reason.CHECKPOINT_CHANGED


def ends_for_good(stack: Robot, message: str) -> None:
    """The node says ERROR, and what it has under way or in its slots becomes no action."""
    stack.wait_for_state(State.ERROR, CHANGED, message)
    time.sleep(UNDER_WAY_S)
    acted = len(stack.actions)
    stack.see()
    time.sleep(UNDER_WAY_S)
    assert len(stack.actions) == acted
    assert stack.status.state == State.ERROR
    assert stack.lifecycle_state() == 'unconfigured'


def zero_the_projector_in_place(shard: Path) -> None:
    """Parameters are the mapped file: without a watch the node would act blindly from now on."""
    weights = load_file(shard)
    for name in weights:
        if name.startswith('projector.'):
            weights[name].zero_()
    save_file(weights, shard.with_suffix('.new'), metadata={'format': 'pt'})
    with shard.open('r+b') as file:
        file.write(shard.with_suffix('.new').read_bytes())


def test_a_checkpoint_that_changes_on_the_disk(tiny_checkpoint: Path, tmp_path: Path) -> None:
    first, second = (
        Path(shutil.copytree(tiny_checkpoint, tmp_path / name)) for name in ('first', 'second')
    )
    [shard] = first.glob('*.safetensors')
    with running_node(f'model:={first}', 'device:=cpu', *PATIENT) as running:
        stack = started(running.robot)
        with CameraThread(stack):
            acted = len(stack.actions)
            stack.wait_for(lambda: len(stack.actions) > acted)
            zero_the_projector_in_place(shard)
            ends_for_good(stack, f'{shard} was overwritten in place')
        mended(stack, str(second))
        (second / 'config.json').unlink()  # no picture comes: it is looked at once a second
        ends_for_good(stack, f'{second / "config.json"} was deleted')
        mended(stack, str(tiny_checkpoint))
    assert running.process.returncode == 0


def test_the_first_action_that_may_be_of_another_checkpoint_is_dropped() -> None:
    with running_node('model:=scripted:changed@3', *PATIENT) as running:
        stack = started(running.robot)
        with CameraThread(stack):
            ends_for_good(stack, 'changed@3 at call 3')
        assert len(stack.actions) == 2
    assert running.process.returncode == 0


def test_a_folder_of_another_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Its weights alone would load, pass the self-check, and move the robot."""
    oft, adapter = (
        Path(shutil.copytree(tiny_checkpoint, tmp_path / name)) for name in ('oft', 'adapter')
    )
    head = oft / 'action_head--150000_checkpoint.pt'
    head.touch()
    (adapter / 'lora_adapter').mkdir()
    (adapter / 'lora_adapter' / 'adapter_config.json').write_text('{}')
    with running_node(f'model:={oft}', 'device:=cpu', *PATIENT) as running:
        stack = running.robot
        failed = Reason.LOADING_FAILED
        stack.wait_for_state(
            State.ERROR, failed, f'{oft} is an OpenVLA-OFT folder: it has {head.name}'
        )
        assert stack.set_parameter_of_node('model', str(adapter)).successful
        assert stack.transition(Transition.TRANSITION_CONFIGURE)
        stack.wait_for_state(
            State.ERROR, failed, f'{adapter} has an adapter beside its weights: lora_adapter'
        )
        assert never_acted(stack)
        mended(stack, str(tiny_checkpoint))
    assert running.process.returncode == 0
