# SPDX-License-Identifier: Apache-2.0
"""Findings of checks, and a runner that isolates the checks from each other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

from vla_ros.errors import VlaError
from vla_ros.text import printable

State = TypeVar('State')


class Level(Enum):
    """Level of a finding.

    WARN: the node runs, but not well, or the doctor cannot tell. FAIL: it will not run like this.
    """

    OK = 'OK'
    WARN = 'WARN'
    FAIL = 'FAIL'


@dataclass(frozen=True)
class Finding:
    """A finding of one check.

    :param text: the finding, with the value.
    :param advice: what to do; empty only for OK.
    :param check: name of the check.

    Texts are made printable and bounded: they contain names of the graph, of files, of parameters.
    """

    level: Level
    text: str
    advice: str = ''
    check: str = ''

    def __post_init__(self) -> None:
        for name in ('text', 'advice'):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        line = f'{self.level.value:<4}  {self.check}: {printable(self.text)}'
        return f'{line} -> {printable(self.advice)}' if self.advice else line


def ok(text: str) -> Finding:
    """Return an OK."""
    return Finding(Level.OK, text)


def warn(text: str, advice: str) -> Finding:
    """Return a WARN."""
    return Finding(Level.WARN, text, advice)


def fail(text: str, advice: str) -> Finding:
    """Return a FAIL."""
    return Finding(Level.FAIL, text, advice)


def refused(error: VlaError, otherwise: str) -> Finding:
    """Return a FAIL that shows an error.

    :param otherwise: the advice, if the error has none.
    """
    return fail(error.what, error.advice or otherwise)


def one_line(error: Exception) -> str:
    """Return the text of an error on one line; its type if it has no text."""
    return ' '.join(str(error).split()) or type(error).__name__


def gigabytes(count: int) -> str:
    """Return a number of bytes in gigabytes, as text."""
    return f'{count / 1e9:.1f} GB'


def run_checks(
    checks: Mapping[str, Callable[[State], Iterable[Finding]]],
    state: State,
    tell: Callable[[Finding], None],
) -> list[Finding]:
    """Run all checks in order, even if one of them crashes.

    :param checks: checks by name.
    :param tell: called with each finding immediately.
    """
    findings: list[Finding] = []

    def note(finding: Finding, name: str) -> None:
        findings.append(replace(finding, check=name))
        tell(findings[-1])

    for name, check in checks.items():
        try:
            for finding in check(state):
                note(finding, name)
        except Exception as error:  # whatever a broken installation raises
            note(_crash(error), name)
    return findings


def worst(findings: Iterable[Finding]) -> Level:
    """Return the highest level among the findings."""
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.FAIL, Level.WARN) if level in levels), Level.OK)


def _crash(error: Exception) -> Finding:
    if isinstance(error, VlaError):
        return refused(error, 'fix that')
    if isinstance(error, ModuleNotFoundError) and error.name:
        return fail(
            f'{error.name} is not installed in {sys.executable}',
            'install requirements/runtime.txt there, or use the Python that has it',
        )
    return fail(
        f'the check itself failed: {type(error).__name__}: {one_line(error)}',
        'fix the installation; if it is intact, report this as an error of vla_ros',
    )
