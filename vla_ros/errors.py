"""The base of every error that a user reads: what failed, the value, what is allowed, what to do.

Standard library only; any thread.
"""

from __future__ import annotations

from vla_ros.text import printable, quoted


class VlaError(Exception):
    """An error for users. Its parts are bounded, visible and each on one line.

    ``str()`` is ``what; advice``. Programs read the parts and never that text.

    :param what: what failed, and which value, as one clause.
    :param advice: what to do; by default that what is expected is expected.
    :param value: the value that is not allowed; kept as its ``repr``, and '' for None.
    :param expected: what is allowed, to follow the word "expected".
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
