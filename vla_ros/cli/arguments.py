"""Reads what a person typed behind an option, and tells a person what is going on."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar('Value')


def list_of(read: Callable[[str], Value]) -> Callable[[str], list[Value]]:
    """:returns: reads values with commas between them."""

    def values(text: str) -> list[Value]:
        return [read(word.strip()) for word in text.split(',')]

    return values


def count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number above 0')
    return int(text)


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f'{text!r} is no number above 0, to 1000')
    return value


def boolean(text: str) -> bool:
    if text not in ('true', 'false'):
        raise argparse.ArgumentTypeError(f'{text!r} is not allowed; allowed: true, false')
    return text == 'true'


def say(text: str) -> None:
    """What is going on; standard output is for the report."""
    print(f'{time.strftime("%H:%M:%S")} {text}', file=sys.stderr, flush=True)
