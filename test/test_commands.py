"""The commands as a person types them, against a real node."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, ROOT
from graph import running_node
from PIL import Image as PilImage

from vla_ros.msg import VlaStatus
from vla_ros.openvla import OpenVLAPolicy

GENEROUS = ('inference_timeout_s:=20.0', 'max_action_age_s:=20.0', 'max_image_age_s:=5.0')


def run(
    module: str, *arguments: str, timeout_s: float = 100.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-m', f'vla_ros.cli.{module}', *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def test_check_prints_the_action(tiny_checkpoint: Path) -> None:
    picture = GOLDEN / 'images' / 'portrait.png'
    parameters = [f'model:={tiny_checkpoint}', 'device:=cpu', 'dtype:=float32', *GENEROUS]
    with running_node(*parameters) as node:
        namespace = node.robot.get_namespace()
        checked = run(
            'check',
            *('--image', str(picture), '--instruction', 'open the drawer', '--timeout', '60'),
            *('--ros-args', '-r', f'__ns:={namespace}'),
        )
        assert checked.returncode == 0, checked.stderr
        policy = OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', dtype='float32')
        image = np.asarray(PilImage.open(picture).convert('RGB'))
        expected = policy.predict_action(image, 'open the drawer').action
        assert f'action             {np.round(expected, 5).tolist()}' in checked.stdout
        assert 'unnorm_key         random' in checked.stdout
        node.robot.wait_for_state(VlaStatus.HOLDING, 'no instruction')  # taken back

        refused = run(
            'check',
            *('--instruction', 'a </s> b', '--timeout', '8'),
            *('--ros-args', '-r', f'__ns:={namespace}'),
        )
        assert refused.returncode == 1
        assert "special token '</s>'" in refused.stderr


def test_check_speaks_compressed(tiny_checkpoint: Path) -> None:
    parameters = [f'model:={tiny_checkpoint}', 'image_transport:=compressed', *GENEROUS]
    with running_node(*parameters) as node:
        checked = run(
            'check', '--timeout', '60', '--ros-args', '-r', f'__ns:={node.robot.get_namespace()}'
        )
    assert checked.returncode == 0, checked.stderr
    assert 'unnorm_key         random' in checked.stdout


def test_check_tells_that_nobody_listens_to_its_picture() -> None:
    with running_node('model:=scripted', arguments=('-r', 'image:=camera/image')) as node:
        node.robot.wait_for_state(VlaStatus.HOLDING)
        namespace = node.robot.get_namespace()
        checked = run('check', '--ros-args', '-r', f'__ns:={namespace}')
        assert checked.returncode == 1
        assert f'nobody listens to {namespace}/image and' in checked.stderr
        remapped = run(
            'check', '--ros-args', '-r', f'__ns:={namespace}', '-r', 'image:=camera/image'
        )
        assert remapped.returncode == 0, remapped.stderr


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
def test_check_takes_the_instruction_back_when_interrupted(sent: signal.Signals) -> None:
    with running_node('model:=scripted:stuck') as node:
        node.robot.wait_for_state(VlaStatus.HOLDING)
        command = [sys.executable, '-m', 'vla_ros.cli.check', '--ros-args']
        command += ['-r', f'__ns:={node.robot.get_namespace()}']
        check = subprocess.Popen(command, cwd=ROOT)
        node.robot.wait_for(lambda: node.robot.status.instruction == 'pick up the cup')
        check.send_signal(sent)
        assert check.wait(20) == 130
        node.robot.wait_for(lambda: node.robot.status.instruction == '')


def test_check_tells_why_there_is_no_action() -> None:
    with running_node('model:=/nowhere/openvla') as node:
        checked = run('check', '--ros-args', '-r', f'__ns:={node.robot.get_namespace()}')
    assert checked.returncode == 1
    assert "ERROR: model '/nowhere/openvla' is not a folder" in checked.stderr
    assert 'Traceback' not in checked.stderr


def test_check_without_a_node() -> None:
    checked = run('check', '--timeout', '1', '--ros-args', '-r', '__ns:=/nobody')
    assert checked.returncode == 1
    assert 'no action within 1 s; nothing was heard on /nobody/status' in checked.stderr
    assert 'waiting for the node' in checked.stdout


@pytest.mark.parametrize('name', ['nothing.jpg', 'fakes.py'])
def test_check_with_what_is_no_picture(name: str) -> None:
    checked = run('check', '--image', str(ROOT / 'test' / name))
    assert checked.returncode == 1
    assert f'{name} can not be read as a picture' in checked.stderr
    assert 'Traceback' not in checked.stderr


def test_the_demo_without_a_simulation_prints_twenty_actions(tmp_path: Path) -> None:
    """MuJoCo is told to draw in a way that there is not."""
    view = tmp_path / 'view.png'
    demo = run('demo', '--view', str(view), timeout_s=200, MUJOCO_GL='nothing')
    assert 'MuJoCo cannot draw here' in demo.stdout
    assert demo.returncode == 0, demo.stderr
    instructions = ('pick up the red cup', 'open the drawer', 'move the bowl to the left')
    rows = [
        re.match(r' *\d+ ([a-z ]+?) +([+-]\d\.\d{4} ?){7}', line)
        for line in demo.stdout.splitlines()
    ]
    heard = [row[1] for row in rows if row]
    assert len(heard) == 20
    assert set(heard) == set(instructions)
    assert '20 actions' in demo.stdout
    assert 'received = ' in demo.stdout
    with PilImage.open(view) as picture:
        assert (picture.format, picture.mode, picture.size) == ('PNG', 'RGB', (936, 572))


def test_checkpoint_and_camera_refuse_clearly(tmp_path: Path) -> None:
    written = run('checkpoint', str(tmp_path / 'new'), '--seed', '3')
    assert written.returncode == 0
    assert (tmp_path / 'new' / 'model.safetensors.index.json').is_file()
    (tmp_path / 'file').write_text('')
    refused = run('checkpoint', str(tmp_path / 'file' / 'below'))
    assert refused.returncode != 0
    assert 'Traceback' not in refused.stderr
    refused = run('camera', os.devnull)
    assert refused.returncode == 1
    assert 'can not be read as a picture' in refused.stderr
    assert 'Traceback' not in refused.stderr
