# SPDX-License-Identifier: Apache-2.0
"""Folders as trainings leave them, made of the tiny checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from support.trainings import HEAD, PROJECTOR, STATE, VALUES, l1_head, projector

LIMITS = {'min': -2.0, 'q01': -1.0, 'q99': 1.0, 'max': 2.0}


@pytest.fixture
def oft_tiny(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A folder of OpenVLA-OFT, which the test may change: an L1 head, a state of 8 values."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / 'oft'))
    torch.save(l1_head(), folder / HEAD)
    torch.save(projector(), folder / PROJECTOR)
    bounds = {name: [value] * VALUES for name, value in LIMITS.items()}
    bounds['mask'] = [True] * 6 + [False]
    state = {name: [2 * value] * STATE for name, value in LIMITS.items()}
    statistics = {'libero': {'action': bounds, 'proprio': state}}
    (folder / 'dataset_statistics.json').write_text(json.dumps(statistics))
    return folder
