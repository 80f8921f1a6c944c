# SPDX-License-Identifier: Apache-2.0
"""The simulated robot: starts, units, the expert, and what is said when something is missing.

They need requirements/simulation.txt, which `make setup` installs.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_ros.motion import load_contracts
from vla_ros.scripted.policy import spec_of
from vla_ros.scripted.script import Options
from vla_ros.simulation import INSTRUCTIONS, MAX_STEPS, BlocksWorld, SimulationError
from vla_ros.simulation.arm import rotation_vector
from vla_ros.simulation.expert import STEP_M, TURN_RAD, expert_action
from vla_ros.types import PolicyError

RED, BLUE = INSTRUCTIONS
OPEN_HAND = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


@pytest.fixture(scope='module')
def world() -> Iterator[BlocksWorld]:
    with BlocksWorld() as world:
        yield world


def act(**values: float) -> NDArray[np.float64]:
    action = OPEN_HAND.copy()
    for name, value in values.items():
        action[('x', 'y', 'z', 'about_x', 'about_y', 'about_z', 'gripper').index(name)] = value
    return action


def episode(
    world: BlocksWorld, seed: int, instruction: str, obeyed: str
) -> list[NDArray[np.float64]]:
    """The actions of an expert that obeys an instruction, perhaps another than the world's."""
    world.reset(seed, instruction)
    actions = []
    while not world.success and len(actions) < MAX_STEPS:
        actions.append(expert_action(world.state, obeyed))
        world.step(actions[-1])
    return actions


# --- A start --------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_pixels_whatever_came_before(world: BlocksWorld) -> None:
    def pictures(seed: int) -> list[NDArray[np.uint8]]:
        first = world.reset(seed, RED)
        actions = (act(x=0.03, about_z=0.1), act(z=-0.04), act(gripper=0.0))
        return [first.image, *(world.step(action).image for action in actions)]

    before, other, after = pictures(4), pictures(5), pictures(4)
    assert all(map(np.array_equal, before, after))
    assert not any(map(np.array_equal, before, other))
    with BlocksWorld() as another:
        assert np.array_equal(another.reset(4, RED).image, before[0])


def test_the_instruction_does_not_change_the_start(world: BlocksWorld) -> None:
    red, blue = world.reset(7, RED), world.reset(7, BLUE)
    assert np.array_equal(red.image, blue.image)
    assert (red.instruction, blue.instruction) == (RED, BLUE)
    assert (red.image.dtype, red.image.shape) == (np.uint8, (224, 224, 3))


def test_the_picture_is_upright_and_shows_both_blocks(world: BlocksWorld) -> None:
    """The camera looks back at the robot: its right is the robot's left, y; what is near is low."""
    sides = set()
    for seed in range(8):
        image = world.reset(seed, RED).image.astype(int)
        red = np.argwhere(image[..., 0] - image[..., 1:].max(-1) > 80)
        blue = np.argwhere(image[..., 2] - image[..., :2].max(-1) > 80)
        assert min(len(red), len(blue)) > 200  # pixels
        assert min(red.mean(0)[0], blue.mean(0)[0]) > 112  # in the lower half, the hand is above
        blocks = world.state.blocks
        left_of = bool(blocks['red'].position[1] < blocks['blue'].position[1])
        assert bool(red.mean(0)[1] < blue.mean(0)[1]) == left_of
        sides.add(left_of)
    assert sides == {True, False}


# --- Several cameras and a state ------------------------------------------------------------------


@pytest.fixture
def equipped(world: BlocksWorld) -> Iterator[BlocksWorld]:
    """With both cameras and the state; as before afterwards."""
    world.equip(spec_of(Options(cameras=2, state=8)))
    yield world
    world.equip(spec_of(Options()))


def test_a_policy_gets_the_cameras_and_the_state_that_it_needs(world: BlocksWorld) -> None:
    plain = world.reset(3, RED)
    assert (list(plain.images), plain.state) == (['image'], None)
    world.equip(replace(spec_of(Options(cameras=2)), cameras=('wrist', 'camera_1')))
    several = world.reset(3, RED)
    assert list(several.images) == ['wrist', 'camera_1'] and several.state is None
    world.equip(spec_of(Options(state=8)))
    with_state = world.reset(3, RED)
    world.equip(spec_of(Options()))
    assert list(with_state.images) == ['image'] and len(with_state.state) == 8
    np.testing.assert_array_equal(several.images['camera_1'], plain.image)
    np.testing.assert_array_equal(with_state.image, plain.image)
    assert several.images['wrist'].shape == plain.image.shape


