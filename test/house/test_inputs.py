"""docs/inputs.md says what the code does."""

from __future__ import annotations

import re

import pytest

from support.places import ROOT
from vla_ros.images.encodings import ENCODINGS
from vla_ros.images.raw import DEPTH

INPUTS = (ROOT / 'docs' / 'inputs.md').read_text()


def rows(heading: str) -> list[tuple[str, str]]:
    """Of all tables below a heading: the first two cells."""
    section = re.split(r'^## ', INPUTS.split(f'\n## {heading}')[1], flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith('| ')]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    return [(first, second) for first, second, *_ in cells]


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
