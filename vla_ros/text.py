# SPDX-License-Identifier: Apache-2.0
"""Functions that make text from any source bounded and visible.

Text from a file, a message or another library is cleaned here, and only here, before it reaches a
log, a terminal or a topic. Standard library only; pure functions, any thread.
"""

from __future__ import annotations

import reprlib
import unicodedata

MAX_MESSAGE_CHARACTERS = 1000
MAX_NAME_CHARACTERS = 200
NAME = f'text that can be seen, of 1 to {MAX_NAME_CHARACTERS} characters'  # what is_name allows

_ELLIPSIS = ' ...'

# Default_Ignorable_Code_Point of Unicode 16 (DerivedCoreProperties.txt): drawn as nothing.
_IGNORABLE = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
_BLANK_BRAILLE = 0x2800  # a letter without a dot
# Control, format, surrogate, private use, unassigned; line, paragraph and space separators.
_UNSEEN_CATEGORIES = ('Cc', 'Cf', 'Cs', 'Co', 'Cn', 'Zl', 'Zp', 'Zs')


def is_visible(character: str) -> bool:
    """Return whether a reader can see and recognise the character; the plain space counts."""
    if character == ' ':
        return True
    code = ord(character)
    if code < 0x7F:
        return code > 0x20
    if unicodedata.category(character) in _UNSEEN_CATEGORIES or code == _BLANK_BRAILLE:
        return False
    return not any(first <= code <= last for first, last in _IGNORABLE)


def is_blank(text: str) -> bool:
    """Return whether the text looks empty: it has no visible character but spaces."""
    return all(character == ' ' or not is_visible(character) for character in text)


def is_name(text: str) -> bool:
    """Return whether the text can name something: visible, not blank, not too long."""
    return len(text) <= MAX_NAME_CHARACTERS and not is_blank(text) and all(map(is_visible, text))


def printable(
    text: str, max_characters: int = MAX_MESSAGE_CHARACTERS, keep_lines: bool = False
) -> str:
    r"""Return the text with invisible characters escaped (``\x1b``), and cut to a length.

    :param max_characters: maximum length of ``text``; a cut is marked by ``...``.
    :param keep_lines: keep line feeds, for tracebacks. Each further line is indented, so that it
        cannot look like a line of the log.
    """
    if len(text) <= max_characters and text.isascii() and text.isprintable():
        return text  # mostly: fifty times as fast
    shown = ''.join(
        character
        if is_visible(character) or (keep_lines and character == '\n')
        else _escaped(character)
        for character in text[:max_characters]
    )
    shown = shown.replace('\n', '\n  ')
    return shown if len(text) <= max_characters else shown + _ELLIPSIS


def quoted(value: object, max_characters: int = 80) -> str:
    """Return a short, visible ``repr`` of any value, however large or nested it is.

    The value is not written out in full first: a few bytes of YAML can mean gigabytes of text.
    """
    brief = _Brief()
    brief.maxlevel = 3
    brief.maxdict = brief.maxlist = brief.maxtuple = brief.maxset = brief.maxfrozenset = 6
    brief.maxstring = brief.maxother = max_characters
    return printable(brief.repr(value), max_characters)


class _Brief(reprlib.Repr):
    def repr_int(self, number: int, level: int) -> str:
        # Python refuses to write out what has more than 4300 digits.
        return repr(number) if number.bit_length() < 128 else f'<{number.bit_length()} bits>'


def _escaped(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f'\\x{code:02x}'
    return f'\\u{code:04x}' if code <= 0xFFFF else f'\\U{code:08x}'
