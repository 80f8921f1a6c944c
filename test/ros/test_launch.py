"""The launch file, with stand-ins for launch and launch_ros: its arguments, when it restarts."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from support.places import ROOT
from vla_ros.parameters.definition import DEFINITIONS


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
    arguments = dict.fromkeys(DEFINITIONS, '')
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


# -- arguments ---------------------------------------------------------------------------------


def test_every_parameter_is_an_argument(
    launch_file: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_file, 'get_package_share_directory', lambda name: f'/share/{name}')
    description = launch_file.generate_launch_description()
    [actions] = description.positional
    arguments = [one for one in actions if one.kind == 'DeclareLaunchArgument']
    helps = {one.positional[0]: one.named['description'] for one in arguments}
    assert len(helps) == len(arguments)  # no parameter has the name of another argument
    assert {'namespace', 'params_file', 'image', 'respawn'} < helps.keys() - DEFINITIONS.keys()
    for name, one in DEFINITIONS.items():
        assert helps[name].startswith(one.help)


TEXTS = {bool: ('False', False), float: ('2', 2.0), str: ('2', '2'), tuple: ('a, b', ['a', 'b'])}


def test_an_argument_has_the_type_of_its_parameter(launch_file: ModuleType) -> None:
    given = {name: TEXTS[one.kind][0] for name, one in DEFINITIONS.items()}
    node, _ = started(launch_file, **given)
    overrides = node.named['parameters'][1]
    for name, one in DEFINITIONS.items():
        [value] = overrides[name].positional
        assert value == TEXTS[one.kind][1] and type(value) is type(TEXTS[one.kind][1])
        assert overrides[name].named['value_type'] is (None if one.kind is tuple else one.kind)


def test_an_empty_argument_leaves_the_parameter_as_in_the_file(launch_file: ModuleType) -> None:
    node, _ = started(launch_file)
    assert node.named['parameters'] == ['vla.yaml', {}]


@pytest.mark.parametrize(
    ('name', 'text', 'expected'),
    [('compile', 'yes', 'true or false'), ('max_image_age_s', 'half', 'a number')],
)
def test_a_text_of_another_type_is_refused(
    launch_file: ModuleType, name: str, text: str, expected: str
) -> None:
    with pytest.raises(RuntimeError, match=f"{name} is '{text}'; expected {expected}"):
        started(launch_file, **{name: text})


ISOLATED = """
import runpy, sys, types
class StandIn(types.ModuleType):
    def __getattr__(self, name):
        return lambda *positional, **named: ' '.join(map(str, positional))
sys.path.insert(0, {root!r})
sys.modules.update((name, StandIn(name)) for name in {modules})
print(runpy.run_path({file!r})['generate_launch_description']())
"""


def test_it_needs_ros_and_the_standard_library_only() -> None:
    """The interpreter of ``ros2 launch`` may have neither NumPy nor torch, nor a build."""
    file = str(ROOT / 'launch' / 'vla.launch.py')
    modules = [*STAND_INS, 'ament_index_python']
    script = ISOLATED.format(root=str(ROOT), modules=modules, file=file)
    command = [sys.executable, '-I', '-S', '-c', script]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(f"'{name}'" in told for name in DEFINITIONS)


# -- restarts ----------------------------------------------------------------------------------


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