def test_the_wrist_camera_moves_with_the_hand(equipped: BlocksWorld) -> None:
    """The fingers keep their place in its image, the blocks do not."""
    images = [equipped.reset(0, RED).images['camera_2']]
    images.append(equipped.step(act(y=0.05)).images['camera_2'])
    before, after = (image.astype(int) for image in images)
    fingers = before[..., 1] - before[..., [0, 2]].max(-1) > 40
    assert fingers.sum() > 500  # pixels
    assert np.abs(after - before)[fingers].mean() < 10
    red = [np.argwhere(image[..., 0] - image[..., 1:].max(-1) > 80) for image in (before, after)]
    assert np.abs(red[1].mean(0) - red[0].mean(0)).max() > 20


def test_the_state_is_the_tools_pose_and_the_fingers_opening(equipped: BlocksWorld) -> None:
    observations = [equipped.reset(0, RED)]
    observations += [equipped.step(act(about_x=0.1, about_z=0.1)) for _ in range(3)]
    observations += [equipped.step(act(gripper=0.0)) for _ in range(3)]
    *_, state = (observation.state for observation in observations)
    np.testing.assert_array_equal(state[:3], equipped.pose.position)
    x, y, z, w = state[3:7]
    rows = [  # of the quaternion's rotation
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    assert np.array(rows) == pytest.approx(equipped.pose.rotation, abs=1e-9)
    assert state[7] == equipped.state.opening < 0.1
    quaternions = np.array([observation.state[3:7] for observation in observations])
    assert np.abs(np.diff(quaternions, axis=0)).max() < 0.1  # it keeps its sign


def test_a_pose_moves_as_the_arm_does(world: BlocksWorld) -> None:
    world.reset(2, RED)
    action = act(x=0.03, y=-0.02, about_z=0.1)
    expected = world.moved(world.pose, action)
    world.step(action)
    assert world.pose.position == pytest.approx(expected.position, abs=5e-4)
    assert world.pose.rotation == pytest.approx(expected.rotation, abs=2e-3)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (Options(cameras=3), r"needs the camera 'camera_3'.*; it has front \(camera_1\), wrist"),
        (Options(state=7), r"needs a state of 7 values; the world has a state of 8: the tool's"),
        (Options(action_dim=8), r'gives actions of 8 values; the world takes 7'),
    ],
)
def test_a_policy_that_needs_what_is_not_there_is_rejected(
    world: BlocksWorld, options: Options, message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        world.equip(spec_of(options))


# --- Units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('axis', range(3))
@pytest.mark.parametrize('sign', [1.0, -1.0])
def test_a_period_moves_the_tool_by_what_is_commanded(
    world: BlocksWorld, axis: int, sign: float
) -> None:
    world.reset(1, RED)
    before, commanded = world.state.tool, np.zeros(7)
    commanded[[axis, 6]] = sign * 0.02, 1.0
    stamp_ns = world.step(commanded).stamp_ns
    after = world.state.tool
    assert after.position - before.position == pytest.approx(commanded[:3], abs=2e-4)
    turn = rotation_vector(after.rotation @ before.rotation.T)
    assert turn == pytest.approx(np.zeros(3), abs=1e-3)
    assert stamp_ns == pytest.approx(world.contract.period_s * 1e9)


@pytest.mark.parametrize('axis', range(3))
def test_a_period_turns_the_tool_about_the_axes_of_the_base(world: BlocksWorld, axis: int) -> None:
    world.reset(1, RED)
    before, commanded = world.state.tool, np.zeros(7)
    commanded[[3 + axis, 6]] = 0.1, 1.0
    world.step(commanded)
    after = world.state.tool
    turn = rotation_vector(after.rotation @ before.rotation.T)
    assert turn == pytest.approx(commanded[3:6], abs=1e-3)
    assert after.position == pytest.approx(before.position, abs=2e-4)


def test_displacements_add_up_and_the_arm_holds_still_in_between(world: BlocksWorld) -> None:
    world.reset(2, RED)
    before = world.state.tool.position
    for _ in range(4):
        world.step(act(x=0.01, y=-0.02, z=0.01))
        world.step(OPEN_HAND)
    moved = world.state.tool.position - before
    assert moved == pytest.approx([0.04, -0.08, 0.04], rel=0.02)


def test_a_displacement_may_start_from_where_the_tool_was(world: BlocksWorld) -> None:
    """What a late action asks for is reached once, however far the arm has come meanwhile."""
    world.reset(2, RED)
    start = world.pose
    late = act(x=0.03, y=-0.02)
    late[5] = 0.1
    for _ in range(3):
        world.begin(late, start)
        world.advance(world.contract.period_s)
    assert world.pose.position - start.position == pytest.approx(late[:3], abs=5e-4)
    turned = rotation_vector(world.pose.rotation @ start.rotation.T)
    assert turned == pytest.approx(late[3:6], abs=2e-3)


def test_the_world_can_be_looked_at_in_mid_action(world: BlocksWorld) -> None:
    first = world.reset(2, RED)
    whole = world.step(act(x=0.04))
    world.reset(2, RED)
    before = world.pose.position[0]
    world.begin(act(x=0.04))
    seen = []
    for _ in range(6):
        world.advance(world.contract.period_s / 6)
        seen.append((world.pose.position[0] - before, world.look()))
    moved, pictures = zip(*seen, strict=True)
    assert list(moved) == sorted(moved)
    assert 0.01 < moved[2] < 0.03
    assert not np.array_equal(pictures[2].image, first.image)
    np.testing.assert_array_equal(pictures[-1].image, whole.image)
    assert pictures[-1].stamp_ns == whole.stamp_ns
    world.advance(1.0)
    assert world.pose.position[0] - before == pytest.approx(0.04, abs=1e-3)


def test_the_gripper_is_one_open_and_zero_closed(world: BlocksWorld) -> None:
    world.reset(1, RED)
    assert world.state.opening == pytest.approx(1.0, abs=0.02)
    for gripper, opening in ((0.0, 0.0), (1.0, 1.0)):
        for _ in range(3):
            world.step(act(gripper=gripper))
        assert world.state.opening == pytest.approx(opening, abs=0.05)


def test_what_is_longer_than_the_contract_allows_is_shortened(world: BlocksWorld) -> None:
    world.reset(1, RED)
    before = world.state.tool.position
    world.step(act(x=3.0, y=4.0))
    moved = world.state.tool.position - before
    assert moved == pytest.approx([0.03, 0.04, 0.0], abs=1e-3)


def test_the_contract_is_a_shipped_one() -> None:
    contract = load_contracts()[BlocksWorld.contract.unnorm_key]
    assert contract == BlocksWorld.contract
    assert contract.max_linear_m_s * contract.period_s >= STEP_M
    assert contract.max_angular_rad_s * contract.period_s >= TURN_RAD


# --- The expert -----------------------------------------------------------------------------------


@pytest.mark.parametrize('instruction', INSTRUCTIONS)
def test_the_expert_picks_up_what_is_asked_for(world: BlocksWorld, instruction: str) -> None:
    for seed in range(3):
        actions = np.array(episode(world, seed, instruction, obeyed=instruction))
        assert world.success and len(actions) <= 15
        assert np.linalg.norm(actions[:, :3], axis=1).max() <= STEP_M + 1e-9
        assert np.linalg.norm(actions[:, 3:6], axis=1).max() <= TURN_RAD + 1e-9
        assert set(actions[:, 6]) == {0.0, 1.0}


@pytest.mark.parametrize(('asked', 'obeyed'), [(RED, BLUE), (BLUE, RED)])
def test_the_other_block_is_no_success(world: BlocksWorld, asked: str, obeyed: str) -> None:
    world.reset(0, asked)
    for _ in range(15):
        world.step(expert_action(world.state, obeyed))
        assert not world.success
    assert world.state.blocks[INSTRUCTIONS[obeyed]].position[2] > 0.08  # it did pick that one up


def test_the_expert_recovers(world: BlocksWorld) -> None:
    """From a hand that closed on nothing beside the block, and from the wrong block in it."""
    world.reset(0, RED)
    for _ in range(5):
        world.step(expert_action(world.state, RED))
    for action in (act(y=0.05, gripper=0.0), act(y=0.05, about_x=0.15, gripper=0.0)):
        world.step(action)
    for _ in range(15):
        world.step(expert_action(world.state, BLUE))
    assert world.state.blocks['blue'].position[2] > 0.08
    for _ in range(25):
        world.step(expert_action(world.state, RED))
    assert world.success


# --- Mistakes -------------------------------------------------------------------------------------


def test_what_is_no_action_and_no_instruction_is_refused(world: BlocksWorld) -> None:
    with pytest.raises(PolicyError, match=r'no instruction .* in this world; there are: pick'):
        world.reset(0, 'pick up the green block')
    world.reset(0, RED)
    for action in (np.zeros(6), np.full(7, np.nan)):
        with pytest.raises(PolicyError, match='an action is seven finite numbers'):
            world.step(action)


@pytest.mark.parametrize('package', ['mujoco', 'robosuite'])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == package else find_spec(name)
    )
    with pytest.raises(SimulationError, match=f'{package}, .*requirements/simulation.txt'):
        BlocksWorld()


def test_without_opengl_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:  # as PyOpenGL does where there is no library
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
    monkeypatch.setattr(importlib, 'import_module', fail)
    monkeypatch.setenv('MUJOCO_GL', 'egl')
    with pytest.raises(SimulationError, match=r'cannot draw.*egl.*AttributeError.*libegl1.*osmesa'):
        BlocksWorld()
