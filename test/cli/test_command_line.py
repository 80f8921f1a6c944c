# SPDX-License-Identifier: Apache-2.0
"""The commands as the operator types them, against a real node."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image

from support.commands import PIPES, STOPPABLE, running_python
from support.fakes import wait_until
from support.graph import PATIENCE_S, Running, robot, running_node
from support.places import GOLDEN, ROOT
from vla_ros.cli import checkpoint
from vla_ros.console import END_SIGNALS
from vla_ros.msg import VlaStatus
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.reasons import Reason, State

SHORT = ('image_timeout_s:=0.3',)  # so that its state changes again and again
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
        node.robot.wait_for_state(State.HOLDING, Reason.NO_INSTRUCTION)  # taken back

        refused = run(
            'check',
            *('--instruction', 'a </s> b', '--timeout', '90'),
            *('--ros-args', '-r', f'__ns:={namespace}'),
        )
        assert refused.returncode == 1
        assert 'the node rejected the instruction: ' in refused.stderr
        assert "special token '</s>'" in refused.stderr


def test_check_speaks_compressed() -> None:
    parameters = ['model:=scripted', 'unnorm_key:=random', 'image_transport:=compressed']
    with running_node(*parameters) as node:
        checked = run(
            'check', '--timeout', '60', '--ros-args', '-r', f'__ns:={node.robot.get_namespace()}'
        )
    assert checked.returncode == 0, checked.stderr
    assert 'unnorm_key         random' in checked.stdout


@pytest.mark.parametrize(
    ('state', 'parameters', 'parts'),
    [
        ('3', (), ['state: a robot at rest on {}/state']),
        (
            '8',
            ('unnorm_key:=libero_goal', 'frame_id:=panda_link0'),
            [
                'joint_states: a robot at rest on {}/joint_states',
                'ee_pose: a robot at rest on {}/ee_pose',
            ],
        ),
    ],
    ids=['the whole state', 'a state by the contract'],
)
def test_check_shows_several_cameras_and_a_state(
    state: str, parameters: tuple[str, ...], parts: list[str]
) -> None:
    with running_node(f'model:=scripted:cameras=2,state={state}', *parameters) as node:
        namespace = node.robot.get_namespace()
        frame = ('--frame-id', 'panda_link0')
        checked = run('check', '--timeout', '60', *frame, '--ros-args', '-r', f'__ns:={namespace}')
    assert checked.returncode == 0, checked.stderr
    cameras = [f'{name}: an image on {{}}/{name}/image' for name in ('camera_1', 'camera_2')]
    for part in (*cameras, *parts):
        assert part.format(namespace) in checked.stdout


@pytest.mark.parametrize('named', ['camera/image', 'camera/image/compressed'])
def test_check_speaks_compressed_where_the_camera_is_remapped(named: str) -> None:
    """A remapping of the images moves the compressed ones along, for node and command."""
    remapped = ('-r', f'image:={named}')
    parameters = ['model:=scripted', 'unnorm_key:=random', 'image_transport:=compressed']
    with running_node(*parameters, arguments=remapped) as node:
        node.robot.wait_for_state(State.HOLDING)
        namespace = node.robot.get_namespace()
        checked = run(
            'check', '--timeout', '60', '--ros-args', '-r', f'__ns:={namespace}', *remapped
        )
    assert checked.returncode == 0, checked.stderr


def test_check_tells_that_nobody_listens_to_its_picture() -> None:
    with running_node('model:=scripted', arguments=('-r', 'image:=camera/image')) as node:
        node.robot.wait_for_state(State.HOLDING)
        namespace = node.robot.get_namespace()
        checked = run('check', '--ros-args', '-r', f'__ns:={namespace}')
        assert checked.returncode == 1
        assert f'no subscriber on {namespace}/image and' in checked.stderr
        remapped = run(
            'check', '--ros-args', '-r', f'__ns:={namespace}', '-r', 'image:=camera/image'
        )
        assert remapped.returncode == 0, remapped.stderr


INTERRUPTED_IMPORT = """
import os, signal, sys
from vla_ros.cli import {command}
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.exit({command}.main({arguments!r}))
"""


@pytest.mark.parametrize(
    ('command', 'module', 'code'),
    [
        ('camera', 'rclpy', 0),
        ('camera', 'vla_ros.demo.file_camera', 0),
        ('simulation', 'rclpy', 130),
        ('simulation', 'mujoco', 130),
    ],
)
def test_ctrl_c_during_an_import_is_no_traceback(command: str, module: str, code: int) -> None:
    picture = GOLDEN / 'images' / 'portrait.png'
    arguments = [str(picture)] if command == 'camera' else []
    script = INTERRUPTED_IMPORT.format(command=command, module=module, arguments=arguments)
    process = [sys.executable, '-c', script]
    ended = subprocess.run(process, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code, ended.stderr
    assert 'Traceback' not in ended.stderr and 'Error' not in ended.stderr


def test_ctrl_c_while_images_are_published_is_no_traceback() -> None:
    picture = GOLDEN / 'images' / 'portrait.png'
    seen: list[Image] = []
    with robot('/interrupted') as stack:
        stack.create_subscription(Image, 'image', seen.append, 1)
        command = ['-m', 'vla_ros.cli.camera', str(picture), '--rate', '200']
        command += ['--ros-args', '-r', '__ns:=/interrupted']
        with running_python(*command, **PIPES) as camera:
            stack.wait_for(lambda: len(seen) > 3)
            camera.send_signal(signal.SIGINT)
            camera.send_signal(signal.SIGINT)
            _, told = camera.communicate(timeout=30)
    # Processes that other tests killed may have left something to tell of.
    unexpected = [line for line in told.splitlines() if 'shared-memory segments' not in line]
    assert (camera.returncode, unexpected) == (0, [])


INSTRUCTION = 'pick up the cup'  # unless another one is given


@contextlib.contextmanager
def checking(node: Running, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """``vla_check`` against a node that gives no action, once its instruction is in force."""
    node.robot.wait_for_state(State.HOLDING)
    command = ['-m', 'vla_ros.cli.check', '--ros-args']
    command += ['-r', f'__ns:={node.robot.get_namespace()}']
    with running_python(*command, **{**PIPES, **options}) as check:
        node.robot.wait_for(lambda: node.robot.status.instruction == INSTRUCTION)
        yield check


def is_taken_back(node: Running) -> bool:
    node.robot.wait_for(lambda: node.robot.status.instruction == '')
    return True


def children_of(process: subprocess.Popen[str], module: str) -> list[int]:
    """Those that run a module whose name begins so."""
    found = []
    for pid in Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split():
        with contextlib.suppress(OSError):  # it ended meanwhile
            words = Path(f'/proc/{pid}/cmdline').read_text().split('\0')
            found += [int(pid)] if any(word.startswith(module) for word in words) else []
    return found


def heirs_of(check: subprocess.Popen[str]) -> list[int]:
    """The process that takes over when it dies."""
    return children_of(check, 'vla_ros.client.heir')


@pytest.mark.parametrize('sent', END_SIGNALS)
def test_check_takes_the_instruction_back_when_a_signal_ends_it(sent: signal.Signals) -> None:
    with running_node('model:=scripted:stuck') as node, checking(node) as check:
        [heir] = heirs_of(check)
        check.send_signal(sent)
        check.send_signal(sent)
        assert check.wait(20) == 130
        assert node.robot.status.instruction == ''  # it waited for that
        assert not Path(f'/proc/{heir}').exists()


def test_check_takes_the_instruction_back_when_it_is_killed() -> None:
    """Another process does."""
    with running_node('model:=scripted:stuck') as node, checking(node) as check:
        check.kill()
        assert check.wait(20) == -signal.SIGKILL
        assert is_taken_back(node)
        assert check.stderr is not None  # which the other process has, too
        assert 'its instruction was taken back' in check.stderr.read()


def test_check_takes_the_instruction_back_when_nobody_reads_its_output() -> None:
    with running_node('model:=scripted:stuck', *SHORT) as node, checking(node) as check:
        assert check.stdout is not None
        check.stdout.close()
        assert check.wait(20) == 141
        assert node.robot.status.instruction == ''
        assert check.stderr is not None
        assert check.stderr.read() == ''


def test_check_takes_the_instruction_back_when_its_terminal_goes_away() -> None:
    ours, its = os.openpty()
    streams = {'stdin': its, 'stdout': its, 'stderr': its, 'start_new_session': True}
    streams['preexec_fn'] = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    with running_node('model:=scripted:stuck') as node, checking(node, **streams) as check:
        os.close(its)
        os.close(ours)
        check.wait(20)
        assert node.robot.status.instruction == ''


def test_check_says_that_the_node_may_not_have_heard_the_end() -> None:
    stuck = running_node('model:=scripted:stuck', environment=STOPPABLE)
    with stuck as node, checking(node) as check:
        node.process.send_signal(signal.SIGSTOP)
        check.send_signal(signal.SIGINT)
        code = check.wait(20)
        node.process.send_signal(signal.SIGCONT)
        assert code == 1
        assert is_taken_back(node)
        assert check.stderr is not None
        assert 'did not confirm an empty instruction on' in check.stderr.read()


def test_check_renews_its_instruction_and_without_it_the_node_holds() -> None:
    """Where nothing is left of it, as on a machine that lost its power."""
    limits = ('max_instruction_age_s:=6.0', 'inference_timeout_s:=60.0', 'max_action_age_s:=60.0')
    with running_node('model:=scripted:stuck', *limits) as node, checking(node) as check:
        time.sleep(9.0)
        assert node.robot.status.instruction == INSTRUCTION
        for pid in [*heirs_of(check), check.pid]:
            os.kill(pid, signal.SIGKILL)
        node.robot.wait_for_state(State.HOLDING, Reason.INSTRUCTION_EXPIRED)


def test_a_heir_leaves_the_instruction_of_somebody_else_alone() -> None:
    stuck = running_node('model:=scripted:stuck')
    with stuck as node, checking(node, environment=STOPPABLE) as check:
        check.send_signal(signal.SIGSTOP)  # it renews its own no longer
        node.robot.say('open the drawer')
        node.robot.wait_for(lambda: node.robot.status.instruction == 'open the drawer')
        [heir] = heirs_of(check)
        check.kill()
        check.wait(20)
        # It looks for the node for 20 s at most.
        wait_until(lambda: not Path(f'/proc/{heir}').exists(), timeout_s=60.0)
        assert node.robot.status.instruction == 'open the drawer'


EVIL = 'one\x1b[2J\x1b]0;two\x07\rthree\nfour\u202efive\u200b' + 'x' * 5000
RAW = re.compile('[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e]')


@pytest.mark.parametrize('state', [State.ERROR, State.LOADING, 200])
def test_check_prints_no_control_characters_of_others(state: int) -> None:
    with robot('/evil') as stack:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        statuses = stack.create_publisher(VlaStatus, 'status', latched)
        stack.create_timer(
            0.1, lambda: statuses.publish(VlaStatus(state=state, message=EVIL, instruction=EVIL))
        )
        checked = run('check', '--timeout', '4', '--ros-args', '-r', '__ns:=/evil')
    printed = checked.stdout + checked.stderr
    assert checked.returncode == 1
    assert 'three' in printed and 'two' in printed
    assert not RAW.search(printed)
    assert max(map(len, printed.splitlines())) < 2500


def test_check_tells_why_there_is_no_action() -> None:
    with running_node('model:=scripted:explode') as node:
        checked = run('check', '--ros-args', '-r', f'__ns:={node.robot.get_namespace()}')
    assert checked.returncode == 1
    assert "ERROR: model 'scripted:explode'" in checked.stderr
    assert 'Traceback' not in checked.stderr


def test_check_without_a_node() -> None:
    checked = run('check', '--timeout', '1', '--ros-args', '-r', '__ns:=/nobody')
    assert checked.returncode == 1
    assert 'no action within 1 s; nothing was heard on /nobody/status' in checked.stderr
    assert 'waiting for the node' in checked.stdout


@pytest.mark.parametrize(
    ('name', 'why'),
    [
        ('nothing.jpg', 'nothing.jpg does not exist'),
        ('conftest.py', 'conftest.py cannot be read as an image'),
    ],
)
def test_check_with_what_is_no_picture(name: str, why: str) -> None:
    checked = run('check', '--image', str(ROOT / 'test' / name))
    assert checked.returncode == 1
    assert why in checked.stderr
    assert 'Traceback' not in checked.stderr


BESIDE = {  # commands with processes of their own
    'bench': ('scripted:slow=0.05', '--pipeline', '--seconds', '60'),
    'eval': ('--model', 'scripted', '--episodes', '100'),
    'demo': ('--photographs', '--actions', '100000', '--timeout', '900'),
}


@pytest.mark.parametrize(
    ('name', 'sent'),
    [('bench', signal.SIGTERM), ('eval', signal.SIGHUP), ('demo', signal.SIGTERM)],
)
def test_a_command_with_a_node_of_its_own_ends_it_with_itself(
    name: str, sent: signal.Signals
) -> None:
    streams = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.PIPE}
    with running_python('-m', f'vla_ros.cli.{name}', *BESIDE[name], **streams) as process:
        wait_until(lambda: bool(children_of(process, 'vla_ros.cli.node')), timeout_s=PATIENCE_S)
        children = children_of(process, 'vla_ros.cli.')
        process.send_signal(sent)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert not [pid for pid in children if Path(f'/proc/{pid}').exists()]


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


def test_checkpoint_and_camera_refuse_clearly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = run('checkpoint', str(tmp_path / 'new'), '--seed', '3')
    assert written.returncode == 0
    assert (tmp_path / 'new' / 'model.safetensors.index.json').is_file()
    (tmp_path / 'file').write_text('')
    assert checkpoint.main([str(tmp_path / 'file' / 'below')]) == 1
    assert 'cannot be written' in capsys.readouterr().err
    refused = run('camera', os.devnull)
    assert refused.returncode == 1
    assert f'{os.devnull} is a device; expected a regular file' in refused.stderr
    assert 'Traceback' not in refused.stderr
