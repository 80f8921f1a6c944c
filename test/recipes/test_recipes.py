# SPDX-License-Identifier: Apache-2.0
"""The recipes' dry runs: the launch file of the page, a fake controller, and a node between them.

Each plays the command of its page for a machine without robot and weights. The contract is also
compared with a tiny checkpoint that has the statistics of the recipe's data set.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from std_srvs.srv import SetBool

from support.graph import Robot, Running, running_node
from support.launch_files import Made, command_line, install_stand_ins, started_by
from support.places import ROOT
from support.recipes import (
    RECIPES,
    Aloha,
    ServoArm,
    cameras,
    commands,
    launch_file,
    tiny,
    without_robot,
)
from support.servo import COMMAND_TIMEOUT_S
from vla_ros.motion import describe, load_contracts
from vla_ros.parameters.definition import DEFINITIONS
from vla_ros.parameters.overrides import read_parameter_file
from vla_ros.policies.registry import inspect
from vla_ros.policy_request import PolicyRequest
from vla_ros.reasons import State

CONFIG = ROOT / 'config' / 'recipes'
SLACK_M = 0.005  # what the fake arm adds up by its own clock
RATE_HZ = DEFINITIONS['control_rate_hz'].default
# On a busy machine.
PATIENT = {'inference_timeout_s': '5.0', 'max_action_age_s': '5.0'}


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    install_stand_ins(monkeypatch, ROOT)


def parameters_of(recipe: str) -> dict[str, Any]:
    return read_parameter_file(CONFIG / f'{recipe}.yaml', '/vla')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns a tiny checkpoint like the recipe's."""
    return functools.cache(lambda recipe: tiny(recipe, tmp_path_factory.mktemp(recipe) / 'tiny'))


@contextmanager
def dry_run(recipe: str, folder: Path) -> Iterator[tuple[Running, Made]]:
    """The node as the recipe starts it; it holds until it is enabled."""
    node = started_by(launch_file(recipe), without_robot(recipe) | PATIENT)
    with running_node(arguments=tuple(command_line(node, folder))) as running:
        running.robot.wait_for(lambda: bool(running.robot.instructions.get_subscription_count()))
        yield running, node
    assert 'Traceback' not in running.output
    assert running.process.returncode == 0


def enabled(stack: Robot, rests: Callable[[], bool]) -> None:
    """Instruct and enable it: before, nothing moves."""
    stack.wait_for_state(State.HOLDING, timeout_s=240.0)
    stack.instruct('put the carrot on the plate')
    stack.wait_for_state(State.HOLDING, 'enable')
    assert rests()
    stack.ask(SetBool, 'vla/enable', SetBool.Request(data=True))


# -- with a servo ------------------------------------------------------------------------------


@pytest.mark.parametrize('recipe', ['widowx', 'franka'])
def test_a_servo_hears_twists_in_its_rules(recipe: str, tmp_path: Path) -> None:
    parameters = parameters_of(recipe)
    box = np.array(parameters['workspace_m'].split(','), np.float64).reshape(3, 2)
    with dry_run(recipe, tmp_path) as (running, node):
        stack, topics = running.robot, dict(node.named['remappings'])
        arm = ServoArm(stack, topics['twist'], parameters['frame_id'], at=box.mean(axis=1))
        with cameras(stack, [topics['image']]):
            enabled(stack, lambda: not arm.heard)
            stack.wait_for(lambda: len(arm.heard) > 50 and len(stack.actions) >= 4)
            stack.instruct('')
            stack.wait_for(lambda: not arm.moves)
    stamps_s, twists = arm.within(0, np.inf)
    moving = twists.any(axis=1)
    assert arm.frames == {parameters['frame_id']} and set(arm.grippers) <= {0.0, 1.0}
    speed = np.linalg.norm(twists.reshape(-1, 2, 3), axis=2).max(axis=0)
    limits = parameters['max_linear_speed_m_s'], parameters['max_angular_speed_rad_s']
    assert (speed > 0).all() and (speed <= np.array(limits) * (1 + 1e-9)).all()
    gaps_s = np.diff(stamps_s)[moving[1:] & moving[:-1]]
    assert 0.9 / RATE_HZ < np.median(gaps_s) < COMMAND_TIMEOUT_S
    places = np.array(arm.places)
    assert (places >= box[:, 0] - SLACK_M).all() and (places <= box[:, 1] + SLACK_M).all()
    means(stack, load_contracts()[parameters['unnorm_key']])


def means(stack: Robot, contract: Any) -> None:
    """The contract says what the actions mean."""
    for action in stack.actions:
        assert action.unnorm_key == contract.unnorm_key
        assert tuple(action.names) == contract.columns
        assert action.action_space == contract.action_space


# -- with joints -------------------------------------------------------------------------------


