# SPDX-License-Identifier: Apache-2.0
"""LIBERO's worlds, against a LIBERO that writes down what it is asked to do.

It has the signatures of Lifelong-Robot-Learning/LIBERO 8f1084e: libero/libero/benchmark/__init__.py
and libero/libero/envs/env_wrapper.py. What is expected is what openvla/openvla c8f03f4 does:
experiments/robot/libero/run_libero_eval.py and libero_utils.py, experiments/robot/robot_utils.py.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from support.forked import running_forked
from support.places import GOLDEN
from vla_ros.cli.eval import main
from vla_ros.motion import load_contracts
from vla_ros.openvla.preprocessing import (
    Preprocessing,
    center_cropped,
    jpeg_round_trip,
    lanczos3_resized,
)
from vla_ros.policies import PolicyRequest, center_crop, load_policy
from vla_ros.scripted.policy import spec_of
from vla_ros.scripted.script import Options
from vla_ros.simulation import WORLDS, BlocksWorld, LiberoWorld, SimulationError, make_world
from vla_ros.simulation.libero import SUITES
from vla_ros.types import PolicyError, Prediction

DUMMY = [0, 0, 0, 0, 0, 0, -1]
NOTHING = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
STARTS = 50  # of a task

BOWL, DRAWER, SHARED = 'put the bowl on the plate', 'open the drawer', 'turn on the stove'
LANGUAGES = (BOWL, SHARED, DRAWER, SHARED)


class Task(NamedTuple):
    name: str
    language: str
    problem: str
    problem_folder: str
    bddl_file: str
    init_states_file: str


class OffScreenRenderEnv:
    """Writes into ``calls``. Its task is done by an action that lifts."""

    calls: list[tuple[Any, ...]]

    def __init__(self, **kwargs: Any) -> None:
        assert Path(kwargs['bddl_file_name']).parts[0] == 'bddl', 'there is no such file'
        self.calls.append(('make', kwargs))
        self._done_steps = 0
        size = kwargs['camera_heights'], kwargs['camera_widths'], 3
        self._picture = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)

    def seed(self, seed: int) -> None:
        self.calls.append(('seed', seed))

    def reset(self) -> dict[str, Any]:
        self.calls.append(('reset',))
        return self._observations()

    def set_init_state(self, init_state: NDArray[np.float64]) -> dict[str, Any]:
        self.calls.append(('start', tuple(init_state)))
        return self._observations()

    def step(self, action: list[float]) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        assert isinstance(action, list) and len(action) == 7
        self.calls.append(('step', action))
        self._picture[0, 0] = self._done_steps = self._done_steps + 1
        done = action[2] > 0
        return self._observations(), float(done), done, {}

    def close(self) -> None:
        self.calls.append(('close',))

    def _observations(self) -> dict[str, Any]:
        return {
            'agentview_image': self._picture,
            'robot0_eye_in_hand_image': 255 - self._picture,
            'robot0_eef_pos': np.array([0.1, 0.2, 0.3]),
            'robot0_eef_quat': np.array([0.6, 0.0, 0.0, -0.8]),  # x, y, z, w
            'robot0_gripper_qpos': np.array([0.02, -0.03]),
        }


class Benchmark:
    """A suite of the tasks in LANGUAGES; a start tells its task and its number."""

    def __init__(self, task_order_index: int = 0) -> None:
        print('[info] using task orders')
        self.n_tasks = len(LANGUAGES)

    def get_task(self, i: int) -> Task:
        name = f'SCENE{i}_{LANGUAGES[i].replace(" ", "_")}'
        return Task(name, LANGUAGES[i], 'Libero', 'suite', f'{name}.bddl', f'{name}.pruned_init')

    def get_task_bddl_file_path(self, i: int) -> str:
        return f'bddl/suite/{self.get_task(i).bddl_file}'

    def get_task_init_states(self, i: int) -> NDArray[np.float64]:
        return np.array([[i, number] for number in range(STARTS)], dtype=np.float64)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Puts LIBERO there; what its environments are asked to do."""
    names = ('libero', 'libero.libero', 'libero.libero.benchmark', 'libero.libero.envs')
    modules: dict[str, Any] = {name: ModuleType(name) for name in names}
    suites = dict.fromkeys(SUITES, Benchmark)
    modules['libero.libero.benchmark'].get_benchmark_dict = lambda help=False: suites
    modules['libero.libero.envs'].OffScreenRenderEnv = OffScreenRenderEnv
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(OffScreenRenderEnv, 'calls', calls, raising=False)
    return calls


def named(calls: list[tuple[Any, ...]], name: str) -> list[Any]:
    return [call[1] if call[1:] else None for call in calls if call[0] == name]


