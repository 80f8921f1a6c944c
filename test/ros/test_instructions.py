# SPDX-License-Identifier: Apache-2.0
"""Which instructions are obeyed, which mean hold, and which are refused."""

from __future__ import annotations

import itertools
import unicodedata

import pytest

from vla_ros.text import is_blank
from vla_ros.types import MAX_INSTRUCTION_CHARACTERS, InstructionError, check_instruction

# Each is drawn as nothing.
BLANK = {
    'nothing': '',
    'spaces': '   ',
    'line feed': '\n',
    'tab': '\t',
    'zero width space': '\u200b',
    'byte order mark': '\ufeff',
    'word joiner': '\u2060',
    'soft hyphen': '\u00ad',
    'no-break space': '\u00a0',
    'ideographic space': '\u3000',
    'blank braille': '\u2800',
    'Hangul filler': '\u3164',
    'half-width Hangul filler': '\uffa0',
    'left-to-right mark': '\u200e',
    'right-to-left override': '\u202e',
    'variation selector': '\ufe0f',
    'tag': '\U000e0041',
    'private use': '\ue000',
    'unassigned': '\u0378',
    'surrogate': '\ud800',
    'line separator': '\u2028',
    'escape': '\x1b',
    'C1 control': '\x9b',
}


@pytest.mark.parametrize('text', BLANK.values(), ids=BLANK)
def test_what_looks_empty_means_hold(text: str) -> None:
    """It is no error, and no instruction."""
    for blank in (text, f' {text} ', text * 3, text * 10_000):
        assert is_blank(blank)
        check_instruction(blank)


UNSEEN = {name: text for name, text in BLANK.items() if text.strip(' ')}


@pytest.mark.parametrize('text', UNSEEN.values(), ids=UNSEEN)
@pytest.mark.parametrize('place', ['{}pick up the cup', 'pick{}up the cup', 'pick up the cup{}'])
def test_a_character_that_nobody_sees_is_refused_and_shown(text: str, place: str) -> None:
    instruction = place.format(text)
    assert not is_blank(instruction)
    with pytest.raises(
        InstructionError, match=r'has the (control|invisible or misleading)'
    ) as told:
        check_instruction(instruction)
    assert text not in str(told.value) and str(told.value).isprintable()
    assert f'{ord(text):x}' in str(told.value)


@pytest.mark.parametrize(
    'text',
    [
        'pick up the cup',
        'Nimm den Würfel!',
        'подними чашку',
        '杯子を取って',
        'أمسك الكوب',
        'कप उठाओ',
        'put 2 x 3" bolts (M4) into box #7; 50 % of them',
        'naïve café',
        'n' + unicodedata.normalize('NFD', 'ñ') + ' 한글',
        '<b>, {a}, %s, \\n, $HOME',
        '🤖',
    ],
)
def test_what_can_be_seen_is_obeyed(text: str) -> None:
    check_instruction(text)
    check_instruction(f'  {text}  ')


@pytest.mark.parametrize('token', ['<s>', '</s>', '<unk>', '<pad>', '</S>', '<PAD>'])
def test_the_text_of_a_special_token_is_refused(token: str) -> None:
    for instruction in (token, f'pick up{token}', f'a {token} b'):
        with pytest.raises(InstructionError, match='has the special token'):
            check_instruction(instruction)


def test_the_longest_that_is_obeyed() -> None:
    check_instruction('x' * MAX_INSTRUCTION_CHARACTERS)
    with pytest.raises(InstructionError, match=r'has 501 characters, at most 500.* begins .xxx'):
        check_instruction('x' * (MAX_INSTRUCTION_CHARACTERS + 1))
    with pytest.raises(InstructionError) as told:
        check_instruction('a\x1b[2J' + 'x' * 10**6)
    assert str(told.value).isprintable() and len(str(told.value)) < 200


def test_every_character_is_seen_refused_or_means_hold() -> None:
    """What a terminal or a screen can't show reaches no policy."""
    whole = (range(0x10000), range(0x1F000, 0x20000), range(0xE0000, 0xE0200))
    for code in (*itertools.chain(*whole), *range(0x10000, 0x110000, 97)):
        character = chr(code)
        try:
            check_instruction(f'a{character}b')
        except InstructionError:
            assert is_blank(character)
        else:
            assert character == ' ' or (character.isprintable() and not is_blank(character))
