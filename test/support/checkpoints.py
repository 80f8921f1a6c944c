"""Changes to a checkpoint's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

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
