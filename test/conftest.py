"""What all tests share: places, a tiny checkpoint, and a ROS graph of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

# Before rclpy is imported: other tests and robots on this network must not be heard.
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
if os.environ.get('ROS_DISTRO') == 'humble':
    os.environ['ROS_LOCALHOST_ONLY'] = '1'
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
# What an operator has stopped on this machine is none of the tests' business.
ROS_HOME = Path(tempfile.mkdtemp(prefix='vla_ros_home_'))
os.environ['ROS_HOME'] = str(ROS_HOME)
# Under nohup the node would ignore SIGHUP, too, as it should.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


# Before huggingface_hub is imported: the tests' hub is the one that test_hub.py starts here.
HUB_PORT = _free_port()
HUB_HOME = Path(tempfile.mkdtemp(prefix='vla_ros_hub_'))
os.environ['HF_ENDPOINT'] = f'http://127.0.0.1:{HUB_PORT}'
os.environ['HF_HOME'] = str(HUB_HOME)
os.environ['HF_HUB_DISABLE_XET'] = '1'
os.environ.pop('HF_TOKEN', None)

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / 'golden'


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, one data set, actions that are always valid."""
    from vla_ros.synthetic.random_checkpoint import write_random_checkpoint

    return write_random_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'tiny')


def pytest_unconfigure() -> None:
    for folder in (HUB_HOME, ROS_HOME):
        shutil.rmtree(folder, ignore_errors=True)


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
