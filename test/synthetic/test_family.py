# SPDX-License-Identifier: Apache-2.0
"""Synthetic checkpoints that give chunks: the released sizes, and inputs that matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from vla_ros.cli import checkpoint
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.chunks import embed_images, run_chunk
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.loading import load
from vla_ros.openvla.placement import Placement
from vla_ros.synthetic.checkpoint_writer import checkpoint_bytes
from vla_ros.types import invalid_reason

TINY = ('vla-adapter-pro-tiny', 'openvla-oft-tiny')


def test_the_sizes_are_those_of_the_released_files() -> None:
    """openvla-spec: 1,252,553,792 values, a head of 217,864,223, less film_gen; 7.54 B of OFT."""
    film_gen = 24 * (2 * 896 * 896 + 2 * 896)
    projector = 8 * 896 + 896 * 896 + 2 * 896
    assert checkpoint_bytes('vla-adapter-pro') == 2 * (
        1_252_553_792 + 217_864_223 - film_gen + projector
    )
    head = 2 * 7 * 4096 + 7 * 4096**2 + 4096 + 2 * (2 * 4096 + 4096**2 + 4096) + 2 * 4096
    head += 7 * 4096 + 7
    projector = 8 * 4096 + 4096**2 + 2 * 4096
    logits = 32064 * 4096
    plain = checkpoint_bytes('openvla-7b')
    assert checkpoint_bytes('openvla-oft') == plain + 2 * (head + projector - logits)


def test_the_size_of_minivla_is_that_of_the_released_file() -> None:
    """1,388.6 M values with a second copy of the embedding, which is not written; VQ adds 0.6 M."""
    size = checkpoint_bytes('minivla')
    assert round(size / 2e6 + 151936 * 896 / 1e6, 1) == 1388.6
    books, network = 7 * 128 * 512, 512 * 128 + 128 + 128 * 128 + 128 + 128 * 56 + 56
    assert checkpoint_bytes('minivla-vq') == size + 2 * (books + network)


@pytest.mark.parametrize('shape', ['minivla-tiny', 'minivla-vq-tiny'])
def test_a_random_minivla_is_sound(shape: str, tmp_path: Path) -> None:
    folder = tmp_path / shape
    assert checkpoint.main([str(folder), '--shape', shape]) == 0
    policy = OpenVLAPolicy.from_pretrained(folder, device='cpu', dtype='float32')
    policy.warmup()
    cameras = policy.config.cameras
    random = np.random.default_rng(0)
    for words in ('pick up the cup', 'push the plate', 'open the drawer'):
        images = {one: random.integers(0, 256, (224, 224, 3), np.uint8) for one in cameras}
        prediction = policy.predict_action(images, words)
        assert invalid_reason(prediction, policy.spec()) is None


@pytest.mark.parametrize('shape', TINY)
def test_every_input_changes_a_chunk(shape: str, tmp_path: Path) -> None:
    folder = tmp_path / shape
    assert checkpoint.main([str(folder), '--shape', shape]) == 0
    config = OpenVLAConfig.from_directory(folder)
    model = load(Checkpoint(folder), config, Placement.choose('cpu', 'float32', 'none', False))
    tokenizer = Tokenizer.from_file(str(folder / 'tokenizer.json'))
    generator = torch.Generator().manual_seed(0)
    images, others = (torch.randn(2, 6, 224, 224, generator=generator) for _ in range(2))

    @torch.inference_mode()
    def chunk(pixels: Tensor, words: str, state: float) -> Tensor:
        ids = torch.tensor([tokenizer.encode(config.prompt_template.format(instruction=words)).ids])
        embeds = embed_images(model, pixels).flatten(0, 1)[None]
        lengths = torch.tensor([ids.shape[1]])
        return run_chunk(model, ids, lengths, embeds, torch.full((1, 8), state))[0]

    first = chunk(images, 'pick up the cup', 0.0)
    assert first.shape == (8, 7) and first.abs().max() < 1
    assert (first[1:] - first[:-1]).abs().amax(dim=1).min() > 0.01  # no two rows are equal
    swapped = torch.stack([images[0], others[1]])  # another wrist image
    for other in (
        chunk(others, 'pick up the cup', 0.0),
        chunk(swapped, 'pick up the cup', 0.0),
        chunk(images, 'push the plate', 0.0),
        chunk(images, 'pick up the cup', 1.0),
    ):
        assert (other - first).square().mean().sqrt() > 0.01
