# SPDX-License-Identifier: Apache-2.0
"""Reading of maps from another process: each value with its type and its bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.text import is_name, printable
from vla_ros.wire.errors import WireError

MAX_TEXT_CHARACTERS = 2000
_REQUIRED: Any = object()


class Fields:
    """A map of a message; each method returns one value or raises WireError that names the key.

    A value that is absent or None gives the default, and is an error if there is none.
    """

    def __init__(self, value: Any, what: str) -> None:
        """Take a map.

        :param what: name of the map in errors.
        :raises WireError: if it is not a map with text keys.
        """
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise WireError(f'{what} is not a map', value=type(value), expected='a map')
        self._fields: dict[str, Any] = value
        self._what = what

    def __contains__(self, key: str) -> bool:
        """Return whether there is a value other than None."""
        return self._fields.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        """Return the keys."""
        return iter(self._fields)

    def get(self, key: str) -> Any:
        """Return any value, or None."""
        return self._fields.get(key)

    def text(self, key: str, default: str = _REQUIRED, most: int = MAX_TEXT_CHARACTERS) -> str:
        """Return a text."""
        value = self._given(key, default)
        if not isinstance(value, str) or len(value) > most:
            raise self._wrong(key, value, f'text of at most {most} characters')
        return value

    def whole(self, key: str, default: int = _REQUIRED, low: int = 0, high: int = 10_000) -> int:
        """Return a whole number."""
        value = self._given(key, default)
        if type(value) is not int or (value is not default and not low <= value <= high):
            raise self._wrong(key, value, f'a whole number from {low} to {high}')
        return value

    def number(
        self, key: str, default: float = _REQUIRED, low: float = 0.0, high: float = 1e9
    ) -> float:
        """Return a finite number."""
        value = self._given(key, default)
        if type(value) not in (int, float) or not (low <= value <= high or value is default):
            raise self._wrong(key, value, f'a number from {low:g} to {high:g}')
        return float(value)

    def flag(self, key: str, default: bool = _REQUIRED) -> bool:
        """Return a bool."""
        value = self._given(key, default)
        if type(value) is not bool:
            raise self._wrong(key, value, 'true or false')
        return value

    def names(self, key: str, default: tuple[str, ...] = _REQUIRED) -> tuple[str, ...]:
        """Return a list of visible names as a tuple."""
        value = self._given(key, default)
        if not isinstance(value, list | tuple) or not all(map(_is_name, value)):
            raise self._wrong(key, value, 'a list of names')
        return tuple(value)

    def map(self, key: str, default: dict[str, Any] = _REQUIRED) -> Fields:
        """Return a map within this one."""
        return Fields(self._given(key, default), f'{printable(key, 40)} of {self._what}')

    def array(self, key: str, dimensions: int) -> NDArray[Any]:
        """Return an array, or a list of numbers (of lists, for two dimensions) as one."""
        value = self._given(key, _REQUIRED)
        if isinstance(value, list):
            value = _as_array(value)
        if not isinstance(value, np.ndarray) or value.ndim != dimensions:
            raise self._wrong(key, value, f'an array of {dimensions} dimensions')
        return value

    def floats(self, key: str, dimensions: int) -> NDArray[np.float64]:
        """Return an array of numbers as float64; it may hold numbers that are not finite."""
        return self.array(key, dimensions).astype(np.float64)

    def image(self, key: str) -> NDArray[np.uint8]:
        """Return an image, uint8 [H, W, 3]."""
        return checked_image(self.get(key), f'{printable(key, 40)} of {self._what}')

    def _given(self, key: str, default: Any) -> Any:
        value = self._fields.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise WireError(f'{self._what} has no {key}', expected=f'{key} in it')
        return default

    def _wrong(self, key: str, value: Any, expected: str) -> WireError:
        shown = f'an array of shape {list(value.shape)}' if isinstance(value, np.ndarray) else value
        return WireError(f'{key} of {self._what} is not usable', value=shown, expected=expected)


def checked_image(value: Any, what: str) -> NDArray[np.uint8]:
    """Return the value if it is an image, uint8 [H, W, 3].

    :param what: name of the value in errors.
    :raises WireError: otherwise.
    """
    if not (
        isinstance(value, np.ndarray)
        and value.dtype == np.uint8
        and value.ndim == 3
        and value.shape[2] == 3
        and value.size
    ):
        found = (
            f'{value.dtype} {list(value.shape)}' if isinstance(value, np.ndarray) else type(value)
        )
        raise WireError(f'{what} is not an image', value=found, expected='uint8 [H, W, 3]')
    return value


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and is_name(value)


def _as_array(value: list[Any]) -> Any:
    """Return a list of numbers, or of equally long lists of numbers, as an array; else None."""
    rows = value if value and isinstance(value[0], list | np.ndarray) else [value]
    numbers = [list(row) if isinstance(row, list | np.ndarray) else None for row in rows]
    for row in numbers:
        if row is None or len(row) != len(numbers[0] or []):
            return None
        if not all(_is_number(one) for one in row):
            return None
    array = np.array(numbers, np.float64)
    return array if rows is value else array[0]


def _is_number(one: Any) -> bool:
    if isinstance(one, np.number):
        return True
    return type(one) is float or (type(one) is int and abs(one) <= math.ldexp(1.0, 64))
