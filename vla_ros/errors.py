# SPDX-License-Identifier: Apache-2.0
"""The base class of every error that a user reads.

An error says what failed, the value, what is allowed and what to do.

Standard library only; any thread.
"""

from __future__ import annotations

from vla_ros.text import printable, quoted


class VlaError(Exception):
    """An error for users, whose parts are bounded, visible and each on one line.

    ``str()`` is ``what; advice``. Programs read the parts and never this text.

    :param what: what failed, with the value, as one clause.
    :param advice: what to do; by default the word "expected" and ``expected``.
    :param value: the value that is not allowed; kept as its ``repr``, and '' for None.
    :param expected: what is allowed, as it follows the word "expected".
    """

    def __init__(
        self, what: str = '', advice: str = '', *, value: object = None, expected: str = ''
    ) -> None:
        self.what = _one_line(what)
        self.value = '' if value is None else quoted(value)
        self.expected = _one_line(expected)
        self.advice = _one_line(advice or (f'expected {expected}' if expected else ''))
        super().__init__(f'{self.what}; {self.advice}' if self.advice else self.what)


def _one_line(text: str) -> str:
    return printable(text.replace('\n', ' '))