# --- A start --------------------------------------------------------------------------------------


def test_an_episode_begins_as_the_references_does(calls: list[tuple[Any, ...]]) -> None:
    with LiberoWorld('libero_spatial') as world:
        observation = world.reset(0, BOWL)
        name = 'SCENE0_put_the_bowl_on_the_plate'
        assert calls == [
            (
                'make',
                {
                    'bddl_file_name': f'bddl/suite/{name}.bddl',
                    'camera_heights': 256,
                    'camera_widths': 256,
                },
            ),
            ('seed', 0),
            ('reset',),
            ('start', (0.0, 0.0)),
            *[('step', DUMMY)] * 10,
        ]
        assert observation.instruction == BOWL and observation.stamp_ns == 0
        assert world.step(NOTHING).stamp_ns == 50_000_000


def test_the_seed_is_the_start(calls: list[tuple[Any, ...]]) -> None:
    with LiberoWorld('libero_goal') as world:
        for seed in (0, 49, 50, 53):
            world.reset(seed, DRAWER)
    assert named(calls, 'start') == [(2.0, 0.0), (2.0, 49.0), (2.0, 0.0), (2.0, 3.0)]
    assert named(calls, 'seed') == [0, 49, 50, 53]


def test_tasks_with_one_instruction_take_turns(calls: list[tuple[Any, ...]]) -> None:
    with LiberoWorld('libero_90') as world:
        assert world.instructions == (BOWL, SHARED, DRAWER)
        for seed in (0, 1, 2, 3, 2 * STARTS):
            world.reset(seed, SHARED)
    assert named(calls, 'start') == [(1.0, 0.0), (3.0, 0.0), (1.0, 1.0), (3.0, 1.0), (1.0, 0.0)]


def test_each_episode_has_an_environment_of_its_own(calls: list[tuple[Any, ...]]) -> None:
    """LIBERO's draws more random numbers at every reset, where there are drawers and stoves."""
    with LiberoWorld('libero_10') as world:
        for instruction in (BOWL, BOWL, DRAWER):
            world.reset(0, instruction)
    opened = [call[0] for call in calls if call[0] in ('make', 'close')]
    assert opened == ['make', 'close'] * 3
    world.close()
    assert len(named(calls, 'close')) == 3
    with pytest.raises(PolicyError, match='no episode has begun'):
        world.step(NOTHING)


@pytest.mark.parametrize(
    ('suite', 'max_steps'),
    [
        ('libero_spatial', 220),
        ('libero_object', 280),
        ('libero_goal', 300),
        ('libero_10', 520),
        ('libero_90', 400),
    ],
)
@pytest.mark.usefixtures('calls')
def test_a_suite_has_its_steps_and_its_contract(suite: str, max_steps: int) -> None:
    world = LiberoWorld(suite)
    assert (world.max_steps, world.contract) == (max_steps, load_contracts()[suite])
    assert world.contract.period_s == 1 / 20


# --- An action ------------------------------------------------------------------------------------


def as_the_reference(action: NDArray[np.float64]) -> list[float]:
    """normalize_gripper_action with binarize, then invert_gripper_action: by their formulas."""
    action = action.copy()
    action[-1] = 2 * (action[-1] - 0.0) / (1.0 - 0.0) - 1
    action[-1] = np.sign(action[-1])
    action[-1] = action[-1] * -1.0
    return list(action)


@pytest.mark.parametrize(
    ('gripper', 'sent'),
    [(1.0, -1.0), (0.996, -1.0), (0.51, -1.0), (0.0, 1.0), (0.004, 1.0), (-0.1, 1.0), (0.5, 0.0)],
)
def test_an_action_is_sent_as_it_is_but_for_the_gripper(
    calls: list[tuple[Any, ...]], gripper: float, sent: float
) -> None:
    action = np.array([0.9, -0.5, -0.25, 0.1, -0.2, 0.3, gripper])
    before = action.copy()
    with LiberoWorld('libero_object') as world:
        world.reset(0, BOWL)
        world.step(action)
    assert named(calls, 'step')[10:] == [[0.9, -0.5, -0.25, 0.1, -0.2, 0.3, sent]]
    assert named(calls, 'step')[10] == as_the_reference(action)
    assert np.array_equal(action, before)


@pytest.mark.usefixtures('calls')
def test_what_is_no_action_is_refused() -> None:
    with LiberoWorld('libero_object') as world:
        with pytest.raises(PolicyError, match='no episode has begun; call reset first'):
            world.step(NOTHING)
        world.reset(0, BOWL)
        for action in (np.zeros(6), np.full(7, np.nan)):
            with pytest.raises(PolicyError, match='an action is seven finite numbers'):
                world.step(action)


