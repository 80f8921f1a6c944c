# SPDX-License-Identifier: Apache-2.0
"""Text for people."""

from __future__ import annotations

import pytest

from vla_ros.text import (
    MAX_NAME_CHARACTERS,
    is_blank,
    is_name,
    printable,
    quoted,
)

# Each is drawn as nothing, or as something else than it is.
UNSEEN = (
    '\x00\x07\x1b\x7f\x85\u00a0\u00ad\u034f\u115f\u180e\u200b\u200e\u202e\u2028\u2060\u2800\u3000'
)
UNSEEN += '\u3164\ue000\ufe0f\ufeff\uffa0\ud800\U000e0041\U000f0000\u0378'


@pytest.mark.parametrize('character', UNSEEN, ids=lambda one: f'U+{ord(one):04X}')
def test_what_can_not_be_seen_is_escaped_and_no_part_of_a_name(character: str) -> None:
    shown = printable(f'a{character}b')
    assert character not in shown and shown.startswith('a\\') and shown.endswith('b')
    assert is_blank(character) and is_blank(f' {character} ')
    assert not is_name(f'bridge{character}orig')


@pytest.mark.parametrize('text', ['pick up the cup', 'nimm den Würfel', '杯子を取って', 'ø!~'])
def test_what_can_be_seen_stays(text: str) -> None:
    assert printable(text) == text and is_name(text) and not is_blank(text)


def test_text_is_cut_to_its_bound() -> None:
    assert printable('x' * 10**6, 100) == 'x' * 100 + ' ...'
    assert printable('x' * 100, 100) == 'x' * 100
    assert is_name('x' * MAX_NAME_CHARACTERS) and not is_name('x' * (MAX_NAME_CHARACTERS + 1))


def test_lines_stay_where_they_are_asked_for() -> None:
    assert printable('a\nb\r', keep_lines=True) == 'a\n  b\\x0d'
    assert printable('a\nb') == 'a\\x0ab'


def test_a_few_bytes_that_mean_gigabytes_are_quoted_briefly() -> None:
    bomb: list[object] = ['x' * 10**6]
    for _ in range(64):
        bomb = [bomb] * 10
    assert len(quoted(bomb)) < 100
    assert len(quoted({str(i): 9**10_000 for i in range(1000)})) < 100
    assert quoted('\x1b[31m') == "'\\x1b[31m'"
