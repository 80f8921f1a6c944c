# SPDX-License-Identifier: Apache-2.0
"""The documentation's commands, generated pages and drawings.

Each block of shell commands in Markdown says, in a comment before it, which test runs what it
shows, or why none does. The words of every command of ours are compared with the code, whether it
is run or not.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from support.places import ROOT
from vla_ros.parameters.definition import DEFINITIONS

README_WORDS = 700
LANGUAGES = {'cpp', 'dockerfile', 'ini', 'json', 'python', 'sh', 'text', 'toml', 'xml', 'yaml'}
MARK = re.compile(r'<!-- (run by (?P<test>\S+)|not run here: \S.*) -->')

COMMANDS: dict[str, str] = ast.literal_eval(
    re.search(r'^COMMANDS = (\{.*?^\})', (ROOT / 'setup.py').read_text(), re.M | re.S)[1]
)
MAKEFILE = (ROOT / 'Makefile').read_text()
LAUNCH_FILES = {file.name: file.read_text() for file in sorted((ROOT / 'launch').rglob('*.py'))}
POLICY = ElementTree.parse(ROOT / 'config' / 'sros2_policy.xml').find('.//enclave[@path="/vla"]')


def generated() -> dict[str, str]:
    """Pages as tools/generate_reference.py writes them, by name."""
    file = ROOT / 'tools' / 'generate_reference.py'
    spec = importlib.util.spec_from_file_location('generate_reference', file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generated()


GENERATED = generated()


class Block(NamedTuple):
    """A fenced block: where it begins, its language, the line before it, its text."""

    place: str
    language: str
    before: str
    text: str


def pages() -> list[Path]:
    folders = [file for name in ('docs', 'models', 'training') for file in (ROOT / name).rglob('*')]
    return [
        ROOT / 'README.md',
        ROOT / 'CONTRIBUTING.md',
        *sorted(file for file in folders if file.suffix == '.md'),
    ]


def blocks() -> Iterator[Block]:
    for file in pages():
        fence = r'^( *)```(\S*)\n(.*?)^\1```$'
        text = file.read_text()
        for match in re.finditer(fence, text, re.MULTILINE | re.DOTALL):
            above = text[: match.start()].rstrip().rpartition('\n')[2].strip()
            line = text[: match.start()].count('\n') + 1
            yield Block(f'{file.relative_to(ROOT)}:{line}', match[2], above, match[3])


BLOCKS = list(blocks())
SHELL = [block for block in BLOCKS if block.language == 'sh']


def simple_commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command, without what is before and after it on its line."""
    text = re.sub(r"<<'(\w+)'\n.*?^ *\1$", '', block.text, flags=re.MULTILINE | re.DOTALL)
    for line in text.replace('\\\n', ' ').splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars='|&;')
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ';']:
            if set(word) <= set('|&;'):
                while words and re.match(r'[A-Z_]+=', words[0]):
                    words.pop(0)
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def known_options(command: str) -> set[str]:
    """Options of a command, read from its source."""
    files = [ROOT / f'{COMMANDS[command].replace(".", "/")}.py', ROOT / 'vla_ros/cli/arguments.py']
    text = ''.join(file.read_text() for file in files)
    written = set(re.findall(r"'(--[\w-]+)'", text)) | {'--ros-args', '--help'}
    loops = {f'--{name}' for name in re.findall(r"'([\w-]+)'", text)} if "f'--{" in text else set()
    return written | loops


def unknown_words(words: list[str]) -> list[str]:
    """Words of a command of ours that the code does not know; nothing for other commands."""
    first = Path(words[0]).name
    if first == 'make':
        targets = [re.split('[=]', word)[0] for word in words[1:] if not word.startswith('-')]
        return [one for one in targets if not re.search(rf'\b{re.escape(one)}\b', MAKEFILE)]
    if words[:3] == ['ros2', 'launch', 'vla_ros']:
        names = [word.partition(':=')[0] for word in words[4:] if ':=' in word]
        missing = [] if words[3] in LAUNCH_FILES else [words[3]]
        known = {*DEFINITIONS, 'images', *re.findall(r"'(\w+)'", ''.join(LAUNCH_FILES.values()))}
        return [*missing, *(name for name in names if name not in known)]
    if words[:2] == ['ros2', 'service']:
        services = [one.text for one in POLICY.iter('service')]
        return [w for w in words if w.startswith('/vla/') and f'~/{Path(w).name}' not in services]
    if words[:3] == ['ros2', 'run', 'vla_ros']:
        first, words = f'vla_{words[3].removeprefix("vla_")}', words[3:]
    if not first.startswith('vla_') or first == 'vla_ros':
        return []
    return [first] if first not in COMMANDS else unknown_arguments(first, words[1:])