@pytest.mark.usefixtures('calls')
def test_success_is_done_after_an_action_and_stays() -> None:
    lift = np.array([0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0])
    with LiberoWorld('libero_object') as world:
        world.reset(0, BOWL)
        world.step(NOTHING)
        assert not world.success
        world.step(lift)
        world.step(NOTHING)
        assert world.success
        world.reset(1, BOWL)
        assert not world.success


@pytest.mark.usefixtures('calls')
def test_what_is_done_while_waiting_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    step = OffScreenRenderEnv.step
    monkeypatch.setattr(OffScreenRenderEnv, 'step', lambda *args: (*step(*args)[:2], True, {}))
    with LiberoWorld('libero_object') as world:
        world.reset(0, BOWL)
        assert not world.success
        world.step(NOTHING)
        assert world.success


# --- A picture ------------------------------------------------------------------------------------


@pytest.mark.usefixtures('calls')
def test_the_nodes_parameters_make_the_references_picture() -> None:
    """The world's picture is LIBERO's own, and the reference turns it before all else."""
    with LiberoWorld('libero_spatial') as world:
        picture = world.reset(0, BOWL).image
        preprocessing, turn = map(world.node_parameters.get, ('preprocessing', 'rotate_180'))
        first = picture.copy()
        world.step(NOTHING)
    assert np.array_equal(picture, first)  # LIBERO may write to its own
    assert (picture.dtype, picture.shape) == (np.uint8, (256, 256, 3))
    turned = Image.fromarray(picture[::-1, ::-1])
    expected = center_cropped(lanczos3_resized(jpeg_round_trip(turned), (224, 224)), (224, 224))
    request = PolicyRequest(
        unnorm_key=world.contract.unnorm_key,
        preprocessing=str(preprocessing),
        rotate_180=turn == 'true',
    )
    crop = center_crop(request)
    preprocess = Preprocessing(request.preprocessing, crop, request.rotate_180)
    shown = preprocess(Image.fromarray(picture), (224, 224))
    assert np.array_equal(np.asarray(shown), expected)


@pytest.mark.usefixtures('calls')
def test_there_is_a_camera_at_the_wrist_and_a_state() -> None:
    with LiberoWorld('libero_spatial') as world:
        plain = world.reset(0, BOWL)
        assert (list(plain.images), plain.state) == (['image'], None)
        world.equip(spec_of(Options(cameras=2, state=8)))
        observation = world.reset(0, BOWL)
    assert list(observation.images) == ['camera_1', 'camera_2']
    np.testing.assert_array_equal(observation.images['camera_1'], plain.image)
    np.testing.assert_array_equal(observation.images['camera_2'], 255 - plain.image)
    angle = 2 * np.arccos(-0.8)  # as quat2axisangle of robosuite has it
    assert observation.state == pytest.approx([0.1, 0.2, 0.3, angle, 0.0, 0.0, 0.02, -0.03])


# --- Policies of chunks -----------------------------------------------------------------------


def calm(golden: Path, folder: Path) -> str:
    """Copy a checkpoint, with smaller actions: the node rejects those far outside the range."""
    shutil.copytree(golden, folder)
    file = folder / 'model.safetensors'
    tensors = {
        name: 0.3 * tensor if name.startswith('action_head.') and '.fc2.' in name else tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, {'format': 'pt'})
    return str(folder)


@pytest.mark.parametrize('model', ['vla_adapter_pro_tiny', 'openvla_oft_libero_tiny'])
def test_vla_eval_plays_a_policy_of_chunks_two_cameras_and_a_state(
    calls: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    model: str,
) -> None:
    """Through the node, every row is the policy's own for the world's images and state."""
    monkeypatch.setattr('vla_ros.evaluation.closed_loop.running', running_forked)
    monkeypatch.setattr(Benchmark, 'get_task', lambda self, i: Task(*['task'] * 5, 'init'))
    step = OffScreenRenderEnv.step
    monkeypatch.setattr(OffScreenRenderEnv, 'step', lambda *args: (*step(*args)[:2], False, {}))
    folder = calm(GOLDEN / model, tmp_path / model)
    options = ('--episodes', '1', '--time-limit', '0.8', '--dtype', 'float32', '--device', 'cpu')
    code = main(['--world', 'libero_spatial', '--model', folder, *options])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    [episode] = json.loads(printed.out.splitlines()[-1])['conditions'][0]['episodes']
    assert (episode['failure'], episode['steps']) == ('', 16)
    sent = np.array(named(calls, 'step')[10:])

    key = 'libero_spatial_no_noops'
    request = PolicyRequest(
        folder,
        device='cpu',
        dtype='float32',
        unnorm_key=key,
        preprocessing='training',
        rotate_180=True,
    )
    policy = load_policy(request)
    with LiberoWorld('libero_spatial') as world:
        world.equip(policy.spec(key))
        observation = world.reset(0, 'task')
        assert list(observation.images) == ['image', 'wrist_image']
        session = policy.session(key)
        for chunk in sent.reshape(2, 8, 7):
            [prediction] = policy.predict([(session, observation)])
            assert isinstance(prediction, Prediction)
            expected = np.array([as_the_reference(row) for row in prediction.actions])
            np.testing.assert_allclose(chunk, expected, atol=1e-5)
            for row in prediction.actions:
                observation = world.step(row)
    policy.close()


