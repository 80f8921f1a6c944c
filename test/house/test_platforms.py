# SPDX-License-Identifier: Apache-2.0
"""Each way to install this package installs the same: pip, pixi, apt, Docker, the workflows."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from support.places import ROOT

RELEASES = ('humble', 'jazzy', 'kilted', 'lyrical')  # the ones of apt, in docs/platforms.md
# ROS 2 packages that package.xml does not name: the whole of ros_base with `ros2`, what it needs to
# be sourced, a middleware, and what the node uses where it is installed (parameters/check.py).
BESIDE = {'ros_base', 'ros_environment', 'rmw_fastrtps_cpp', 'tf2_ros_py', 'control_msgs'}


def read_pixi() -> dict[str, Any]:
    toml = importlib.import_module('tomllib' if sys.version_info >= (3, 11) else 'tomli')
    return toml.loads((ROOT / 'pixi.toml').read_text())


def declared() -> set[str]:
    """The keys of package.xml."""
    root = ElementTree.parse(ROOT / 'package.xml').getroot()
    return {str(one.text) for one in root if one.tag.endswith('depend')}


def names(file: str) -> set[str]:
    """Packages of a file of requirements."""
    lines = (ROOT / 'requirements' / file).read_text().splitlines()
    found = [re.match(r'[A-Za-z0-9_.-]+', line) for line in lines if not line.startswith('#')]
    return {match[0] for match in found if match is not None}


def targets() -> set[str]:
    return set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))


def test_pixi_takes_from_robostack_what_package_xml_asks_of_ros() -> None:
    pixi = read_pixi()
    of_ros = {key for key in declared() if not key.startswith('python3-')} | BESIDE
    environments = {name for [name] in pixi['environments'].values()}
    assert environments == set(pixi['feature']) <= set(RELEASES)
    for release in environments:
        prefix = f'ros-{release}-'
        listed = set(pixi['feature'][release]['dependencies']) - {'python'}
        assert listed == {prefix + key.replace('_', '-') for key in of_ros}
        assert pixi['feature'][release]['channels'] == [f'https://prefix.dev/robostack-{release}']
    commands = [task['cmd'] for task in pixi['tasks'].values()]
    assert {command.removeprefix('make ') for command in commands} <= targets()
    assert {'demo', 'test'} <= set(pixi['tasks'])


def test_the_wheels_of_each_release_are_the_same_packages() -> None:
    jazzy = {one.removeprefix('ros-jazzy-') for one in names('ros-wheels-jazzy.txt')}
    kilted = {one.removeprefix('ros-kilted-') for one in names('ros-wheels-kilted.txt')}
    assert jazzy - kilted == {'python-cmake-module'}  # Kilted has none: CMake finds Python itself
    assert kilted - jazzy == {'ament-cmake-ros-core'}  # in Jazzy a part of ament_cmake_ros
    assert not {one for one in jazzy if one.startswith('ros-')}
    # Messages that come with rclpy, and what is no wheel.
    with_rclpy = {'action_msgs', 'builtin_interfaces', 'rcl_interfaces', 'rosgraph_msgs'}
    messages = {key for key in declared() if key.endswith(('_msgs', '_srvs'))}
    assert {key.replace('_', '-') for key in messages - with_rclpy} <= jazzy


def test_the_same_python_everywhere() -> None:
    oldest = re.search(r"python_requires='>=3\.(\d+)'", (ROOT / 'setup.py').read_text())
    probe = (ROOT / 'tools' / 'find_python.sh').read_text()
    newest = re.search(r'newest=(\d\d)\n  \[', probe.partition('else')[2])
    assert oldest is not None and newest is not None
    assert f'(3, {oldest[1]}) <= sys.version_info' in probe
    assert f'target-version = "py3{oldest[1]}"' in (ROOT / 'pyproject.toml').read_text()
    text = f'Python 3.{oldest[1]} to 3.{newest[1]}'
    assert text in (ROOT / 'docs' / 'install.md').read_text()


def test_workflows_and_pages_name_the_same_releases() -> None:
    workflow = yaml.safe_load((ROOT / '.github' / 'workflows' / 'ros.yml').read_text())
    assert tuple(workflow['jobs']['apt']['strategy']['matrix']['distro']) == RELEASES
    wheels = workflow['jobs']['wheels']['strategy']['matrix']['include']
    for entry in wheels:
        assert (ROOT / 'requirements' / f'ros-wheels-{entry["release"]}.txt').is_file()
    for page in ('platforms.md', 'install.md'):
        text = (ROOT / 'docs' / page).read_text()
        assert [one for one in RELEASES if one.capitalize() not in text] == []
    table = (ROOT / 'docs' / 'platforms.md').read_text()
    for file in (ROOT / '.github' / 'workflows').iterdir():
        assert f'`{file.name}`' in table
        runs = re.findall(r'\bmake ([\w-]+)', file.read_text())
        assert set(runs) <= targets()


def test_the_container_is_made_of_what_there_is() -> None:
    dockerfile = (ROOT / 'Dockerfile').read_text()
    assert re.search(r'^ARG ROS_DISTRO=(\w+)', dockerfile, re.MULTILINE)[1] in RELEASES
    stages = set(re.findall(r'^FROM .* AS (\w+)', dockerfile, re.MULTILINE))
    for line in re.findall(r'^COPY (.*)', dockerfile, re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources)
    folder = ROOT / '.devcontainer'
    build = json.loads((folder / 'devcontainer.json').read_text())['build']
    assert build['target'] in stages
    assert (folder / build['dockerfile']).resolve() == ROOT / 'Dockerfile'
    assert (folder / build['context']).resolve() == ROOT


def test_rosdoc2_builds_the_documentation() -> None:
    _, config = yaml.safe_load_all((ROOT / 'rosdoc2.yaml').read_text())
    [builder] = config['builders']
    assert (ROOT / builder['sphinx']['sphinx_sourcedir']).is_dir()
    assert '<rosdoc2>rosdoc2.yaml</rosdoc2>' in (ROOT / 'package.xml').read_text()


STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
  -m\\ venv*) mkdir -p "$4/bin" && cp "$0" "$4/bin/pip" ;;
  -c\\ *) PYTHONPATH=$STAND_INS exec {python} "$@" ;;
esac
"""


