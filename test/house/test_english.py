# SPDX-License-Identifier: Apache-2.0
"""The language of the house: plain terms in text for readers, and Markdown that can be diffed.

docs/glossary.md has the terms. Read are Markdown, message definitions, configuration, and in Python
the docstrings, comments and other strings.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.places import ROOT

# What not to write, and what to write in its place.
INSTEAD = {
    r'pictures?': 'image',
    r'at once': 'immediately; together',
    r'under way': 'running, in progress',
    r'meanwhile': 'while',
    r'mend(s|ed|ing)?': 'fix, handle',
    r'heed(s|ed|ing)?': 'handle, obey',
    r'shall': 'must, may, should',
    r'to be had': 'available',
    r'had here': 'available',
    r'hold(s|ing)? .{0,30} (against|beside)|held (against|beside)': 'compare with, check against',
    r'proofs?|proved|unproved': 'self-check',
    r'so often': 'rate [Hz]',
    r'(for|so) so long|so long': 'duration [s]',
    r'refuses? to know|knows? (nothing|neither)': 'independent of',
    r'(its|their|his) (kin|like)': 'name them',
    r'one of each|and so on': 'name them',
    r'what is wrong|trouble': 'fault, error',
    r'a person|whoever|somebody': 'the user, the operator, a client',
    r'for ever': 'without limit',
    r'stands? still': 'hold',
    r'can not': 'cannot',
    r'is no (whole )?number': 'is not a number',
}
BANNED = re.compile(rf'\b({"|".join(INSTEAD)})\b', re.IGNORECASE)


def read_files() -> list[Path]:
    folders = ('vla_ros', 'docs', 'training', 'launch', 'config', 'msg', 'models')
    suffixes = {'.py', '.md', '.msg', '.yaml', '.xml', '.js', '.html'}
    files = [file for name in folders for file in sorted((ROOT / name).rglob('*'))]
    files = [*files, ROOT / 'README.md']
    old = ('glossary.md', 'VlaAction_0.1.msg')  # the terms themselves; what stays as it was
    return [file for file in files if file.suffix in suffixes and file.name not in old]


def texts(file: Path) -> Iterator[str]:
    content = file.read_text()
    if file.suffix != '.py':
        yield re.sub(r'`[^`]*`', '', content)  # names of code keep their words
        return
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if tokenize.tok_name[token.type] in ('COMMENT', 'STRING', 'FSTRING_MIDDLE'):
            yield token.string


def test_banned_terms_are_not_written() -> None:
    found = [
        f'{file.relative_to(ROOT)}: {match[0]}'
        for file in read_files()
        for text in texts(file)
        for match in BANNED.finditer(text)
    ]
    assert not found


def markdown() -> list[Path]:
    return [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize('file', markdown(), ids=name)
def test_markdown_is_wrapped_at_100_columns(file: Path) -> None:
    """But for tables, code, marks of tests, and lines that are one link."""
    loose = r'    | *<!-- run by |\||!?\[[^]]*\]\(\S*\)$'
    code = False
    too_long = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        code ^= line.lstrip().startswith('```')
        if len(line) > 100 and not code and not re.match(loose, line):
            too_long.append(number)
    assert not too_long


@pytest.mark.parametrize('file', markdown(), ids=name)
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r'\]\(([^)\s]+)\)', file.read_text()):
        if '://' in target:  # CI has no network: its form only
            assert re.fullmatch(r'https://[\w.-]+\.[a-z]+(/[\w./#%-]*)?', target), target
            continue
        path, _, anchor = target.partition('#')
        linked = (file.parent / path) if path else file
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r'^#+ (.*)$', linked.read_text(), re.MULTILINE)
            anchors = {re.sub(r'[^\w -]', '', one.lower()).replace(' ', '-') for one in headings}
            assert anchor in anchors, target
