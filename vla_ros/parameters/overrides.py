# SPDX-License-Identifier: Apache-2.0
"""Reader of the values that a ROS parameter file sets for one node, by the rules of ROS."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vla_ros.errors import VlaError
from vla_ros.files import FileError, read_text
from vla_ros.text import printable, quoted
from vla_ros.yaml_text import BoundedLoader, YAMLTextError, parse_yaml

_MAX_BYTES = 1_000_000
_VALUES = 'ros__parameters'
_WILDCARDS = {'*': '/[^/]+', '**': '(/[^/]+)*'}


class ParameterFileError(VlaError):
    """A parameter file that can't be read, or sets nothing for the node."""


class _Loader(BoundedLoader):
    """A YAML loader that reads 1e3 as a number, as ROS does."""


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'[-+]?[0-9]+[eE][-+]?[0-9]+'), list('-+0123456789')
)


def read_value(text: str) -> Any:
    """Return the value of ``NAME:=VALUE``.

    :raises ParameterFileError: if the text is not YAML.
    """
    try:
        return parse_yaml(text, _Loader)
    except YAMLTextError as error:
        raise ParameterFileError(f'value {quoted(text)} is not YAML: {error}') from error


def read_parameter_file(path: Path, node: str) -> dict[str, Any]:
    """Return the values for the node, under its name or one with ``*`` or ``**``; the last wins.

    :param node: full name, such as ``/left/vla``.
    :raises ParameterFileError: if there is no such file, or it has nothing for the node.
    """
    try:
        content = parse_yaml(read_text(path, _MAX_BYTES), _Loader)
    except FileError as error:
        raise ParameterFileError(
            str(error), 'name the parameter file that the node is started with'
        ) from error
    except YAMLTextError as error:
        raise ParameterFileError(f'{path} is not YAML: {error}', 'fix that line') from error
    sections = list(_sections(content, ''))
    fitting = [values for name, values in sections if _pattern(name).fullmatch(node)]
    if not fitting:
        there = ', '.join(name for name, _ in sections) or 'no ros__parameters'
        raise ParameterFileError(
            f'{path} sets nothing for {node}: it has {printable(there, 300)}',
            f'write "/**:" or "{node}:", and below it "{_VALUES}:"',
        )
    return {name: value for values in fitting for name, value in _flat(values, '')}


def _sections(content: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the full name of each node, and the values for it."""
    if not isinstance(content, Mapping):
        return
    for name, below in content.items():
        if name == _VALUES:
            yield prefix, below
        else:
            yield from _sections(below, f'{prefix}/{str(name).strip("/")}')


def _pattern(name: str) -> re.Pattern[str]:
    """Return the pattern of the full names of a section's nodes."""
    words = name.strip('/').split('/')
    return re.compile(''.join(_WILDCARDS.get(word, '/' + re.escape(word)) for word in words))


def _flat(values: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield names and values; the names of nested values are joined by points, as in ROS."""
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _flat(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value