def test_apt_and_pip_share_what_package_xml_asks_for(tmp_path: Path) -> None:
    """tools/install_ros_dependencies.sh, with stand-ins for the programs that install."""
    for program in ('sudo', 'apt-get', 'rosdep', 'python3'):
        file = tmp_path / program
        file.write_text(STAND_IN.format(python=sys.executable))
        file.chmod(0o755)
    (tmp_path / 'numpy.py').write_text("__version__ = '1.26.4'")
    log, venv = tmp_path / 'log', tmp_path / 'venv'
    path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
    environment = {'PATH': path, 'LOG': str(log), 'STAND_INS': str(tmp_path)}
    environment['ROS_DISTRO'] = 'jazzy'
    script = ROOT / 'tools' / 'install_ros_dependencies.sh'
    shell = shutil.which('sh') or '/bin/sh'
    subprocess.run([shell, str(script), str(venv)], env=environment, check=True, timeout=60)
    lines = log.read_text().splitlines()
    [install] = [line for line in lines if line.startswith('rosdep install')]
    skipped = set(install.partition('--skip-keys ')[2].split())
    assert skipped == {key for key in declared() if key.endswith('-pip')} != set()
    assert lines[-1] == f'pip install numpy<2 -r {ROOT}/requirements/runtime.txt'
    assert (venv / 'COLCON_IGNORE').exists()
    environment.pop('ROS_DISTRO')
    done = subprocess.run([shell, str(script)], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 1 and b'source /opt/ros/' in done.stderr
