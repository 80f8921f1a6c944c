# SPDX-License-Identifier: Apache-2.0
"""make setup ROS=none: the commands that need no ROS, from the source tree."""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from support.places import ROOT


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location('setup_venv', ROOT / 'tools' / 'setup_venv.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'VENV', tmp_path)
    monkeypatch.setattr(module, 'VENV_PYTHON', tmp_path / 'bin' / 'python')
    for folder in ('bin', 'lib/python3.12/site-packages'):
        (tmp_path / folder).mkdir(parents=True)
    return module


def test_which_ros(setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('ROS', 'ROS_DISTRO', 'AMENT_PREFIX_PATH'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(setup, 'RECORD', tmp_path / 'record.json')
    monkeypatch.setattr(setup.platform, 'system', lambda: 'Linux')
    monkeypatch.setattr(setup.platform, 'machine', lambda: 'x86_64')
    assert setup.find_ros() == 'wheels'
    setup.write_record({'ros': 'wheels-kilted'})
    assert setup.find_ros() == 'wheels-kilted'  # that .venv goes on with what it was made of
    for release in setup.WHEELS:
        monkeypatch.setenv('ROS', release)
        assert setup.release_of_wheels(setup.find_ros()) == release
        assert (ROOT / 'requirements' / f'ros-wheels-{release}.txt').is_file()
    monkeypatch.setenv('ROS', 'foxy')
    with pytest.raises(setup.SetupError, match='ROS=foxy is unknown: it can be none, jazzy or kil'):
        setup.find_ros()
    monkeypatch.setenv('ROS', 'kilted')
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    monkeypatch.setenv('AMENT_PREFIX_PATH', '/opt/ros/jazzy')
    with pytest.raises(setup.SetupError, match='but ROS 2 jazzy is sourced: leave ROS out'):
        setup.find_ros()
    monkeypatch.delenv('ROS')
    assert setup.find_ros() == 'jazzy'  # rclpy is installed where this runs


def test_the_commands_without_ros(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('ROS', 'none')
    assert setup.find_ros() == 'none'
    setup.link_sources(tmp_path, setup.WITHOUT_ROS)
    [link] = tmp_path.glob('lib/*/*/*.pth')
    assert link.read_text() == f'{ROOT}\n'
    commands = sorted((tmp_path / 'bin').iterdir())
    assert [one.name for one in commands] == [f'vla_{name}' for name in setup.WITHOUT_ROS]
    for command in commands:
        assert os.access(command, os.X_OK)
        first, _, program = command.read_text().partition('\n')
        assert first == f'#!{tmp_path}/bin/python'
        [imported] = [node for node in ast.parse(program).body if isinstance(node, ast.ImportFrom)]
        assert imported.module is not None
        assert (ROOT / f'{imported.module.replace(".", "/")}.py').is_file()
        assert f"'{command.name}': '{imported.module}'" in (ROOT / 'setup.py').read_text()
