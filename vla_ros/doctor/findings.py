"""What a check found, and running checks such that none can spoil the others."""

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
    """WARN: it runs, but not well, or it is not known whether. FAIL: it does not act so."""

    OK = 'OK'
    WARN = 'WARN'
    FAIL = 'FAIL'


@dataclass(frozen=True)
class Finding:
    """
    :param text: what was found, and which value.
    :param advice: what to do; empty only where all is well.
    :param check: the name of the check that found it.

    Texts are made printable and bounded: they hold names of the graph, of files, of parameters.
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
    return Finding(Level.OK, text)


def warn(text: str, advice: str) -> Finding:
    return Finding(Level.WARN, text, advice)


def fail(text: str, advice: str) -> Finding:
    return Finding(Level.FAIL, text, advice)


def refused(error: VlaError, otherwise: str) -> Finding:
    """Return a FAIL that shows an error.

    :param otherwise: the advice, if the error has none.
    """
    return fail(error.what, error.advice or otherwise)


def one_line(error: Exception) -> str:
    """What it says, on one line; its kind, if it says nothing."""
    return ' '.join(str(error).split()) or type(error).__name__


def gigabytes(count: int) -> str:
    """:param count: of bytes."""
    return f'{count / 1e9:.1f} GB'


def run_checks(
    checks: Mapping[str, Callable[[State], Iterable[Finding]]],
    state: State,
    tell: Callable[[Finding], None],
) -> list[Finding]:
    """Run all, in order, whatever one of them does.

    :param checks: by name.
    :param tell: is told each finding at once.
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
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.FAIL, Level.WARN) if level in levels), Level.OK)


def _crash(error: Exception) -> Finding:
    if isinstance(error, VlaError):
        return refused(error, 'mend that')
    if isinstance(error, ModuleNotFoundError) and error.name:
        return fail(
            f'{error.name} is not installed in {sys.executable}',
            'install requirements/runtime.txt there, or use the Python that has it',
        )
    return fail(
        f'the check itself failed: {type(error).__name__}: {one_line(error)}',
        'mend the installation; if it is sound, report this as a mistake of vla_ros',
    )
