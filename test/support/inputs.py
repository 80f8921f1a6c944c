# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/inputs.md, and the tests that show their rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from support.places import ROOT

INPUTS = (ROOT / 'docs' / 'inputs.md').read_text()

Test = TypeVar('Test', bound=Callable[..., object])


def rows(heading: str) -> list[tuple[str, str]]:
    """Of all tables below a heading: the first two cells."""
    section = re.split(r'^## ', INPUTS.split(f'\n## {heading}')[1], flags=re.MULTILINE)[0]
    tables = re.findall(r'^\|.*\n\|---.*\n((?:\|.*\n)+)', section, flags=re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    return [(first, second) for first, second, *_ in cells]


def shows(heading: str, result: str, *situations: str) -> Callable[[Test], Test]:
    """Mark a test: it shows rows of a table. test_inputs.py finds the marks in the sources.

    :param heading: of the table.
    :param result: how the second cell of these rows begins.
    :param situations: their first cells.
    """
    return lambda test: test
