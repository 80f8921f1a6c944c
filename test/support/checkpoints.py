# SPDX-License-Identifier: Apache-2.0
"""Changes to a checkpoint's files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.doctor_setups import about
from vla_ros.doctor.checkpoint import check_checkpoint
from vla_ros.doctor.findings import Finding, Level
from vla_ros.openvla import CheckpointError, OpenVLAPolicy
from vla_ros.openvla.checkpoint import Checkpoint

INDEX = 'model.safetensors.index.json'
SHARD = 'model-00001-of-00001.safetensors'


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / SHARD)
    change(tensors)
    save_file(tensors, folder / SHARD)
    edit_json(folder / INDEX, lambda c: c.update(weight_map=dict.fromkeys(tensors, SHARD)))


def set_text_config(folder: Path, name: str, value: object) -> None:
    edit_json(folder / 'config.json', lambda c: c['text_config'].update({name: value}))


def refused_unread(
    folder: Path, words: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Finding]:
    """Check that policy and doctor refuse the folder before a weight is read.

    :param words: of the policy's error, beside the folder.
    :returns: that error, and what the doctor finds.
    """
    monkeypatch.setattr(Checkpoint, 'tensors', None)  # no weight is read
    with pytest.raises(CheckpointError) as caught:
        OpenVLAPolicy.from_pretrained(folder, device='cpu')
    text = str(caught.value)
    assert not [word for word in [str(folder), *words] if word not in text], text
    (found,) = check_checkpoint(about(folder))
    assert found.level is Level.FAIL
    return text, found
