# SPDX-License-Identifier: Apache-2.0
"""What was made for 0.1 is still read, or docs/moving_from_0.1.md says what took its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.bags import STORAGES, new_types, recording
from support.places import ROOT
from vla_ros.msg import VlaStatus
from vla_ros.parameters.check import check_all, typed_value
from vla_ros.parameters.definition import Parameters
from vla_ros.replay.bag import Bag
from vla_ros.replay.recorded import ACTION, action_definitions, read_recorded

OLD = ROOT / 'test' / 'data' / '0.1'


def has(message: Any, path: str) -> bool:
    """Whether the message has a field of that path, through the messages in it."""
    for name in path.split('.'):
        if not hasattr(message, name):
            return False
        message = getattr(message, name)
    return True


def test_every_field_of_the_old_status_has_a_place() -> None:
    page = (ROOT / 'docs' / 'moving_from_0.1.md').read_text()
    places: dict[str, list[str]] = {}
    for old, new in re.findall(r'^\| (`.*?) \| (`.*?) \|$', page, re.MULTILINE):
        paths = re.findall(r'`([\w.]+)`', new)
        assert all(has(VlaStatus(), path) for path in paths), new
        for name in re.findall(r'`(\w+)`', old):
            places.setdefault(name, paths)
    definition = (OLD / 'VlaStatus.msg').read_text()
    fields = re.findall(r'^[\w/]+ (\w+) +#|^[\w/]+ (\w+)$', definition, re.MULTILINE)
    names = [one or other for one, other in fields]
    assert len(names) == 59
    kept = [name for name in names if name not in places]
    assert kept == ['header', 'robot', 'reason', 'elapsed_s', 'instruction']
    assert all(has(VlaStatus(), name) for name in kept)


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('version', [0, 1])
def test_actions_of_every_version_are_read(tmp_path: Path, storage: str, version: int) -> None:
    definitions = action_definitions()
    with recording(tmp_path / 'bag', storage, new_types(definitions[version])) as recorder:
        recorder.action('/action', 1.0, [1.0, 2.0])
        recorder.action('/action', 2.0, [0.5, -2.0])
    with Bag(tmp_path / 'bag', {ACTION: definitions}) as bag:
        (action,) = read_recorded(bag, pytest.fail)
    assert action.values == [[1.0, 2.0], [0.5, -2.0]]


def test_an_old_parameter_file_is_valid() -> None:
    values = yaml.safe_load((OLD / 'vla.yaml').read_text())['/**']['ros__parameters']
    parameters = Parameters(**{name: typed_value(name, value) for name, value in values.items()})
    check_all(parameters)
    assert parameters == Parameters()
