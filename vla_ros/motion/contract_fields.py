# SPDX-License-Identifier: Apache-2.0
"""Fields of contracts and of their parts: what is allowed, and the errors for what is not.

A contract and each part of a state is a frozen dataclass whose fields are made by :func:`field`.
Independent of ROS and torch. Any thread.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Collection, Mapping
from typing import Any

from vla_ros.text import NAME, is_blank, is_name, is_visible, quoted
from vla_ros.types import PolicyError

_EXPECTED = {
    str: 'text that is not empty, of visible characters',
    float: 'a number, with a point if it has an exponent: 0.05 or 5.0e-2',
    bool: 'true or false',
}
_NAMES, _NUMBERS = tuple[str, ...], tuple[float, ...]
_MOST_NAMES = 200


class ContractError(PolicyError):
    """A file of contracts can't be used, or there is no contract for a data set."""


def field(
    bounds: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    length: int = 0,
    default: Any = dataclasses.MISSING,
) -> Any:
    """Return a dataclass field with what its values may be.

    :param bounds: lowest and highest value of a number, or of each number of a list.
    :param length: number of values of a list; 0: at least one.
    :param default: value of a field that may be absent.
    """
    metadata = {'bounds': bounds, 'choices': choices, 'length': length}
    return dataclasses.field(default=default, metadata=metadata)


def fields_of(kind: type) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of a kind that a file sets, by name."""
    return {one.name: one for one in dataclasses.fields(kind) if one.metadata}


def choose(
    what: str, kinds: Mapping[str, type], chooser: str, content: Mapping[Any, Any], default: str
) -> type:
    """Return the kind that a mapping names.

    :param what: the mapping, for the error.
    :param chooser: key that names the kind.
    :param default: kind of a mapping without that key; empty: it must be there.
    """
    if chooser not in content and not default:
        raise ContractError(
            f'{what}: missing: {chooser}', value=None, expected=f'one of {", ".join(kinds)}'
        )
    name = content.get(chooser, default)
    if not isinstance(name, str) or name not in kinds:
        raise ContractError(
            f'{what}: {chooser} is {quoted(name)}',
            value=name,
            expected=f'one of {", ".join(kinds)}',
        )
    return kinds[name]


def read_fields(what: str, kind: type, content: Mapping[Any, Any], advice: str) -> dict[str, Any]:
    """Return the values of all fields that are set.

    :param what: the mapping, for errors.
    :param content: the mapping, without the keys that are no field.
    :param advice: what to do where a field is missing.
    :raises ContractError: if a field is unknown or missing, or its value is not allowed.
    """
    fields = fields_of(kind)
    for name in content:
        if name not in fields:
            raise _unknown(what, name, fields)
    missing = [
        name
        for name, one in fields.items()
        if name not in content and one.default is dataclasses.MISSING
    ]
    if missing:
        raise ContractError(f'{what}: missing: {", ".join(missing)}', advice)
    types = typing.get_type_hints(kind)
    return {
        name: _value(f'{what}: {name}', types[name], one.metadata, content[name])
        for name, one in fields.items()
        if name in content
    }


def _unknown(what: str, name: object, fields: Collection[str]) -> ContractError:
    close = difflib.get_close_matches(str(name), fields, n=1)
    return ContractError(
        f'{what}: {quoted(name)} is unknown',
        f'did you mean {close[0]}?' if close else '',
        value=name,
        expected=f'one of {", ".join(fields)}',
    )


def _value(what: str, kind: Any, metadata: Mapping[str, Any], value: Any) -> Any:
    if kind == _NAMES:
        return _names(what, value)
    if kind == _NUMBERS:
        return _numbers(what, metadata, value)
    if kind not in _EXPECTED:
        return value  # the caller reads it
    types = (int, float) if kind is float else (kind,)
    if type(value) not in types or (kind is str and not _is_text(value)):
        raise ContractError(f'{what} is {quoted(value)}', value=value, expected=_EXPECTED[kind])
    if metadata['choices'] and value not in metadata['choices']:
        raise ContractError(
            f'{what} is {quoted(value)}',
            value=value,
            expected=f'one of {", ".join(metadata["choices"])}',
        )
    if metadata['bounds']:
        low, high = metadata['bounds']
        if not low <= value <= high:  # nan is in no interval
            raise ContractError(
                f'{what} is {quoted(value)}', value=value, expected=f'{low:g} to {high:g}'
            )
        return float(value)
    return value


def _names(what: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_NAMES:
        raise ContractError(
            f'{what} is {quoted(value)}',
            value=value,
            expected=f'a list of 1 to {_MOST_NAMES} names: [a, b]',
        )
    for name in value:
        if not isinstance(name, str) or not is_name(name):
            raise ContractError(f'{what} has {quoted(name)}', value=name, expected=NAME)
    twice = [name for index, name in enumerate(value) if name in value[:index]]
    if twice:
        raise ContractError(
            f'{what} has {quoted(twice[0])} twice', value=twice[0], expected='each name once'
        )
    return tuple(value)


def _numbers(what: str, metadata: Mapping[str, Any], value: Any) -> tuple[float, ...]:
    (low, high), length = metadata['bounds'], metadata['length']
    is_list = isinstance(value, list) and len(value) == length
    if not is_list or not all(type(one) in (int, float) and low <= one <= high for one in value):
        raise ContractError(
            f'{what} is {quoted(value)}',
            value=value,
            expected=f'a list of {length} numbers from {low:g} to {high:g}',
        )
    return tuple(float(one) for one in value)


def _is_text(value: str) -> bool:
    return not is_blank(value) and all(is_visible(one) or one == '\n' for one in value)
