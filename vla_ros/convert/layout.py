# SPDX-License-Identifier: Apache-2.0
"""The layout of a policy: from the options, a preset, and what the tensors tell.

A value that two of these tell must be the same in both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_ros.convert.errors import ConvertError
from vla_ros.convert.options import PRESETS, Options, chosen
from vla_ros.convert.source import Source
from vla_ros.convert.weights import Weight
from vla_ros.openvla.json_files import read_json
from vla_ros.openvla.layout import Layout
from vla_ros.text import quoted

STATISTICS_NAME = 'dataset_statistics.json'


def layout_of(source: Source, base: Path, options: Options, parts: Mapping[str, Weight]) -> Layout:
    """Return the layout of the policy.

    :raises ConvertError: if options, preset and tensors disagree, or one is missing.
    """
    said = chosen(options, source.directory)
    config = source.config or read_json(base / 'config.json')
    statistics = _statistics(source, base)
    layout = Layout(
        action_head='tokens' if options.tokens else _head(source, parts),
        horizon=said.horizon,
        action_dim=_action_dim(source, parts, statistics),
        cameras=said.cameras,
        state_dim=_state_dim(source, parts),
        normalization=said.normalization,
        film=source.vision is not None,
        prompt='qwen' if str(config.get('llm_backbone_id')).startswith('qwen') else 'openvla',
    )
    preset = PRESETS.get(options.preset or '')
    if preset and preset.action_dim != layout.action_dim:
        raise ConvertError(
            f'--preset {options.preset} has actions of {preset.action_dim} values, and '
            f'{source.directory} has {layout.action_dim}',
            'take the preset of its data set, or set --horizon, --cameras and --normalization',
        )
    if preset and not options.no_state and preset.state_dim != layout.state_dim:
        raise ConvertError(
            f'--preset {options.preset} has a state of {preset.state_dim} values, and '
            f'{source.directory} has {layout.state_dim or "no file of proprio_projector"}',
            'add --no-state if it was trained without a state, or take another preset',
        )
    return layout


def _head(source: Source, parts: Mapping[str, Weight]) -> str:
    """Return the kind of the head, by the names of its tensors."""
    block = 'action_head.mlp_resnet_blocks.0'
    for name, kind in (
        (f'{block}.k_self.weight', 'bridge_pro'),
        (f'{block}.k_proj.weight', 'bridge'),
        (f'{block}.ffn.1.weight', 'l1'),
    ):
        if name in parts:
            return kind
    raise ConvertError(
        f'{source.head} is of an unknown kind of head',
        expected='an L1 head of OpenVLA-OFT, or a head of VLA-Adapter',
    )


def _action_dim(source: Source, parts: Mapping[str, Weight], statistics: dict[str, Any]) -> int:
    last = parts.get('action_head.fc2.weight')
    if last is not None:
        if len(last.shape) != 2:
            raise ConvertError(
                f'{source.head}: fc2.weight has the shape {last.shape}', expected='two axes'
            )
        return last.shape[0]
    return action_dim_of(statistics, source.directory)


def action_dim_of(statistics: Mapping[str, Any], directory: Path) -> int:
    """Return the number of values of an action by the statistics of a folder.

    :raises ConvertError: if the data sets differ in it.
    """
    sizes = {
        len(own['action']['q01'])
        for own in statistics.values()
        if isinstance(own, dict)
        and isinstance(own.get('action'), dict)
        and isinstance(own['action'].get('q01'), list)
    }
    if len(sizes) != 1:
        raise ConvertError(
            f'{directory}: {STATISTICS_NAME} has actions of {quoted(sorted(sizes))} values',
            'leave only the data sets of this policy in it',
        )
    return sizes.pop()


def _state_dim(source: Source, parts: Mapping[str, Weight]) -> int:
    if source.state is None or not any(name.startswith('state_projector.') for name in parts):
        return 0
    first = parts.get('state_projector.fc1.weight')
    if first is None or len(first.shape) != 2:
        raise ConvertError(
            f'{source.state} has no fc1.weight', expected="the projector of a robot's state"
        )
    return first.shape[1]


def _statistics(source: Source, base: Path) -> dict[str, Any]:
    for folder in (source.directory, base):
        if os.path.lexists(folder / STATISTICS_NAME):
            return read_json(folder / STATISTICS_NAME)
    raise ConvertError(
        f'{source.directory} has no {STATISTICS_NAME}, which scales actions and state',
        'copy it from the folder of the training',
    )
