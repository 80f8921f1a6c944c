# SPDX-License-Identifier: Apache-2.0
"""Converted folders give the references' actions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from support.family_golden import CASES, COMMITTED, Case
from vla_ros.cli.convert import main
from vla_ros.openvla import OpenVLAPolicy
from vla_ros.openvla.checkpoint import SINGLE_NAME
from vla_ros.openvla.config import OpenVLAConfig
from vla_ros.openvla.kind import OpenVLAInspection
from vla_ros.openvla.layout import read_layout

WITH_HEAD = [name for name, case in COMMITTED.items() if not case.layout.emits_tokens]
RELEASED = {name: case for name, case in CASES.items() if not case.converted}


def release(case: Case, folder: Path) -> Path:
    """Take a committed folder apart, as a training would have left it."""
    folder.mkdir()
    for path in case.checkpoint.glob('*.json'):
        if path.name != 'vla_ros.json':
            (folder / path.name).write_bytes(path.read_bytes())
    parts: dict[str, dict[str, Tensor]] = {'action_head': {}, 'state_projector': {}, '': {}}
    for name, tensor in load_file(case.checkpoint / SINGLE_NAME).items():
        part, _, rest = name.partition('.')
        inside = 'module.model.' if part == 'action_head' else 'module.'
        if part in parts:
            parts[part][inside + rest] = tensor
        else:
            parts[''][name] = tensor
    # What VLA-Adapter-Pro stores and never uses.
    parts['action_head']['module.model.mlp_resnet_blocks.0.film_gen.0.bias'] = torch.ones(3)
    torch.save(parts['action_head'], folder / 'action_head--latest_checkpoint.pt')
    torch.save(parts['state_projector'], folder / 'proprio_projector--latest_checkpoint.pt')
    save_file(parts[''], folder / SINGLE_NAME)
    return folder


def options(case: Case) -> list[str]:
    preset = 'aloha' if case.layout.action_dim == 14 else 'libero'
    said = ['--preset', preset, '--cameras', ','.join(case.layout.cameras)]
    said += [] if case.layout.state_dim else ['--no-state']
    said += ['--tokens'] if case.layout.emits_tokens else []
    return [*said, '--merged-dtype', 'float32']


@pytest.mark.parametrize('name', WITH_HEAD)
def test_a_small_training(name: str, tmp_path: Path) -> None:
    case, out = COMMITTED[name], tmp_path / 'out'
    assert main([str(release(case, tmp_path / 'training')), str(out), *options(case)]) == 0
    stored = [load_file(path) for path in sorted(out.glob('*.safetensors'))]
    found = {key: tensor for file in stored for key, tensor in file.items()}
    check_same(found, load_file(case.checkpoint / SINGLE_NAME))
    assert read_layout(out) == case.layout
    check(case, out)


def check_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def check(case: Case, folder: Path) -> None:
    """Check the folder as the doctor does, and its policy by the reference's actions."""
    OpenVLAInspection(folder, OpenVLAConfig.from_directory(folder)).check()
    policy = OpenVLAPolicy.from_pretrained(folder, device='cpu', dtype='float32')
    actions = case.predict(policy).actions
    np.testing.assert_allclose(actions, case.array('actions'), rtol=0, atol=case.tolerance)
    policy.close()


@pytest.mark.parametrize('name', RELEASED)
def test_a_released_folder(name: str, tmp_path: Path) -> None:
    """Only where the folder ``shared`` is beside the repository."""
    case = RELEASED[name]
    assert main([str(case.checkpoint), str(tmp_path / 'out'), *options(case)]) == 0
    assert read_layout(tmp_path / 'out') == case.layout
    check(case, tmp_path / 'out')
