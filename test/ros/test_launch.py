# SPDX-License-Identifier: Apache-2.0
"""The launch file, with stand-ins for launch and launch_ros: its arguments, when it restarts."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from support.inputs import shows
from support.launch_files import STAND_INS, Inclusion, Made, install_stand_ins, load
from support.places import ROOT
from vla_ros.parameters.definition import DEFINITIONS


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    install_stand_ins(monkeypatch, '/share/vla_ros')
    return load(ROOT / 'launch' / 'vla.launch.py')


def visit(entity: Inclusion, function: Callable[[], Any]) -> Any:
    """Call as launch does, which has the inclusion in a variable of this name."""
    return function()


def start(
    launch_file: ModuleType,
    given: dict[str, str],
    foreign: dict[str, str] | None = None,
    **pushed: str,
) -> tuple[list[Any], Any]:
    """What the launch file starts, and the context.

    :param given: the arguments that the inclusion passes.
    :param foreign: other values around it: those of the bring-up.
    """
    defaults = {name: default for name, (default, _) in launch_file.arguments().items()}
    context = SimpleNamespace(
        launch_configurations={**defaults, **(foreign or {}), **given, **pushed},
        environment={'LANG': 'C'},
        is_shutdown=False,
    )
    return visit(Inclusion(**given), lambda: launch_file.start_node(context)), context


def started(launch_file: ModuleType, **given: str) -> tuple[Made, Callable[[int], Any]]:
    """The node, and what happens when it ends with a code."""
    (node, handler), context = start(launch_file, {'params_file': 'vla.yaml', **given})
    [on_process_exit] = handler.positional
    assert on_process_exit.named['target_action'] is node

    def end(code: int, shutting_down: bool = False) -> Any:
        context.is_shutdown = shutting_down
        return on_process_exit.named['on_exit'](SimpleNamespace(returncode=code), context)

    return node, end


# -- arguments ---------------------------------------------------------------------------------


def helps(launch_file: ModuleType) -> dict[str, str]:
    """The description of each argument."""
    [[group]] = launch_file.generate_launch_description().positional
    [actions] = group.positional
    arguments = [one for one in actions if one.kind == 'DeclareLaunchArgument']
    found = {one.positional[0]: one.named['description'] for one in arguments}
    assert len(found) == len(arguments)  # no parameter has the name of another argument
    return found


def test_every_parameter_is_an_argument(launch_file: ModuleType) -> None:
    found = helps(launch_file)
    others = {'namespace', 'params_file', 'image', 'respawn', 'use_sim_time', 'log_level'}
    others |= {'console', 'console_port'}
    assert others < found.keys() - DEFINITIONS.keys()
    assert {'autostart', 'image_reliability'} < found.keys()
    for name, one in DEFINITIONS.items():
        assert found[name].startswith(one.help)


def test_the_console_starts_beside_the_node_if_it_is_wanted(launch_file: ModuleType) -> None:
    given = {'params_file': 'vla.yaml', 'console': 'true', 'console_port': '8081'}
    (_, _, console), _ = start(launch_file, given)
    assert console.named['executable'] == 'console'
    assert console.named['arguments'] == ['--port', '8081']
    (_, _), _ = start(launch_file, {'params_file': 'vla.yaml', 'console': 'false'})


def test_the_help_of_an_argument_has_unit_choices_and_default(launch_file: ModuleType) -> None:
    found = helps(launch_file)
    assert found['max_image_age_s'].endswith('[s]. Allowed: 0.001 to 3600. Default: 0.5.')
    assert found['quantization'].endswith('Allowed: none, int8, int4. Default: none.')
    assert found['autostart'].endswith('Allowed: true, false. Default: true.')
    assert found['robots'].endswith('Commas separate the names. Default: empty.')
    assert 'Allowed: debug, info, warn, error, fatal.' in found['log_level']


TEXTS = {
    bool: ('False', False),
    int: ('2', 2),
    float: ('2', 2.0),
    str: ('2', '2'),
    tuple: ('a, b', ['a', 'b']),
}


def test_an_argument_has_the_type_of_its_parameter(launch_file: ModuleType) -> None:
    texts = {
        name: (one.choices[-1], one.choices[-1]) if one.choices else TEXTS[one.kind]
        for name, one in DEFINITIONS.items()
    } | {'control_rate_hz': ('50', 50.0), 'recomputed_patches': ('1', 1.0)}
    node, _ = started(launch_file, **{name: text for name, (text, _) in texts.items()})
    overrides = node.named['parameters'][1]
    for name, one in DEFINITIONS.items():
        [value] = overrides[name].positional
        assert value == texts[name][1] and type(value) is type(texts[name][1])
        assert overrides[name].named['value_type'] is (None if one.kind is tuple else one.kind)


@shows('Launch', 'the parameter stays', 'an empty argument')
def test_an_empty_argument_leaves_the_parameter_as_in_the_file(launch_file: ModuleType) -> None:
    node, _ = started(launch_file)
    assert node.named['parameters'] == ['vla.yaml', {}]


@shows('Launch', 'launch ends', 'a value of another type, or that is not allowed')
@pytest.mark.parametrize(
    ('name', 'text', 'expected'),
    [
        ('compile', 'yes', 'true or false'),
        ('max_image_age_s', 'half', 'a number'),
        ('replan_rows', '2.5', 'a whole number'),
    ],
)
def test_a_text_of_another_type_is_refused(
    launch_file: ModuleType, name: str, text: str, expected: str
) -> None:
    with pytest.raises(RuntimeError, match=f"{name} is '{text}'; expected {expected}"):
        started(launch_file, **{name: text})


@shows('Launch', 'launch ends', 'a value of another type, or that is not allowed')
@pytest.mark.parametrize(
    ('given', 'told'),
    [
        ({'quantization': 'int9'}, "parameter quantization is 'int9'; allowed: none, int8, int4"),
        ({'max_image_age_s': '0'}, 'parameter max_image_age_s is 0; allowed: 0.001 to 3600'),
        ({'robots': 'a,2b'}, "parameter robots has the name '2b'"),
        ({'respawn': 'maybe'}, "launch argument respawn is 'maybe'; expected true, false"),
        ({'log_level': 'loud'}, "launch argument log_level is 'loud'; expected debug, info"),
        ({'use_sim_time': '1'}, "launch argument use_sim_time is '1'; expected true or false"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(
    launch_file: ModuleType, given: dict[str, str], told: str
) -> None:
    with pytest.raises(RuntimeError, match=told):
        started(launch_file, **given)


@shows('Launch', 'reach the node', '`use_sim_time`, `autostart`, `image_reliability`')
def test_use_sim_time_and_autostart_reach_the_node(launch_file: ModuleType) -> None:
    given = {'use_sim_time': 'true', 'autostart': 'false', 'image_reliability': 'best_effort'}
    node, _ = started(launch_file, **given)
    overrides = node.named['parameters'][1]
    assert overrides['image_reliability'].positional == ('best_effort',)
    assert overrides['use_sim_time'].positional == (True,)
    assert overrides['autostart'].positional == (False,)


@shows('Launch', 'launch ends', 'an argument that is not declared')
@pytest.mark.parametrize(
    ('name', 'told'),
    [
        ('quantisation', r'quantisation \(did you mean quantization\?\);'),
        ('use_simtime', r'use_simtime \(did you mean use_sim_time\?\);'),
        ('xyzzy', 'argument: xyzzy;'),
    ],
)
def test_an_undeclared_argument_is_refused_with_the_nearest_name(
    launch_file: ModuleType, name: str, told: str
) -> None:
    with pytest.raises(RuntimeError, match=told) as refusal:
        started(launch_file, **{name: 'int8'})
    assert '\n' not in str(refusal.value)


def test_the_options_of_ros2_launch_are_no_arguments_of_ours(launch_file: ModuleType) -> None:
    node, _ = started(launch_file, **{'launch-prefix': 'gdb', 'launch-prefix-filter': 'vla'})
    assert node.kind == 'LifecycleNode'


# -- several cameras ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (
            {'images': 'front:=/front/color, wrist:=hand/color'},
            [('front/image', '/front/color'), ('wrist/image', 'hand/color')],
        ),
        ({'images': 'wrist:=/w'}, [('wrist/image', '/w')]),
        (
            {'robots': 'a,b', 'images': 'a/front:=/1,b/front:=/2'},
            [('a/front/image', '/1'), ('b/front/image', '/2')],
        ),
        (
            {'images': 'front:=/f', 'state': '/s'},
            [('state', '/s'), ('front/image', '/f')],
        ),
    ],
)
def test_topics_of_several_cameras(
    launch_file: ModuleType, given: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    node, _ = started(launch_file, **given)
    assert node.named['remappings'] == expected


@shows('Launch', 'launch ends', '`images` with another form, an unknown robot, a camera twice')
@pytest.mark.parametrize(
    ('given', 'told'),
    [
        ({'images': '/front/color'}, "images has '/front/color'; expected CAMERA:=TOPIC"),
        ({'images': 'front:='}, "images has 'front:='; expected CAMERA:=TOPIC"),
        ({'images': 'a/front:=/f'}, "images has 'a/front:=/f'; expected CAMERA:=TOPIC"),
        ({'images': 'front:=/f,'}, "images has ''; expected CAMERA:=TOPIC"),
        ({'images': '2:=/f'}, "images has '2:=/f'; expected CAMERA:=TOPIC"),
        ({'images': 'f:=/f,f:=/g'}, 'images has f twice; expected each camera once'),
        (
            {'robots': 'a,b', 'images': 'front:=/f'},
            "images has 'front:=/f'; expected ROBOT/CAMERA:=TOPIC with a robot of a, b",
        ),
        ({'image': '/c', 'images': 'f:=/f'}, "image, '/c', and images, 'f:=/f': expected one of"),
    ],
)
def test_topics_of_several_cameras_that_are_not_usable(
    launch_file: ModuleType, given: dict[str, str], told: str
) -> None:
    with pytest.raises(RuntimeError, match=re.escape(told)):
        started(launch_file, **given)


def test_further_topics_and_actions_have_other_names(launch_file: ModuleType) -> None:
    given = {'gripper_cmd': '/g', 'remap': 'left/joint_commands:=/l/commands, left_gripper_cmd:=/h'}
    node, _ = started(launch_file, **given)
    expected = [('left/joint_commands', '/l/commands'), ('left_gripper_cmd', '/h')]
    assert node.named['remappings'] == [('gripper_cmd', '/g'), *expected]


@shows('Launch', 'launch ends', '`remap` with another form')
@pytest.mark.parametrize('text', ['left_gripper_cmd', ':=/a', 'a:=', 'a:=/b,'])
def test_a_remapping_of_another_form_is_refused(launch_file: ModuleType, text: str) -> None:
    with pytest.raises(RuntimeError, match='launch argument remap has'):
        started(launch_file, remap=text)


# -- in a bring-up -----------------------------------------------------------------------------


@shows(
    'Launch',
    'ignored',
    'a bring-up that has an argument of the same name, such as `device`, and does not pass it',
)
def test_arguments_of_a_bring_up_are_not_ours_unless_passed(launch_file: ModuleType) -> None:
    """Its own device and topic have other meanings, and its other arguments other names."""
    foreign = {'device': '/dev/video0', 'image': '/other', 'quantisation': 'x', 'respawn': 'no'}
    passed = {'model': 'scripted', 'params_file': 'vla.yaml'}
    (told, node, _), _ = start(launch_file, passed, foreign)
    assert told.kind == 'LogInfo' and told.named['msg'].endswith('ignored: device, image, respawn')
    values = {name: one.positional for name, one in node.named['parameters'][1].items()}
    assert values == {'model': ('scripted',)}
    assert node.named['remappings'] == []


@shows('Launch', 'only these count', 'a bring-up in Python, XML or YAML that passes arguments')
def test_what_a_bring_up_passes_is_ours(launch_file: ModuleType) -> None:
    (node, _), _ = start(launch_file, {'device': 'cpu'}, {'device': '/dev/video0'})
    assert node.named['parameters'][1]['device'].positional == ('cpu',)


@shows('Launch', 'launch ends', 'a bring-up that passes an argument that is not declared')
def test_a_bring_up_must_not_pass_what_is_undeclared(launch_file: ModuleType) -> None:
    with pytest.raises(RuntimeError, match='did you mean quantization'):
        start(launch_file, {'quantisation': 'int8'}, {'camera_name': 'front'})


def test_the_innermost_inclusion_counts(launch_file: ModuleType) -> None:
    def included() -> Any:
        return start(launch_file, {'model': 'scripted'})

    outer = Inclusion(camera_name='front', device='/dev/video0')
    (node, _), _ = visit(outer, included)
    assert node.named['parameters'][1]['model'].positional == ('scripted',)


@shows('Launch', 'sees none', 'what the bring-up includes next')
def test_no_argument_outlives_the_file(launch_file: ModuleType) -> None:
    """Otherwise our image or params_file would be that of whatever is included next."""
    [[group]] = launch_file.generate_launch_description().positional
    assert group.kind == 'GroupAction' and 'scoped' not in group.named
    kinds = {one.kind for one in group.positional[0]}
    assert kinds == {'DeclareLaunchArgument', 'OpaqueFunction'}


@pytest.mark.parametrize(
    ('pushed', 'own', 'full', 'logger'),
    [
        ('', '', '', 'vla'),
        ('', 'left', '/left', 'left.vla'),
        ('/cell', '', '/cell', 'cell.vla'),
        ('/cell', 'left', '/cell/left', 'cell.left.vla'),
        ('/cell', '/left', '/left', 'left.vla'),
    ],
)
def test_the_log_level_is_that_of_the_node_in_its_full_namespace(
    launch_file: ModuleType, pushed: str, own: str, full: str, logger: str
) -> None:
    given = {'namespace': own, 'log_level': 'debug'}
    (node, _), _ = start(launch_file, given, ros_namespace=pushed)
    assert node.named['namespace'] == full
    assert node.named['arguments'] == ['--ros-args', '--log-level', f'{logger}:=debug']


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
    modules = [*STAND_INS]
    script = ISOLATED.format(root=str(ROOT), modules=modules, file=file)
    command = [sys.executable, '-I', '-S', '-c', script]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(f"'{name}'" in told for name in DEFINITIONS)


# -- restarts ----------------------------------------------------------------------------------


@shows('Launch', 'launch starts it again', 'the node dies')
@pytest.mark.parametrize('code', [70, 1, -6, -7, -9, -11, 3])
def test_a_node_that_died_is_started_again_disabled(launch_file: ModuleType, code: int) -> None:
    node, end = started(launch_file, model='scripted', enabled='true')
    assert node.named['parameters'][1]['enabled'].positional == (True,)
    [timer] = end(code)
    assert timer.named['period'] == launch_file.RESPAWN_DELAY_S
    [group] = timer.named['actions']
    restore, again, handler = group.positional[0]
    counts = {'/vla': 1}  # of the nodes with a name, by launch_ros: it warns of two
    later = SimpleNamespace(
        launch_configurations={},
        environment={},
        get_locals_as_dict=lambda: {'unique_ros_node_names': counts},
    )
    restore.named['function'](later)
    assert counts == {'/vla': 0}
    assert later.launch_configurations['model'] == 'scripted' and later.environment['LANG'] == 'C'
    assert again.kind == 'Node' and handler.kind == 'RegisterEventHandler'
    assert again.named['parameters'][1]['enabled'] is False
    assert again.named['parameters'][1]['model'].positional == ('scripted',)


@shows('Launch', 'not started again', 'the node ends with 0 or 2, or launch itself ends')
@pytest.mark.parametrize('code', [0, 2])
def test_a_node_that_was_ended_or_given_unusable_arguments_is_not(
    launch_file: ModuleType, code: int
) -> None:
    _, end = started(launch_file)
    assert end(code) is None


@shows('Launch', 'not started again', 'the node ends with 0 or 2, or launch itself ends')
@pytest.mark.parametrize('code', [70, -6, -9])
def test_nothing_is_started_again_when_launch_ends_or_was_told_not_to(
    launch_file: ModuleType, code: int
) -> None:
    _, end = started(launch_file)
    assert end(code, shutting_down=True) is None
    _, end = started(launch_file, respawn='false')
    assert end(code) is None
