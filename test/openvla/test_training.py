# SPDX-License-Identifier: Apache-2.0
"""What models/blocks was trained with: its data, its loss, and that one leads to the other."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from training.frames import Frames, collect, shaky_expert
from training.imitation import Imitator, tokenize
from training.train import SHAPE, Settings, Stage, norm_stats
from vla_ros.openvla.action_tokenizer import ActionTokenizer
from vla_ros.openvla.normalization import read_norm_stats
from vla_ros.openvla.policy import OpenVLAPolicy
from vla_ros.simulation import INSTRUCTIONS, BlocksWorld
from vla_ros.simulation.expert import expert_action
from vla_ros.synthetic.checkpoint_writer import write_checkpoint
from vla_ros.synthetic.random_checkpoint import write_random_checkpoint

TOLERANCE = 2e-4  # of logits in float32, which products of other shapes sum in another order


@pytest.fixture(scope='module')
def frames(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    directory = tmp_path_factory.mktemp('frames')
    with BlocksWorld() as world:
        collect(directory, world, itertools.count(100_000), 24, shaky_expert)
    return Frames(directory)


@pytest.fixture
def imitator(tmp_path: Path) -> Imitator:
    torch.manual_seed(0)
    write_checkpoint(
        tmp_path, SHAPE, norm_stats(), lambda _, size: torch.zeros(size).bfloat16(), 'test'
    )
    return Imitator(tmp_path, tuple(INSTRUCTIONS))


def test_every_frame_has_the_experts_action_for_every_instruction(frames: Frames) -> None:
    with BlocksWorld() as world:
        first = world.reset(100_000, 'pick up the red block')
        labels = [expert_action(world.state, instruction) for instruction in INSTRUCTIONS]
    np.testing.assert_array_equal(frames.images[0], first.image)
    np.testing.assert_array_equal(frames.actions[0], np.array(labels, np.float32))
    assert frames.images.shape == (24, 224, 224, 3)
    assert (frames.actions[:, 0] != frames.actions[:, 1]).any(axis=1).all()


def test_the_same_starts_give_the_same_frames(frames: Frames, tmp_path: Path) -> None:
    with BlocksWorld() as world:
        collect(tmp_path, world, itertools.count(100_000), 24, shaky_expert)
    again = Frames(tmp_path)
    np.testing.assert_array_equal(again.images, frames.images)
    np.testing.assert_array_equal(again.actions, frames.actions)


def test_too_few_starts_are_no_data(tmp_path: Path) -> None:
    with BlocksWorld() as world, pytest.raises(ValueError, match='the starts were used up'):
        collect(tmp_path, world, [100_000], 200, shaky_expert)


def test_training_starts_are_not_those_of_evaluation() -> None:
    assert Settings().first_start == 100_000


def test_tokens_decode_to_the_bin_of_the_action() -> None:
    [statistics] = read_norm_stats(norm_stats(), 'norm_stats').values()
    random = np.random.default_rng(0)
    actions = random.uniform(statistics.low, statistics.high, (500, 7)).astype(np.float32)
    actions[0], actions[1] = statistics.high, statistics.low
    token_ids, values = tokenize(actions, statistics, ActionTokenizer())
    assert token_ids.min() >= 32000 - 255 and token_ids.max() <= 31999
    bins = np.linspace(-1, 1, 256)
    centers = (bins[:-1] + bins[1:]) / 2
    decoded = statistics.unnormalize(centers[32000 - token_ids - 1])
    half_a_bin = (statistics.high - statistics.low) / 255 / 2
    half_a_bin[6] = 1 / 255
    assert (np.abs(decoded - actions) <= half_a_bin + 1e-6).all()
    assert np.abs(values).max() <= 1


def test_the_logits_are_those_of_the_policy(
    imitator: Imitator, frames: Frames, tmp_path: Path
) -> None:
    """What is trained is what will be asked: the same numbers by the policy's own way."""
    for tensor in imitator.state_dict().values():
        tensor.copy_(tensor.bfloat16().float())
    weights = imitator.weights(imitator.state_dict())
    checkpoint = write_checkpoint(
        tmp_path / 'checkpoint',
        SHAPE,
        norm_stats(),
        lambda name, _: weights[name].bfloat16(),
        'test',
    )
    policy = OpenVLAPolicy.from_pretrained(checkpoint, device='cpu', dtype='float32')
    images = np.array(frames.images[:2])
    for index, instruction in enumerate(INSTRUCTIONS):
        predictions = [
            policy.predict_action(image, instruction, return_logits=True) for image in images
        ]
        token_ids = np.stack([prediction.tokens.ids for prediction in predictions])
        both = torch.from_numpy(np.stack([token_ids, token_ids], axis=1))
        with torch.no_grad():
            logits = imitator.logits(imitator.pixel_values(images), both)[:, index]
        expected = np.stack([prediction.tokens.logits for prediction in predictions])
        np.testing.assert_allclose(logits.numpy(), expected, atol=TOLERANCE)


def test_a_few_steps_make_the_expert_likelier(imitator: Imitator, frames: Frames) -> None:
    optimizer = torch.optim.AdamW(imitator.parameters(), lr=5e-3)
    losses = []
    for _ in range(20):
        loss, _ = imitator.loss(
            np.array(frames.images[:4]), frames.actions[:4], frames.places[:4], blur=4.0
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


def test_the_random_model_of_this_shape_is_no_trained_one(tmp_path: Path) -> None:
    """Its statistics are the placeholder's, so that it can't be taken for the other."""
    policy = OpenVLAPolicy.from_pretrained(
        write_random_checkpoint(tmp_path, SHAPE), device='cpu', dtype='float32'
    )
    assert list(policy.config.norm_stats) == ['random']


def test_the_schedule_ends_where_it_should() -> None:
    settings = Settings(stages=(Stage(1, 300), Stage(1, 700)), warmup_steps=100)
    rates = [settings.learning_rate_at(step) for step in range(settings.steps)]
    assert np.argmax(rates) == 99
    assert rates[-1] < 1e-4 * settings.learning_rate
    assert settings.blur_at(0) == 4.0
    assert settings.blur_at(settings.steps) == 1.0