def unknown_arguments(command: str, words: list[str]) -> list[str]:
    options = known_options(command)
    own = words[: words.index('--ros-args')] if '--ros-args' in words else words
    unknown = [w for w in own if re.match(r'--\w', w) and w.partition('=')[0] not in options]
    if command in ('vla_node', 'vla_doctor', 'vla_eval'):  # -p name:=value, or name:=value
        names = [word.partition(':=')[0] for word in words if ':=' in word]
        topics = {one.text.strip('~/') for one in POLICY.iter('topic') if one.text}
        known = {*DEFINITIONS, *topics, '__ns', '__node', 'use_sim_time'}
        unknown += [name for name in names if name.strip('/').split('/')[-1] not in known]
    return unknown


def test_the_readme_is_short() -> None:
    assert len((ROOT / 'README.md').read_text().split()) <= README_WORDS


def test_every_block_names_its_language() -> None:
    assert [block[:2] for block in BLOCKS if block.language not in LANGUAGES] == []


def test_every_shell_block_names_its_test_or_why_there_is_none() -> None:
    assert len(SHELL) > 30
    assert [block.place for block in SHELL if not MARK.fullmatch(block.before)] == []


@pytest.mark.parametrize('block', [b for b in SHELL if 'run by' in b.before], ids=lambda b: b.place)
def test_the_test_of_a_shell_block_exists(block: Block) -> None:
    file, _, name = MARK.fullmatch(block.before)['test'].partition('::')
    text = (ROOT / file).read_text()
    assert f'def {name}(' in text if name else block.text.split()[0] in text


@pytest.mark.parametrize('block', SHELL, ids=lambda block: block.place)
def test_the_words_of_our_commands_are_known(block: Block) -> None:
    unknown = {' '.join(words): unknown_words(words) for words in simple_commands(block)}
    assert {command: found for command, found in unknown.items() if found} == {}


@pytest.mark.parametrize(
    ('command', 'unknown'),
    [
        ('vla_bench --tiny --no-such-option', ['--no-such-option']),
        ('OMP_NUM_THREADS=1 .venv/bin/vla_eval -p modle:=x', ['modle']),
        ('ros2 launch vla_ros vla.launch.py modell:=x', ['modell']),
        ('ros2 service call /vla/halt std_srvs/srv/Trigger', ['/vla/halt']),
        ('ros2 run vla_ros chek', ['vla_chek']),
        ('make demmo', ['demmo']),
    ],
)
def test_an_unknown_word_is_found(command: str, unknown: list[str]) -> None:
    [words] = simple_commands(Block('', 'sh', '', command))
    assert unknown_words(words) == unknown


@pytest.mark.parametrize('name', GENERATED)
def test_generated_pages_are_those_of_the_messages(name: str) -> None:
    current = (ROOT / name).read_text() == GENERATED[name]
    assert current, f'{name} is old: make generate'


def test_every_topic_and_service_has_a_row() -> None:
    """The SROS 2 policy has what the node does (test/ros/test_security.py); the page says so."""
    page = (ROOT / 'docs' / 'topics.md').read_text()
    named = set(re.findall(r'`(~?/?[\w/]+)`', page))
    names = [one.text for kind in ('topic', 'service', 'action') for one in POLICY.iter(kind)]
    assert [name for name in names if name not in named] == []


def test_drawings_are_legible_on_dark_pages_and_describe_themselves() -> None:
    drawings = sorted((ROOT / 'docs' / 'drawings').glob('*.svg'))
    assert drawings
    for file in drawings:
        text = file.read_text()
        assert 'prefers-color-scheme: dark' in text
        root = ElementTree.fromstring(text)
        assert root.findtext('{http://www.w3.org/2000/svg}title'), file.name
        assert not re.search(r'(href|url)\W+https?:', text), 'nothing is fetched'
