# SPDX-License-Identifier: Apache-2.0
"""The world with four tasks: what counts as done, the expert, and its look ahead."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from vla_ros.simulation import Blocks4World, BlocksWorld, make_world
from vla_ros.simulation.blocks4 import INSTRUCTIONS, PUSH, PUT
from vla_ros.simulation.blocks4_expert import blocks4_action, expert_chunk
from vla_ros.simulation.expert import STEP_M, TURN_RAD
from vla_ros.simulation.kinematics import after

SEEDS = (0, 1, 2)


@pytest.fixture(scope='module')
def world() -> Iterator[Blocks4World]:
    with make_world('blocks4') as world:
        assert isinstance(world, Blocks4World)
        yield world


def test_its_starts_are_those_of_blocks_for_every_instruction(world: Blocks4World) -> None:
    with BlocksWorld() as blocks:
        wanted = blocks.reset(5, blocks.instructions[0]).image
    assert len(world.instructions) == 4
    for instruction in world.instructions:
        np.testing.assert_array_equal(world.reset(5, instruction).image, wanted)
        assert not world.success


@pytest.mark.parametrize('rows', [1, 8])
@pytest.mark.parametrize('instruction', INSTRUCTIONS)
def test_the_expert_does_each_task_with_actions_and_with_chunks(
    world: Blocks4World, instruction: str, rows: int
) -> None:
    for seed in SEEDS:
        world.reset(seed, instruction)
        for _ in range(24 // rows):
            chunk = expert_chunk(world.state, instruction, rows)
            assert np.linalg.norm(chunk[:, :3], axis=1).max() <= STEP_M + 1e-9
            assert np.linalg.norm(chunk[:, 3:6], axis=1).max() <= TURN_RAD + 1e-9
            for row in chunk:
                world.step(row)
        assert world.success, seed  # and it stays so


def test_no_task_is_done_on_the_way_of_the_one_that_swapped_instructions_give(
    world: Blocks4World,
) -> None:
    for number, asked in enumerate(INSTRUCTIONS):
        said = INSTRUCTIONS[number - 1]
        for seed in SEEDS:
            world.reset(seed, asked)
            for _ in range(24):
                world.step(blocks4_action(world.state, said))
                assert not world.success, (asked, said)


def test_the_expert_goes_on_from_wherever_another_task_and_noise_led(world: Blocks4World) -> None:
    for number, instruction in enumerate(INSTRUCTIONS):
        random = np.random.default_rng(number)
        world.reset(number, instruction)
        for _ in range(12):
            action = blocks4_action(world.state, INSTRUCTIONS[number - 3])
            action[:3] += random.normal(0.0, 0.01, 3)
            world.step(action)
        for _ in range(40):
            world.step(blocks4_action(world.state, instruction))
            if world.success:
                break
        assert world.success, instruction


@pytest.mark.parametrize('instruction', INSTRUCTIONS)
def test_the_look_ahead_is_near_the_physics(world: Blocks4World, instruction: str) -> None:
    """Eight actions ahead: the tool within 8 mm, blocks within 3 cm, the fingers within 0.15."""
    for seed in SEEDS:
        world.reset(seed, instruction)
        for _ in range(2):
            ahead = world.state
            for row in expert_chunk(ahead, instruction):
                ahead = after(ahead, row)
                world.step(row)
            now = world.state
            assert ahead.tool.position == pytest.approx(now.tool.position, abs=8e-3)
            assert ahead.opening == pytest.approx(now.opening, abs=0.15)
            for colour, block in ahead.blocks.items():
                assert block.position == pytest.approx(now.blocks[colour].position, abs=0.03)


def test_a_carried_block_is_neither_put_nor_pushed(world: Blocks4World) -> None:
    world.reset(1, PUT)
    closed = np.zeros(7)
    while not (action := blocks4_action(world.state, PUT))[6] or world.state.opening > 0.9:
        world.step(action)
    world.step(closed)
    assert not world.success  # on the other block, but still in the hand
    world.step(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]))
    assert world.success
    world.reset(1, PUSH)
    while world.state.blocks['blue'].position[2] < 0.08:
        world.step(blocks4_action(world.state, 'pick up the blue block'))
    for _ in range(4):
        world.step(np.array([0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    assert world.state.blocks['blue'].position[0] > 0.6 and not world.success
