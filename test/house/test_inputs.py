# SPDX-License-Identifier: Apache-2.0
"""docs/inputs.md says what the code does."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from support.inputs import rows
from support.places import ROOT
from vla_ros.images.encodings import ENCODINGS
from vla_ros.images.raw import DEPTH


def test_every_encoding_has_a_row() -> None:
    told = {
        name: result
        for names, result in rows('Images of a topic')
        for name in re.findall(r'`(\w+)`', names)
    }
    used = {name for name, result in told.items() if not result.startswith('rejected')}
    assert used == set(ENCODINGS)
    assert all(DEPTH.fullmatch(name) for name in told.keys() - used)


@pytest.mark.parametrize('name', ['mono16', '16UC1', '16SC1', '32SC1', '32FC1', '64FC1'])
def test_every_depth_encoding_has_a_row(name: str) -> None:
    assert DEPTH.fullmatch(name)
    [row] = [result for names, result in rows('Images of a topic') if f'`{name}`' in names]
    assert row == 'rejected: a depth image'


@functools.cache
def marks() -> list[tuple[str, str, str]]:
    """Heading, result and situation of every row that a test shows."""
    found = []
    for file in (ROOT / 'test').rglob('test_*.py'):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == 'shows':
                heading, result, *situations = [ast.literal_eval(one) for one in call.args]
                found += [(heading, result, situation) for situation in situations]
    return found


@pytest.mark.parametrize('heading', ['Recordings', 'Launch', 'Stamps', 'Publishers'])
def test_every_row_is_shown_by_a_test(heading: str) -> None:
    told = dict(rows(heading))
    shown = [(result, situation) for table, result, situation in marks() if table == heading]
    assert len(told) == len(rows(heading)) and {situation for _, situation in shown} == set(told)
    for result, situation in shown:
        assert result and told[situation].startswith(result)
