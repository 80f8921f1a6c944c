# SPDX-License-Identifier: Apache-2.0
"""Reader of the pickle in a ``torch.save`` archive, which finds what it says and executes nothing.

A pickle is a program. Here a few of its instructions are known: those that build names, sizes and
tensors, and the plain values of an optimizer's state beside them. Every other instruction, callable
or argument is an error. The result is plain data: which tensor lies where. Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vla_ros.convert.archive import Archive
from vla_ros.text import quoted

_MAX_PICKLE_BYTES = 16_000_000  # a head has 0.1 MB
_MAX_STEPS = 1_000_000
_MAX_TEXT = 1000  # bytes of a name
_MAX_RANK = 8
_MAX_VALUES = 1 << 40  # of a tensor
_MAX_DEPTH = 2  # dicts in each other: a part, and a backbone of the model
# Storages, with the safetensors name of their dtype and the bytes of a value.
_STORAGES = {
    'torch FloatStorage': ('F32', 4),
    'torch HalfStorage': ('F16', 2),
    'torch BFloat16Storage': ('BF16', 2),
}
_DICT = 'collections OrderedDict'
_TENSOR = 'torch._utils _rebuild_tensor_v2'
# A tensor that carries an attribute, as Prismatic's do; attributes are dropped.
_ATTRIBUTED, _TENSOR_CLASS = 'torch._tensor _rebuild_from_type_v2', 'torch Tensor'
GLOBALS = (*_STORAGES, _DICT, _TENSOR, _ATTRIBUTED, _TENSOR_CLASS)


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the archive.

    :param dtype: as safetensors names it.
    :param shape: the values lie row by row, without gaps.
    :param begin: offset of its first byte in the file [bytes].
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    itemsize: int
    values: int


_MARK = object()


def stored_tensors(archive: Archive, parts: Sequence[str] = ()) -> dict[str, StoredTensor]:
    """Return the tensors of a saved state dict by name.

    :param parts: keys of the dicts to take, which may have dicts in them: the name of a tensor is
        all keys on the way to it, joined by dots. Anything may be beside them. Without parts the
        state dict itself is taken, which has nothing but tensors.
    :raises ConvertError: if the pickle says anything but that.
    """
    content = archive.read(archive.records['data.pkl'], _MAX_PICKLE_BYTES)
    found = _Reader(archive, content).run()
    if not isinstance(found, dict) or not found:
        raise archive.error('it does not hold tensors by name', 'a state dict')
    for part in parts:
        if not isinstance(found.get(part), dict):
            raise archive.error(f'it has no {part}', f'{", ".join(parts)}, with tensors')
    dicts = [('', found, 1)] if not parts else [(one, found[one], _MAX_DEPTH) for one in parts]
    result = _tensors_in(archive, dicts)
    stored = sum(
        record.size for name, record in archive.records.items() if name.startswith('data/')
    )
    promised = sum(tensor.size for tensor in result.values())
    if promised > stored:
        raise archive.error(f'its tensors share bytes: {promised} are promised, {stored} stored')
    return result


def _tensors_in(
    archive: Archive, dicts: list[tuple[str, dict[Any, Any], int]]
) -> dict[str, StoredTensor]:
    """Return the tensors of dicts by name.

    :param dicts: of each its name, itself, and how many dicts may be in each other, counting it.
    """
    tensors: dict[str, StoredTensor] = {}
    seen = {id(found) for _, found, _ in dicts}
    while dicts:
        where, found, depth = dicts.pop()
        for key, value in found.items():
            name = f'{where}.{key}' if where else key
            if isinstance(value, dict) and depth > 1 and id(value) not in seen:
                seen.add(id(value))
                dicts.append((name, value, depth - 1))
            elif not isinstance(value, StoredTensor) or not isinstance(key, str):
                raise archive.error(f'{quoted(name)} is not a tensor', 'a state dict')
            elif name in tensors:
                raise archive.error(f'it has {quoted(name)} twice')
            else:
                tensors[name] = value
    return tensors


class _Reader:
    """One run over the instructions."""

    def __init__(self, archive: Archive, content: bytes) -> None:
        self._archive, self._content = archive, content
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._steps: dict[int, Callable[[], None]] = {
            0x7D: lambda: self._push({}),  # EMPTY_DICT
            0x29: lambda: self._push(()),  # EMPTY_TUPLE
            0x28: lambda: self._push(_MARK),
            0x4E: lambda: self._push(None),  # NONE
            0x88: lambda: self._push(True),  # NEWTRUE
            0x89: lambda: self._push(False),  # NEWFALSE
            0x4B: lambda: self._push(self._number('B')),  # BININT1
            0x4D: lambda: self._push(self._number('H')),  # BININT2
            0x4A: lambda: self._push(self._number('i')),  # BININT
            0x47: lambda: self._push(self._float()),  # BINFLOAT
            0x5D: lambda: self._push([]),  # EMPTY_LIST
            0x61: lambda: self._append(self._pop_many(1)),
            0x65: lambda: self._append(self._pop_to_mark()),
            0x8A: self._long,  # LONG1
            0x58: self._text,  # BINUNICODE
            0x63: self._global,
            0x71: lambda: self._put(self._number('B')),  # BINPUT
            0x72: lambda: self._put(self._number('I')),  # LONG_BINPUT
            0x68: lambda: self._get(self._number('B')),  # BINGET
            0x6A: lambda: self._get(self._number('I')),  # LONG_BINGET
            0x85: lambda: self._tuple(self._pop_many(1)),
            0x86: lambda: self._tuple(self._pop_many(2)),
            0x87: lambda: self._tuple(self._pop_many(3)),
            0x74: lambda: self._tuple(self._pop_to_mark()),
            0x51: self._storage,  # BINPERSID
            0x52: self._reduce,
            0x62: self._build,
            0x73: lambda: self._set_items(self._pop_many(2)),
            0x75: lambda: self._set_items(self._pop_to_mark()),
        }

    def run(self) -> Any:
        if self._take(2) != b'\x80\x02':
            raise self._archive.error(
                'its pickle is not of protocol 2', 'the default of torch.save'
            )
        for _ in range(_MAX_STEPS):
            code = self._take(1)[0]
            if code == 0x2E:  # STOP
                if self._at != len(self._content) or len(self._stack) != 1:
                    raise self._archive.error('its pickle does not end where it says')
                return self._stack[0]
            step = self._steps.get(code)
            if step is None:
                raise self._archive.error(
                    f'its pickle has the instruction {quoted(chr(code))}, which no tensor needs',
                    'tensors only',
                )
            step()
        raise self._archive.error(f'its pickle has more than {_MAX_STEPS} instructions')

    def _take(self, count: int) -> bytes:
        taken = self._content[self._at : self._at + count]
        if len(taken) < count:
            raise self._archive.error('its pickle is cut short')
        self._at += count
        return taken

    def _number(self, form: str) -> int:
        return int(struct.unpack('<' + form, self._take(struct.calcsize('<' + form)))[0])

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise self._archive.error('its pickle takes more than it has')
        return self._stack.pop()

    def _pop_many(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _pop_to_mark(self) -> list[Any]:
        taken = []
        while self._stack and self._stack[-1] is not _MARK:
            taken.append(self._stack.pop())
        if not self._stack:
            raise self._archive.error('its pickle takes more than it has')
        self._stack.pop()
        return taken[::-1]

    def _long(self) -> None:
        size = self._number('B')
        if size > 8:
            raise self._archive.error(f'its pickle has a number of {size} bytes', 'at most 8')
        self._push(int.from_bytes(self._take(size), 'little', signed=True))

    def _text(self) -> None:
        size = self._number('I')
        if size > _MAX_TEXT:
            raise self._archive.error(
                f'its pickle has a text of {size} bytes', f'at most {_MAX_TEXT}'
            )
        try:
            self._push(self._take(size).decode('utf-8'))
        except UnicodeDecodeError as error:
            raise self._archive.error('its pickle has a text that is not UTF-8') from error

    def _global(self) -> None:
        words = []
        for _ in range(2):
            end = self._content.find(b'\n', self._at, self._at + _MAX_TEXT)
            if end < 0:
                raise self._archive.error('its pickle has a name without an end')
            words.append(self._take(end - self._at).decode('utf-8', 'replace'))
            self._at += 1
        name = ' '.join(words)
        if name not in GLOBALS:
            raise self._archive.error(
                f'its pickle names {quoted(".".join(words))}, which could run code',
                'tensors only',
            )
        self._push(_Global(name))

    def _put(self, index: int) -> None:
        if not self._stack or self._stack[-1] is _MARK:
            raise self._archive.error('its pickle remembers what it does not have')
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise self._archive.error('its pickle takes what it never remembered')
        self._push(self._memo[index])

    def _tuple(self, values: list[Any]) -> None:
        self._push(tuple(values))

    def _set_items(self, values: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, dict) or len(values) % 2:
            raise self._archive.error('its pickle fills what is not a dict')
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in (str, int) or key in target:
                raise self._archive.error(f'it has the key {quoted(key)}', 'names, each one once')
            target[key] = value
        self._push(target)

    def _float(self) -> float:
        return float(struct.unpack('>d', self._take(8))[0])

    def _append(self, values: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, list):
            raise self._archive.error('its pickle appends to what is not a list')
        target.extend(values)
        self._push(target)

    def _build(self) -> None:
        """Accept the attribute ``_metadata`` of a state dict, and drop it."""
        state, target = self._pop(), self._pop()
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise self._archive.error('its pickle sets attributes', 'tensors only')
        if set(state) - {'_metadata'}:
            raise self._archive.error('its pickle sets attributes', 'tensors only')
        self._push(target)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if function == _Global(_DICT) and arguments == ():
            self._push({})
        elif function == _Global(_TENSOR) and isinstance(arguments, tuple):
            self._push(self._tensor(arguments))
        elif function == _Global(_ATTRIBUTED) and isinstance(arguments, tuple):
            self._push(self._attributed(arguments))
        else:
            raise self._archive.error('its pickle calls a function', 'tensors only')

    def _storage(self) -> None:
        identity = self._pop()
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != 'storage':
            raise self._archive.error('its pickle refers to an unknown object')
        _, kind, key, place, values = identity
        known = isinstance(kind, _Global) and kind.name in _STORAGES
        if not known or not _is_text(key, place) or not _is_count(values):
            raise self._archive.error('its pickle refers to an unknown storage')
        dtype, itemsize = _STORAGES[kind.name]
        record = self._archive.records.get(f'data/{key}')
        if record is None or record.size != values * itemsize:
            stored = 'none' if record is None else f'{record.size} bytes'
            raise self._archive.error(
                f'storage {quoted(key)} should have {values} values of {dtype}; there is {stored}'
            )
        self._push(_Storage(key, dtype, itemsize, values))

    def _attributed(self, arguments: tuple[Any, ...]) -> StoredTensor:
        """Return the tensor without its attributes."""
        if len(arguments) != 4 or arguments[:2] != (_Global(_TENSOR), _Global(_TENSOR_CLASS)):
            raise self._archive.error('its pickle makes an unknown tensor')
        if not isinstance(arguments[2], tuple):
            raise self._archive.error('its pickle makes an unknown tensor')
        return self._tensor(arguments[2])

    def _tensor(self, arguments: tuple[Any, ...]) -> StoredTensor:
        if len(arguments) != 6:
            raise self._archive.error('its pickle makes an unknown tensor')
        storage, offset, shape, strides, _, hooks = arguments
        if (
            not isinstance(storage, _Storage)
            or not _is_count(offset)
            or not isinstance(shape, tuple)
            or not isinstance(strides, tuple)
            or not len(shape) == len(strides) <= _MAX_RANK
            or not all(_is_count(number) for number in (*shape, *strides))
            or hooks != {}
        ):
            raise self._archive.error('its pickle makes an unknown tensor')
        values = 1
        for length, stride in zip(shape[::-1], strides[::-1], strict=True):
            if length != 1 and stride != values:
                raise self._archive.error(
                    f'a tensor has the strides {quoted(strides)} for the shape {quoted(shape)}',
                    'values row by row (tensor.contiguous())',
                )
            values *= length
            if values > _MAX_VALUES:
                raise self._archive.error(f'a tensor has the shape {quoted(shape)}')
        if offset + values > storage.values or not values:
            raise self._archive.error(
                f'a tensor of shape {quoted(shape)} does not lie in its storage of '
                f'{storage.values} values'
            )
        begin = self._archive.records[f'data/{storage.key}'].begin + offset * storage.itemsize
        return StoredTensor(storage.dtype, shape, begin, values * storage.itemsize)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_VALUES


def _is_text(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)
