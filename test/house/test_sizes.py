# SPDX-License-Identifier: Apache-2.0
"""Sizes that keep the code readable, and the texts that planted mistakes replace."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from simulate.mutants import planted
from support.places import ROOT

FUNCTION_LINES = 50
CLI_LINES = 1656  # vla_serve has 120 of these, the options of a server 26, vla_convert 66


def sources() -> Iterator[tuple[str, ast.Module]]:
    package = ROOT / 'vla_ros'
    for file in sorted(package.rglob('*.py')):
        yield str(file.relative_to(package)), ast.parse(file.read_text())


def test_functions_are_short() -> None:
    long = {
        f'{file}: {node.name}'
        for file, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and lines(node) > FUNCTION_LINES
    }
    assert not long


def lines(node: ast.FunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_types_say_what_is_there() -> None:
    """Not ``assert x is not None``: an object exists from its beginning to its end."""
    found = {
        file
        for file, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and 'is not None' in ast.unparse(node.test)
    }
    assert not found


def test_commands_are_thin() -> None:
    files: list[Path] = sorted((ROOT / 'vla_ros' / 'cli').glob('*.py'))
    assert sum(len(file.read_text().splitlines()) for file in files) <= CLI_LINES


def test_each_planted_mistake_has_its_place() -> None:
    assert len(planted()) >= 46  # it asserts that each text stands exactly once in its file
