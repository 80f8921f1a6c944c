# SPDX-License-Identifier: Apache-2.0
"""The parts in a training's folder, found by their names as the trainings' own loaders find them.

A part is a file with its word and "checkpoint" in its name, and there must be exactly one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.convert.errors import ConvertError
from vla_ros.openvla.errors import listing
from vla_ros.openvla.json_files import read_json
from vla_ros.openvla.layout import LAYOUT_NAME

_PICKLES = ('.pt', '.pth', '.bin', '.ckpt')
_HEAD, _STATE, _VISION = 'action_head', 'proprio_projector', 'vision_backbone'
_DIFFUSION = 'noisy_action_projector'
_ADAPTER_FOLDER, _ADAPTER_CONFIG = 'lora_adapter', 'adapter_config.json'


@dataclass(frozen=True)
class Source:
    """A training's folder.

    :param config: the content of config.json.
    :param adapter: the folder of an adapter that is not merged.
    """

    directory: Path
    config: dict[str, Any]
    head: Path | None
    state: Path | None
    vision: Path | None
    adapter: Path | None

    @property
    def has_weights(self) -> bool:
        """Whether there are safetensors of a whole model."""
        return any(
            name.endswith('.safetensors') and not name.startswith('adapter_')
            for name in os.listdir(self.directory)
        )


def read_source(directory: Path) -> Source:
    """Return the parts of a folder.

    :raises ConvertError: if it is not a folder, or is of a kind that is not supported.
    :raises CheckpointError: if its config.json can't be read.
    """
    if not directory.is_dir():
        raise ConvertError(
            f'{directory} is not a folder',
            'name the folder of a checkpoint; a model of the hub comes with hf download '
            'OWNER/NAME --local-dir FOLDER',
        )
    names = sorted(os.listdir(directory))
    if LAYOUT_NAME in names:
        raise ConvertError(
            f'{directory} is converted already: it has {LAYOUT_NAME}',
            'give it to the node as its model',
        )
    parts = {word: _part(directory, names, word) for word in (_HEAD, _STATE, _VISION, _DIFFUSION)}
    diffusion = parts[_DIFFUSION]
    if diffusion:
        raise ConvertError(
            f'{directory} has {diffusion.name}: its actions come from diffusion',
            'take a checkpoint with an L1 head, or with discrete actions; diffusion is not '
            'supported',
        )
    known = {path.name for path in parts.values() if path}
    unknown = {name for name in names if '--' in name and _is_part(name)} - known
    if unknown:
        raise ConvertError(
            f'{directory} has parts of an unknown policy: {listing(unknown)}',
            f'the parts that are supported are {_HEAD}, {_STATE} and {_VISION}',
        )
    return Source(
        directory=directory,
        config=_config(directory),
        head=parts[_HEAD],
        state=parts[_STATE],
        vision=parts[_VISION],
        adapter=_adapter(directory, names),
    )


def _config(directory: Path) -> dict[str, Any]:
    # An adapter alone has none; then its base's counts.
    path = directory / 'config.json'
    return read_json(path) if os.path.lexists(path) else {}


def _is_part(name: str) -> bool:
    return 'checkpoint' in name and name.endswith(_PICKLES)


def _part(directory: Path, names: list[str], word: str) -> Path | None:
    found = [name for name in names if word in name and _is_part(name)]
    if word == _HEAD:
        found = [name for name in found if _DIFFUSION not in name]
    if len(found) > 1:
        raise ConvertError(
            f'{directory} has {len(found)} files of {word}: {listing(found)}',
            'leave one of them there, of the same step as the weights',
        )
    return directory / found[0] if found else None


def _adapter(directory: Path, names: list[str]) -> Path | None:
    """Return the folder with the adapter's config, here or one level below."""
    if _ADAPTER_CONFIG in names:
        return directory
    return directory / _ADAPTER_FOLDER if _ADAPTER_FOLDER in names else None
