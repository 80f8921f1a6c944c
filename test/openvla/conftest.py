# SPDX-License-Identifier: Apache-2.0
"""The hub of the tests, and a checkpoint of their own, for every test of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.hub import empty_cache, hub  # noqa: F401


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, which the test may change; named as in the hub's cache."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / 'models--someone--tiny'))
