# SPDX-License-Identifier: Apache-2.0
"""Errors for users have parts: what failed, and at least one of advice, value and expected."""

from __future__ import annotations

import ast
from collections import defaultdict

from support.places import ROOT

PACKAGE = ROOT / 'vla_ros'

# Where work is left, how many errors still have nothing but one text. Only ever less.
ONE_TEXT = {
    'demo': 7,
    'evaluation': 6,
    'files.py': 4,
    'images': 2,
    'openvla': 13,
    'parameters': 1,
    'pipeline': 7,
    'replay': 2,
    'ros': 1,
    'scripted': 1,
    'simulation': 9,
    'synthetic': 2,
    'yaml_text.py': 3,
}


def errors_for_users(trees: list[ast.Module]) -> set[str]:
    """Names of VlaError and of all classes that derive from it."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = {node.name: {ast.unparse(base) for base in node.bases} for node in classes}
    found, before = {'VlaError'}, set[str]()
    while found != before:
        before = found
        found = before | {name for name, parents in bases.items() if parents & before}
    return found


def test_errors_have_more_than_one_text() -> None:
    trees = {file: ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob('*.py'))}
    errors = errors_for_users([*trees.values()])
    assert {'VlaError', 'PolicyError', 'CheckpointError', 'CheckFailed'} <= errors
    found = defaultdict(list)
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            parts = len(node.exc.args) + len(node.exc.keywords)
            if ast.unparse(node.exc.func) in errors and parts == 1:
                path = file.relative_to(PACKAGE)
                found[path.parts[0]].append(f'{path}:{node.lineno}')
    too_many = {room: lines for room, lines in found.items() if len(lines) > ONE_TEXT.get(room, 0)}
    assert not too_many
