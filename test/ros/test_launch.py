"""The launch file, with stand-ins for launch and launch_ros: when the node starts again."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from support.places import ROOT


class Made:
    """What the launch file made: its kind and arguments."""

    def __init__(self, kind: str, *positional: Any, **named: Any) -> None:
        self.kind, self.positional, self.named = kind, positional, named


def maker(kind: str) -> Callable[..., Made]:
    return lambda *positional, **named: Made(kind, *positional, **named)


# What the launch file imports, by module.
STAND_INS = {
    'ament_index_python.packages': ['get_package_share_directory'],
    'launch': ['Action', 'LaunchContext', 'LaunchDescription'],
    'launch.actions': [
        *('DeclareLaunchArgument', 'OpaqueFunction', 'RegisterEventHandler', 'TimerAction'),
    ],
    'launch.event_handlers': ['OnProcessExit'],
    'launch.events': [],
    'launch.events.process': ['ProcessExited'],
    'launch_ros': [],
    'launch_ros.actions': ['Node'],
    'launch_ros.parameter_descriptions': ['ParameterValue'],
}


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for module, names in STAND_INS.items():
        stand_in = ModuleType(module)
        for name in names:
            setattr(stand_in, name, maker(name))
        monkeypatch.setitem(sys.modules, module, stand_in)
    monkeypatch.setitem(sys.modules, 'ament_index_python', ModuleType('ament_index_python'))
    spec = importlib.util.spec_from_file_location('vla_launch', ROOT / 'launch' / 'vla.launch.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(launch_file: ModuleType, **given: str) -> tuple[Made, Callable[[int], Any]]:
    """The node, and what happens when it ends with a code."""
    arguments = {name: '' for name, _, _ in launch_file.PARAMETERS}
    arguments |= {topic: topic for topic in launch_file.TOPICS}
    arguments |= {'namespace': '', 'params_file': 'vla.yaml', 'log_level': 'info'}
    arguments |= {'respawn': 'true', **given}
    context = SimpleNamespace(launch_configurations=arguments, is_shutdown=False)
    node, handler = launch_file.start_node(context)
    [on_process_exit] = handler.positional
    assert on_process_exit.named['target_action'] is node

    def end(code: int, shutting_down: bool = False) -> Any:
        context.is_shutdown = shutting_down
        return on_process_exit.named['on_exit'](SimpleNamespace(returncode=code), context)

    return node, end


@pytest.mark.parametrize('code', [70, 1, -6, -7, -9, -11, 3])
def test_a_node_that_died_is_started_again_disabled(launch_file: ModuleType, code: int) -> None:
    node, end = started(launch_file, model='scripted', enabled='true')
    assert node.named['parameters'][1]['enabled'].positional == (True,)
    [timer] = end(code)
    assert timer.named['period'] == launch_file.RESPAWN_DELAY_S
    again, handler = timer.named['actions']
    assert again.kind == 'Node' and handler.kind == 'RegisterEventHandler'
    assert again.named['parameters'][1]['enabled'] is False
    assert again.named['parameters'][1]['model'].positional == ('scripted',)


@pytest.mark.parametrize('code', [0, 2])
def test_a_node_that_was_ended_or_given_unusable_arguments_is_not(
    launch_file: ModuleType, code: int
) -> None:
    _, end = started(launch_file)
    assert end(code) is None


@pytest.mark.parametrize('code', [70, -6, -9])
def test_nothing_is_started_again_when_launch_ends_or_was_told_not_to(
    launch_file: ModuleType, code: int
) -> None:
    _, end = started(launch_file)
    assert end(code, shutting_down=True) is None
    _, end = started(launch_file, respawn='false')
    assert end(code) is None
