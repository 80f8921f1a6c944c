# SPDX-License-Identifier: Apache-2.0
"""Types of the commands' options, for argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

Value = TypeVar('Value')


def list_of(read: Callable[[str], Value]) -> Callable[[str], list[Value]]:
    """Return a reader of values that are separated by commas."""

    def values(text: str) -> list[Value]:
        return [read(word.strip()) for word in text.split(',')]

    return values


def count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number above 0')
    return int(text)


def whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least 0')
    return int(text)


def port(text: str) -> int:
    number = whole(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f'{text!r} is not a port; allowed: 0 to 65535')
    return number


def seconds(text: str) -> float:
    return 0.0 if text in ('0', '0.0') else positive(text)


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    def choice(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(
                f'{text!r} is not allowed; allowed: {", ".join(choices)}'
            )
        return text

    return choice


def assignment(text: str) -> tuple[str, str]:
    """Return the name and value of a parameter, written as for ROS."""
    name, between, value = text.partition(':=')
    if not (name and between):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form NAME:=VALUE')
    return name, value


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0 and at most 1000')
    return value


def boolean(text: str) -> bool:
    return one_of(('true', 'false'))(text) == 'true'
