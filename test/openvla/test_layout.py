# SPDX-License-Identifier: Apache-2.0
"""vla_ros.json: what is written is read again, and what is wrong is rejected."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vla_ros.openvla.errors import CheckpointError
from vla_ros.openvla.layout import LAYOUT_NAME, Layout, read_layout, write_layout

OFT = Layout('l1', 8, 7, ('image', 'wrist_image'), 8, 'q01_q99', False, 'openvla')
PRO = replace(OFT, action_head='bridge_pro', prompt='qwen')


@pytest.mark.parametrize(
    'layout',
    [
        OFT,
        PRO,
        replace(OFT, action_head='tokens', cameras=('image',), state_dim=0),
        replace(OFT, horizon=25, action_dim=14, normalization='min_max', film=True),
    ],
)
def test_what_is_written_is_read_again(layout: Layout, tmp_path: Path) -> None:
    assert read_layout(tmp_path) is None
    write_layout(tmp_path, layout)
    assert read_layout(tmp_path) == layout
    with pytest.raises(FileExistsError):
        write_layout(tmp_path, layout)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'format': 2}, 'format is 2'),
        ({'format': True}, 'format is True'),
        ({'chunk': 8}, 'has the unknown field chunk'),
        ({'film': None}, 'film is None; expected true or false'),
        ({'action_head': 'diffusion'}, "action_head is 'diffusion'; expected one of l1, tokens"),
        ({'action_head': ['l1']}, 'action_head is'),
        ({'horizon': 0}, 'horizon is 0; expected a whole number from 1'),
        ({'horizon': 8.0}, 'horizon is 8.0'),
        ({'action_dim': True}, 'action_dim is True'),
        ({'state_dim': -1}, 'state_dim is -1'),
        ({'normalization': 'bounds'}, "normalization is 'bounds'"),
        ({'prompt': 'vicuna'}, "prompt is 'vicuna'"),
        ({'prompt': 'qwen', 'action_head': 'tokens'}, 'openvla with action_head tokens'),
        ({'cameras': []}, 'a list of 1 to 3 names'),
        ({'cameras': list('abcd')}, 'a list of 1 to 3 names'),
        ({'cameras': 'image'}, 'a list of 1 to 3 names'),
        ({'cameras': ['image', 'image']}, 'each name once'),
        ({'cameras': ['image', '']}, 'as the name of each'),
        ({'cameras': ['image', 3]}, 'as the name of each'),
    ],
)
def test_a_wrong_file_is_rejected(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write_layout(tmp_path, OFT)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError) as caught:
        read_layout(tmp_path)
    assert str(path) in str(caught.value) and words in str(caught.value)


def test_every_field_is_required(tmp_path: Path) -> None:
    path = write_layout(tmp_path, OFT)
    content = json.loads(path.read_text())
    assert path.name == LAYOUT_NAME and len(content) == 9
    for name in content:
        path.write_text(json.dumps({key: value for key, value in content.items() if key != name}))
        with pytest.raises(CheckpointError, match=name):
            read_layout(tmp_path)


@pytest.mark.parametrize('head', ['bridge', 'bridge_pro'])
@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'cameras': ('image',)}, '2 cameras with action_head'),
        ({'cameras': ('image', 'wrist_image', 'other')}, '2 cameras with action_head'),
        ({'state_dim': 0}, 'the size of a state with action_head'),
        ({'film': True}, 'false with action_head'),
    ],
)
def test_a_vla_adapter_has_two_cameras_and_a_state(
    head: str, change: dict[str, Any], words: str
) -> None:
    """The goldens ``quirk_*`` say what the reference computes otherwise; it was never trained."""
    with pytest.raises(CheckpointError, match=words):
        replace(PRO, action_head=head, **change)
