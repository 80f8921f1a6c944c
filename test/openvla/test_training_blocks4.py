# SPDX-License-Identifier: Apache-2.0
"""models/blocks4: its recipe, from frames to a checkpoint that loads, and what it does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from training.blocks4 import LABELS, Settings, Trainer, write_fresh, write_trained
from training.chunks import Chunker
from training.gather import PLACES, Gatherer
from vla_ros.evaluation.closed_loop import blocks_model
from vla_ros.openvla.policy import OpenVLAPolicy
from vla_ros.simulation import Blocks4World
from vla_ros.simulation.blocks4 import INSTRUCTIONS
from vla_ros.simulation.blocks4_expert import expert_chunk
from vla_ros.types import Observation

HORIZON = 8


def predicted(policy: OpenVLAPolicy, observation: Observation, instruction: str) -> np.ndarray:
    return policy.predict_action(observation.image, instruction, state=observation.state).actions


@pytest.fixture(scope='module')
def blocks4() -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(blocks_model('blocks4'), device='cpu', dtype='float32')


@pytest.fixture(scope='module')
def world(blocks4: OpenVLAPolicy) -> Iterator[Blocks4World]:
    with Blocks4World() as world:
        world.equip(blocks4.spec())
        yield world


def test_the_training_computes_what_the_policy_does(tmp_path: Path, world: Blocks4World) -> None:
    torch.manual_seed(0)
    chunker = Chunker(write_fresh(tmp_path / 'fresh'), INSTRUCTIONS, PLACES).eval()
    with torch.no_grad():
        for value in chunker.learning().values():
            value.copy_(value.bfloat16())  # as they are written
    write_trained(tmp_path / 'made', tmp_path / 'fresh', chunker.tensors(chunker.learning()))
    policy = OpenVLAPolicy.from_pretrained(tmp_path / 'made', device='cpu', dtype='float32')
    [statistics] = policy.config.norm_stats.values()
    observation = world.reset(3, INSTRUCTIONS[0])
    image = torch.from_numpy(observation.image).permute(2, 0, 1)[None].float()
    state = torch.from_numpy(statistics.state.normalize(observation.state)[None]).float()
    with torch.inference_mode():
        chunks, _ = chunker(chunker.pixel_values(image), state)
    for number, instruction in enumerate(INSTRUCTIONS):
        own = statistics.unnormalize(chunks[0, number].numpy())
        np.testing.assert_allclose(
            own, predicted(policy, observation, instruction), rtol=0, atol=1e-5
        )


def test_from_frames_to_a_checkpoint(tmp_path: Path) -> None:
    settings = Settings(device='cpu', processes=1, frames=64, batch_size=2, slots=200)
    trainer = Trainer(tmp_path, settings)
    shared = trainer._shared
    with Blocks4World() as world:
        world.equip(OpenVLAPolicy.from_pretrained(blocks_model('blocks4'), device='cpu').spec())
        gatherer = Gatherer(shared, 0, trainer._fresh, settings.first_start, world)
        gatherer._episode(has_policy=False)
        world.reset(settings.first_start, INSTRUCTIONS[0])
        first = [expert_chunk(world.state, text, HORIZON) for text in INSTRUCTIONS]
        written = gatherer._actions.normalize(np.stack(first)).ravel()
        np.testing.assert_allclose(shared.numbers[0, 0, :LABELS], written, rtol=0, atol=1e-6)
        trainer._store.drain(shared)
        assert trainer._store.added == shared.counts[0, 0] > 10
        before = [value.detach().clone() for value in trainer._chunker.learning().values()]
        for _ in range(2):
            loss, places = trainer._learn(0.5)
            assert torch.isfinite(loss + places)
        after = trainer._chunker.learning().values()
        assert all((old != new).any() for old, new in zip(before, after, strict=True))
        trainer._publish()
        made = int(shared.counts[0, 0])
        while trainer._store.policys == 0:  # in most episodes the policy drives
            gatherer._episode(has_policy=True)
            trainer._store.drain(shared)
        assert shared.counts[0, 0] > made
    trainer._write(tmp_path / 'checkpoint')
    policy = OpenVLAPolicy.from_pretrained(tmp_path / 'checkpoint', device='cpu')
    assert policy.spec().action_shape == (HORIZON, 7)


def test_blocks4_does_what_it_is_told(blocks4: OpenVLAPolicy, world: Blocks4World) -> None:
    for seed, instruction in enumerate(INSTRUCTIONS):
        observation, steps = world.reset(seed, instruction), 0
        while not world.success and steps < 40:
            for row in predicted(blocks4, observation, instruction):
                observation, steps = world.step(row), steps + 1
        assert world.success, instruction


def test_blocks4_is_near_the_expert_and_listens(
    blocks4: OpenVLAPolicy, world: Blocks4World
) -> None:
    far_m = []
    for seed in range(6):
        observation = world.reset(seed, INSTRUCTIONS[0])
        chunks = [predicted(blocks4, observation, text) for text in INSTRUCTIONS]
        for chunk, text in zip(chunks, INSTRUCTIONS, strict=True):
            far_m.append(np.abs(chunk - expert_chunk(world.state, text, HORIZON))[:, :3].mean())
        ends = [chunk[:, :3].sum(axis=0) for chunk in chunks]
        # Both tasks with the red block begin alike, as those with the blue one do not.
        for one, other in itertools.combinations(range(4), 2):
            if {one, other} not in ({0, 2}, {1, 3}):
                assert np.linalg.norm(ends[one] - ends[other]) > 0.02
    assert np.mean(far_m) < 0.005
