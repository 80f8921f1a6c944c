# SPDX-License-Identifier: Apache-2.0
"""Bounded parser of YAML from users, which turns every mistake into one error.

PyYAML raises its own errors only for invalid syntax: an impossible date is a ValueError, deep
nesting a RecursionError. A few aliases of aliases can stand for more values than memory holds.
Any thread.
"""

from __future__ import annotations

from typing import Any

import yaml

from vla_ros.errors import VlaError
from vla_ros.text import printable, quoted

_MAX_DEPTH = 20
_MAX_VALUES = 30_000  # an alias counts as all values that it stands for
_TOO_MANY = f'more than {_MAX_VALUES} values, aliases written out'
_MAX_SCALAR_CHARACTERS = 10_000
_MAX_BITS = 1024


class YAMLTextError(VlaError):
    """Text that is not usable YAML; the error begins with the line and column if they are known."""


class BoundedLoader(yaml.SafeLoader):
    """A ``yaml.SafeLoader`` for untrusted text, used by :func:`parse_yaml`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}  # of complete nodes

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if self._depth == _MAX_DEPTH:
            raise _error(f'nested more than {_MAX_DEPTH} levels deep', mark)
        if len(self._sizes) == _MAX_VALUES:
            raise _error(_TOO_MANY, mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if node not in self._sizes:
                raise _error(f'{quoted(event.anchor)} stands for something that contains it', mark)
        elif node is not None:
            self._sizes[node] = self._size(node)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # of int(), date(), a look-up ...
            kind = node.tag.rpartition(':')[2]
            raise _error(f'{quoted(node.value)} is not a valid {kind}', node.start_mark) from error
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:  # not even repr takes it
            raise _error(f'a number of more than {_MAX_BITS} bits', node.start_mark)
        return value

    def _size(self, node: yaml.Node) -> int:
        """Return the number of values that the node stands for, with aliases written out."""
        if isinstance(node, yaml.ScalarNode):
            if len(node.value) > _MAX_SCALAR_CHARACTERS:
                raise _error(
                    f'a value of {len(node.value)} characters; at most {_MAX_SCALAR_CHARACTERS} '
                    'are allowed',
                    node.start_mark,
                )
            return 1
        size = 1
        for child in node.value:  # a pair in a mapping
            pair = child if isinstance(child, tuple) else (child,)
            size += sum(self._sizes[one] for one in pair)
            if size > _MAX_VALUES:
                raise _error(_TOO_MANY, node.start_mark)
        return size


class UniqueKeysLoader(BoundedLoader):
    """A loader that rejects a repeated key, of which PyYAML would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        # PyYAML passes on any node with the tag of a mapping, and rejects other kinds afterwards.
        for key, _ in node.value if node.id == 'mapping' else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _error(f'{quoted(key.value)} is there twice', key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """Return the only document of the text; None if it is empty.

    :raises YAMLTextError: if it is not YAML, is too large, or has an impossible value.
    """
    reader = None
    try:
        reader = loader(text)
        return reader.get_single_data()
    except yaml.MarkedYAMLError as error:
        raise YAMLTextError(printable(_with_place(error), 300)) from error
    except yaml.reader.ReaderError as error:
        line = text.count('\n', 0, error.position) + 1
        character = printable(chr(error.character))
        raise YAMLTextError(f"line {line}: the character '{character}' is not allowed") from error
    except Exception as error:  # of the scanner: an impossible escape, a version of 5,000 digits
        line = reader.line + 1 if reader is not None else 1
        raise YAMLTextError(f'line {line}: {printable(str(error), 300)}') from error


def _with_place(error: yaml.MarkedYAMLError) -> str:
    mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
    return f'line {mark.line + 1}, column {mark.column + 1}: {problem}' if mark else str(problem)


def _error(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
