# SPDX-License-Identifier: Apache-2.0
"""The definition of the parameters: its form, what is generated from it, and what it needs."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Iterator

import pytest
import rclpy
import yaml
from rclpy.node import Node

from support.places import ROOT
from vla_ros.parameters import generate
from vla_ros.parameters.check import ParameterError, check_all
from vla_ros.parameters.definition import DEFINITIONS, Definition, Parameters, Settable
from vla_ros.ros.parameters import declare_parameters, read_parameters

UNITS = {  # by the end of the name, longest first
    **{'_rad_s3': 'rad/s^3', '_rad_s2': 'rad/s^2', '_m_s3': 'm/s^3', '_rad_s': 'rad/s'},
    **{'_m_s': 'm/s', '_rpy': 'rad', '_rad': 'rad', '_hz': 'Hz', '_s': 's', '_m': 'm'},
    **{'_gb': 'GB', '_mb': 'MB', '': ''},
}
ALL = [pytest.param(one, id=name) for name, one in DEFINITIONS.items()]
BOUNDED = [pytest.param(one, id=name) for name, one in DEFINITIONS.items() if one.bounds]


# -- the definition ----------------------------------------------------------------------------


@pytest.mark.parametrize('one', ALL)
def test_a_definition_is_complete(one: Definition) -> None:
    assert one.kind in (bool, int, float, str, tuple)
    assert one.sentence[0].isupper() and one.sentence.endswith('.')
    unit = next(unit for ending, unit in UNITS.items() if one.name.endswith(ending))
    assert one.unit == unit
    assert '[' not in one.sentence  # the unit comes from the definition
    assert (one.kind in (int, float)) == (one.bounds is not None)
    assert not one.choices or one.default in one.choices


def test_groups_stand_together() -> None:
    groups = [group for group, _ in itertools.groupby(one.group for one in DEFINITIONS.values())]
    assert len(groups) == len(set(groups))


def test_the_unit_follows_the_quantity() -> None:
    assert DEFINITIONS['max_image_age_s'].description == (
        'Maximum age of an image when inference starts [s].'
    )
    assert DEFINITIONS['image_timeout_s'].description == (
        'Maximum time without a new image [s]; then the robot holds.'
    )
    assert DEFINITIONS['revision'].description == DEFINITIONS['revision'].sentence


def test_defaults_are_allowed() -> None:
    check_all(Parameters())


@pytest.mark.parametrize(
    ('workspace_m', 'robots'),
    [
        ('0, 1, 0, 1, 0', ()),
        ('0, 1, 0, 1, 0, a', ()),
        ('0, 1, 1, 0, 0, 1', ()),
        ('0, 1, 0, 1, 0, nan', ()),
        ('0, 1, 0, 1, 0, inf', ()),
        ('0,1,0,1,0,1; 0,1,0,1,0,1', ()),
        ('0,1,0,1,0,1; 0,1,0,1', ('a', 'b')),
    ],
)
def test_a_workspace_that_is_no_box(workspace_m: str, robots: tuple[str, ...]) -> None:
    with pytest.raises(ParameterError, match='workspace_m'):
        check_all(Parameters(workspace_m=workspace_m, robots=robots))


@pytest.mark.parametrize('folder', ['~nobody_has_this_name/recordings', 'a\0b'])
def test_a_folder_that_is_no_path(folder: str) -> None:
    with pytest.raises(ParameterError, match='recording_folder'):
        check_all(Parameters(recording_folder=folder))


def test_the_workspaces_of_several_robots() -> None:
    one, two = '0, 1, 0, 1, 0, 1', '-1, 1, -1, 1, -1, 1'
    for text, expected in (
        (one, [one, one]),
        (f'{one}; {two}', [one, two]),
        (f';{two}', ['', two]),
    ):
        parameters = Parameters(workspace_m=text, robots=('a', 'b'))
        check_all(parameters)
        assert parameters.workspaces == expected


@pytest.mark.parametrize('one', BOUNDED)
def test_bounds_of_parameters(one: Definition) -> None:
    low, high = one.bounds
    for value in (low - 0.001, low - 1.0, high * 2, float('nan'), float('inf')):
        with pytest.raises(
            ParameterError, match=rf'{one.name} is .*; allowed: {low:g} to {high:g}'
        ):
            check_all(dataclasses.replace(Parameters(), **{one.name: value}))


@pytest.mark.parametrize('module', ['definition', 'check', 'generate'])
def test_it_needs_the_standard_library_only(module: str) -> None:
    """From a source tree without a build, in an interpreter without installed packages."""
    script = (
        f'import sys; sys.path.insert(0, {str(ROOT)!r})\n'
        f'import vla_ros.parameters.{module}\n'
        'names = {name.partition(".")[0] for name in sys.modules}\n'
        'print(*(names - set(sys.stdlib_module_names) - {"__main__"}))'
    )
    command = [sys.executable, '-I', '-S', '-c', script]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ['vla_ros']


# -- what is generated -------------------------------------------------------------------------


@pytest.mark.parametrize('name', generate.generated())
def test_a_generated_file_is_current(name: str) -> None:
    current = (ROOT / name).read_text(encoding='utf-8') == generate.generated()[name]
    assert current, f'{name} is old; run make generate'


@pytest.mark.parametrize('name', generate.generated())
def test_a_generated_file_is_at_most_100_columns_wide(name: str) -> None:
    assert max(map(len, generate.generated()[name].splitlines())) <= 100


def test_the_parameter_file_has_every_parameter_with_its_default() -> None:
    content = yaml.safe_load(generate.parameter_file())
    shown = content['/**']['ros__parameters']
    defaults = {
        name: list(one.default) if one.kind is tuple else one.default
        for name, one in DEFINITIONS.items()
    }
    assert list(shown) == list(defaults) and shown == defaults
    assert all(type(shown[name]) is type(default) for name, default in defaults.items())


def test_the_page_has_a_row_and_a_sentence_for_every_parameter() -> None:
    lines = generate.page().splitlines()
    rows = [line for line in lines if line.startswith('| `')]
    assert [row.split('`')[1] for row in rows] == list(DEFINITIONS)
    assert {row.count(' | ') for row in rows} == {4}
    sentences = [line for line in lines if line.startswith('- `')]
    assert [line.split('`')[1] for line in sentences] == list(DEFINITIONS)


# -- on a node ---------------------------------------------------------------------------------


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node('described', context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_node_declares_what_is_defined(node: Node) -> None:
    declare_parameters(node)
    assert read_parameters(node) == Parameters()
    for name, one in DEFINITIONS.items():
        told = node.describe_parameter(name)
        assert told.description == one.description
        assert told.read_only == (one.settable is Settable.AT_START)
        assert told.additional_constraints == (f'one of {one.allowed}' if one.choices else '')
        ranges = [
            (limit.from_value, limit.to_value)
            for limit in (*told.floating_point_range, *told.integer_range)
        ]
        assert ranges == ([one.bounds] if one.bounds else [])
