# SPDX-License-Identifier: Apache-2.0
"""Launch files without ROS's launch, of which there is no wheel: stand-ins for what they import."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from support.places import ROOT

# What the launch files import, by module.
STAND_INS = {
    'ament_index_python': [],
    'ament_index_python.packages': ['get_package_share_directory'],
    'launch': ['Action', 'LaunchContext', 'LaunchDescription'],
    'launch.actions': [
        *('DeclareLaunchArgument', 'GroupAction', 'LogInfo', 'OpaqueFunction'),
        *('RegisterEventHandler', 'TimerAction'),
    ],
    'launch.event_handlers': ['OnProcessExit'],
    'launch.events': [],
    'launch.events.process': ['ProcessExited'],
    'launch.launch_description_sources': ['PythonLaunchDescriptionSource'],
    'launch.utilities': [],
    'launch_ros': [],
    'launch_ros.actions': ['LifecycleNode', 'Node'],
    'launch_ros.parameter_descriptions': ['ParameterValue'],
}


class Inclusion:
    """The stand-in of IncludeLaunchDescription: the file, and the arguments that it passes."""

    kind = 'IncludeLaunchDescription'

    def __init__(self, source: Any = None, launch_arguments: Any = (), **passed: str) -> None:
        self.source = source
        self.launch_arguments = [*launch_arguments, *passed.items()]


class Made:
    """What a launch file made: its kind and arguments."""

    def __init__(self, kind: str, *positional: Any, **named: Any) -> None:
        self.kind, self.positional, self.named = kind, positional, named


def maker(kind: str) -> Callable[..., Made]:
    return lambda *positional, **named: Made(kind, *positional, **named)


def install_stand_ins(monkeypatch: pytest.MonkeyPatch, share: str | Path) -> None:
    """Let launch files find the stand-ins for one test.

    :param share: where the files of the package are said to be installed.
    """
    for module, names in STAND_INS.items():
        stand_in: Any = ModuleType(module)
        for name in names:
            setattr(stand_in, name, maker(name))
        monkeypatch.setitem(sys.modules, module, stand_in)
    stand_ins: Any = sys.modules
    stand_ins['launch.actions'].IncludeLaunchDescription = Inclusion
    stand_ins['launch.utilities'].normalize_to_list_of_substitutions = lambda name: [name]
    stand_ins['launch.utilities'].perform_substitutions = lambda context, parts: ''.join(parts)
    stand_ins['ament_index_python.packages'].get_package_share_directory = lambda name: str(share)
    shared = load(ROOT / 'vla_ros' / 'launching.py')
    monkeypatch.setitem(sys.modules, 'vla_ros.launching', shared)


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.name.partition('.')[0], file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started_by(file: Path, given: Mapping[str, str]) -> Made:
    """The node that a launch file starts, as ``ros2 launch`` does with these arguments."""
    context = SimpleNamespace(launch_configurations={}, environment={}, is_shutdown=False)
    inclusion = Inclusion(SimpleNamespace(positional=(str(file),)), given.items())
    [node] = [one for one in _visited(inclusion, context) if one.kind == 'LifecycleNode']
    return node


def _visited(entity: Any, context: Any) -> Iterator[Any]:
    """Visit as launch does: recursively, and with the action in a variable of this name."""
    below: Any = []
    if entity.kind == 'IncludeLaunchDescription':
        context.launch_configurations.update(entity.launch_arguments)
        [path] = entity.source.positional
        below = [load(Path(path)).generate_launch_description()]
    elif entity.kind in ('LaunchDescription', 'GroupAction'):
        [below] = entity.positional
    elif entity.kind == 'OpaqueFunction':
        below = entity.named['function'](context)
    elif entity.kind == 'DeclareLaunchArgument':
        [name] = entity.positional
        context.launch_configurations.setdefault(name, entity.named['default_value'])
    else:
        yield entity
    for one in below:
        yield from _visited(one, context)


def command_line(node: Made, folder: Path) -> list[str]:
    """What launch_ros writes behind ``--ros-args`` for the node.

    :param folder: for the file of the arguments that are parameters.
    """
    file, overrides = node.named['parameters']
    values = {name: one.positional[0] for name, one in overrides.items()}
    given = folder / 'given.yaml'
    given.write_text(yaml.safe_dump({'/**': {'ros__parameters': values}}))
    words = ['--params-file', file] + (['--params-file', str(given)] if values else [])
    for name, other in node.named['remappings']:
        words += ['-r', f'{name}:={other}']
    return words
