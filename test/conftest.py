# SPDX-License-Identifier: Apache-2.0
"""Fixtures that many tests share."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.places import HUB_HOME, ROS_HOME  # first of all: it sets the environment

# The files that take longest come first: with several processes, the last one decides when all end.
LONGEST = (
    'test_simulate.py',
    'test_closed_loop.py',
    'test_ray.py',
    'test_command_line.py',
    'test_faults_start_and_end.py',
    'test_warmup.py',
    'test_faults.py',
    'test_node.py',
    'test_replay.py',
    'test_bench.py',
    'test_motion_node.py',
    'test_robots.py',
    'test_faults_operator.py',
    'test_faults_process.py',
    'test_faults_graph.py',
    'test_fuzz.py',
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, one data set, actions that are always valid."""
    from vla_ros.synthetic.random_checkpoint import write_random_checkpoint

    return write_random_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'tiny')


def pytest_unconfigure() -> None:
    for folder in (HUB_HOME, ROS_HOME):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def hung_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The event for which every ``os.fsync`` waits, set at the latest at the end of the test."""
    from support.graph import PATIENCE_S

    sync, goes_on = os.fsync, threading.Event()

    def fsync(descriptor: int) -> None:
        assert goes_on.wait(PATIENCE_S)
        sync(descriptor)

    monkeypatch.setattr(os, 'fsync', fsync)
    yield goes_on
    goes_on.set()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """matplotlib's figures that were saved."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    savefig = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        savefig(figure, *arguments, **options)

    monkeypatch.setattr(Figure, 'savefig', keep)
    return figures