# --- LIBERO's manners -----------------------------------------------------------------------------


def test_nobody_has_to_answer_liberos_question(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a configuration its first import asks, and would wait."""
    package = tmp_path / 'libero' / 'libero'
    package.mkdir(parents=True)
    package.joinpath('__init__.py').write_text(
        "answer = input('Do you want to specify a custom path for the dataset folder? (Y/N): ')\n"
        "assert answer.lower() != 'y'\n"
    )
    suite = "type('Suite', (), {'n_tasks': 0})"
    package.joinpath('benchmark.py').write_text(
        f"def get_benchmark_dict(help=False):\n    return {{'libero_goal': {suite}}}\n"
    )
    package.joinpath('envs.py').write_text('OffScreenRenderEnv = None\n')
    monkeypatch.syspath_prepend(tmp_path)
    stdin = sys.stdin
    try:
        assert LiberoWorld('libero_goal').instructions == ()
    finally:
        for name in [name for name in sys.modules if name.split('.')[0] == 'libero']:
            del sys.modules[name]
    assert sys.stdin is stdin
    printed = capsys.readouterr()
    assert not printed.out and 'Do you want' in printed.err


@pytest.mark.filterwarnings('ignore:Environment variable TORCH_FORCE:UserWarning')
@pytest.mark.parametrize('before', [None, '0'])
def test_torch_reads_the_starts(
    calls: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    before: str | None,
) -> None:
    """They are numpy arrays in torch's files, loaded without a word about weights_only."""
    torch = pytest.importorskip('torch')
    file = tmp_path / 'task.pruned_init'
    torch.save(np.array([[7.0, 8.0]]), file)
    monkeypatch.setattr(Benchmark, 'get_task_init_states', lambda self, i: torch.load(file))
    name = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with LiberoWorld('libero_spatial') as world:
        world.reset(0, BOWL)
    assert named(calls, 'start') == [(7.0, 8.0)]
    assert os.environ.get(name) == before


# --- Mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize('module', ['libero', 'libero.libero.envs'])
@pytest.mark.usefixtures('calls')
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    for name in [name for name in sys.modules if name.startswith(module)]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        SimulationError, match=r'cannot be imported \(ModuleNotFoundError: .*robosuite 1.4.1'
    ):
        LiberoWorld('libero_spatial')


@pytest.mark.usefixtures('calls')
def test_a_task_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Benchmark, 'get_task_bddl_file_path', lambda self, i: 'lost')
    with pytest.raises(
        SimulationError, match=r'the task SCENE2_open_the_drawer \(AssertionError: there is no such'
    ):
        LiberoWorld('libero_spatial').reset(0, DRAWER)


@pytest.mark.usefixtures('calls')
def test_a_wrong_suite_and_a_wrong_instruction_are_named() -> None:
    with pytest.raises(PolicyError, match=r"no suite 'libero_long'; there are: libero_spatial, "):
        LiberoWorld('libero_long')
    with pytest.raises(PolicyError, match=r"no instruction 'dance' .*; there are: put the bowl"):
        LiberoWorld('libero_spatial').reset(0, 'dance')


# --- All worlds -----------------------------------------------------------------------------------


@pytest.mark.usefixtures('calls')
def test_worlds_have_names() -> None:
    assert tuple(WORLDS) == ('blocks', 'blocks4', *SUITES)
    world = make_world('libero_goal')
    assert isinstance(world, LiberoWorld) and world.contract.unnorm_key == 'libero_goal'
    with pytest.raises(
        PolicyError, match=r"no world 'moon'; there are: blocks, blocks4, libero_spatial, "
    ):
        make_world('moon')


@pytest.mark.parametrize('world', [BlocksWorld, LiberoWorld])
def test_a_worlds_parameters_are_the_nodes(world: type[BlocksWorld] | type[LiberoWorld]) -> None:
    from vla_ros.parameters.check import check_name, check_value, typed_value

    for name, value in world.node_parameters.items():
        check_name(name)
        check_value(name, typed_value(name, yaml.safe_load(value)))