def test_controllers_of_joints_hear_positions_in_their_rules(tmp_path: Path) -> None:
    parameters = parameters_of('aloha')
    contract: Any = load_contracts(CONFIG / 'aloha_contracts.yaml')[parameters['unnorm_key']]
    with dry_run('aloha', tmp_path) as (running, node):
        stack, topics = running.robot, dict(node.named['remappings'])
        aloha = Aloha(stack, topics, contract)
        images = [topic for name, topic in topics.items() if name.endswith('image')]
        with cameras(stack, images):
            enabled(stack, lambda: not any(arm.heard for arm in aloha.arms))
            stack.wait_for(lambda: all(arm.heard > 50 for arm in aloha.arms))
            stack.instruct('')
            stack.wait_for(lambda: all(arm.hardware.rests for arm in aloha.arms))
    for arm in aloha.arms:
        assert not arm.hardware.complaints
        begins_s, ends_s = arm.times_s
        allowed_rad = parameters['max_joint_speed_rad_s'] * (ends_s - begins_s + 0.5)
        assert (arm.way_rad > 0).all() and (arm.way_rad <= allowed_rad).all()
    assert all(set(heard) <= {0.0, 1.0} for heard in aloha.grippers.values())
    assert {len(action.actions) for action in stack.actions} == {25 * 14}
    means(stack, contract)


# -- what the files say ------------------------------------------------------------------------


def test_every_recipe_has_its_files() -> None:
    assert RECIPES == ['aloha', 'franka', 'widowx']
    files = {file.name.partition('.')[0] for file in (ROOT / 'launch' / 'recipes').iterdir()}
    assert files == {*RECIPES} == {f.stem for f in CONFIG.glob('*.yaml')} - {'aloha_contracts'}


@pytest.mark.parametrize('recipe', RECIPES)
def test_every_command_of_a_page_starts_the_node(recipe: str) -> None:
    """The launch file refuses arguments that are unknown, and values that are not allowed."""
    found = commands(recipe)
    assert len(found) >= 2
    for arguments in found:
        node = started_by(launch_file(recipe), arguments)
        file, overrides = node.named['parameters']
        assert Path(file) == CONFIG / f'{recipe}.yaml' or 'params_file' in arguments
        assert overrides.keys() <= DEFINITIONS.keys()


def test_a_misspelt_argument_stops_the_launch() -> None:
    with pytest.raises(RuntimeError, match=r'quantisation \(did you mean quantization\?\)'):
        started_by(launch_file('widowx'), {'quantisation': 'int8'})


def test_an_argument_takes_the_place_of_the_recipes() -> None:
    node = started_by(launch_file('widowx'), {'image': '/mine', 'tool_frame': 'none'})
    assert ('image', '/mine') in node.named['remappings']
    assert 'tool_frame' not in node.named['parameters'][1]


@pytest.mark.parametrize('recipe', RECIPES)
def test_a_recipe_sets_what_differs_and_says_why(recipe: str) -> None:
    text = (CONFIG / f'{recipe}.yaml').read_text()
    parameters = yaml.safe_load(text)['/**']['ros__parameters']
    for name, value in parameters.items():
        default = DEFINITIONS[name].default
        assert (tuple(value) if isinstance(value, list) else value) != default, name
    blocks = re.split(r'\n\n', text.partition('ros__parameters:\n')[2].strip('\n'))
    assert all(block.lstrip().startswith('#') for block in blocks)


@pytest.mark.parametrize('recipe', RECIPES)
def test_the_contract_fits_a_checkpoint_of_the_data_set(recipe: str, checkpoint: Any) -> None:
    parameters = parameters_of(recipe) | {'model': str(checkpoint(recipe)), 'device': 'cpu'}
    inspection: Any = inspect(PolicyRequest.of(parameters))
    key = parameters['unnorm_key']
    own = CONFIG / f'{recipe}_contracts.yaml'
    contract: Any = load_contracts(own if own.is_file() else None)[key]
    spec = inspection.spec(inspection.key(key))
    assert describe(spec, contract).names == contract.columns


def test_the_contract_of_aloha_is_the_shipped_one_with_limits() -> None:
    key = parameters_of('aloha')['unnorm_key']
    shipped: Any = load_contracts()[key]
    own: Any = load_contracts(CONFIG / 'aloha_contracts.yaml')[key]
    assert not shipped.limits
    assert {name for name, _ in own.limits} == {*own.joints} - {*own.grippers}
    for name in ('robot', 'period_s', 'joints', 'grippers', 'radians_per_unit', 'center_crop'):
        assert getattr(own, name) == getattr(shipped, name)
    assert (own.gripper_closed, own.gripper_open) == (shipped.gripper_closed, shipped.gripper_open)
    assert own.state == shipped.state
