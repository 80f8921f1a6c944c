# SPDX-License-Identifier: Apache-2.0
"""Frames of a websocket: msgpack with arrays, as openpi's and vla-eval's clients write it.

An array is a map ``{__ndarray__: true, data, dtype, shape}``. openpi writes these keys as bytes and
vla-eval as text; both are read. ``__npgeneric__`` in place of ``__ndarray__`` marks a scalar.

A frame is walked over once before it is decoded, which costs as many steps as it has items: the
decoder itself would make gigabytes of objects of a few megabytes. Sources: the specification of
msgpack (github.com/msgpack/msgpack, spec.md); openpi's client 0.1.2; vla-eval 0.8.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from vla_ros.wire.arrays import as_wire_error, decoded_array, sendable
from vla_ros.wire.encoded_images import MARK, ImageDecoder
from vla_ros.wire.errors import WireError
from vla_ros.wire.limits import LIMITS, Limits

ARRAY_KEYS_BYTES = 'bytes'
ARRAY_KEYS_TEXT = 'text'

_ARRAY = '__ndarray__'
_SCALAR = '__npgeneric__'

# First bytes from 0xc0 to 0xdf: bytes of the length that follows, and bytes beside that length.
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}  # nil, bools, floats
_FIXED |= {0xCC + step: 1 << step for step in range(4)} | {
    0xD0 + step: 1 << step for step in range(4)
}
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bytes, text
_CONTAINERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # lists, maps


def pack(value: Any, keys: str = ARRAY_KEYS_BYTES) -> bytes:
    """Return a value as one frame.

    :param value: lists, maps, text, bytes, numbers, None, and arrays of kinds b, i, u and f.
    :param keys: how the keys of an array's map are written.
    :raises WireError: if it holds anything else.
    """

    def array_map(item: Any) -> Any:
        item = sendable(item, 'numbers, text, bytes, lists, maps or arrays')
        if not isinstance(item, np.ndarray):
            return item
        rows = np.ascontiguousarray(item)
        data = rows.data.cast('B') if item.size and item.ndim else item.tobytes()
        fields = {_ARRAY: True, 'data': data, 'dtype': item.dtype.str, 'shape': list(item.shape)}
        if keys == ARRAY_KEYS_TEXT:
            return fields
        return {key.encode(): one for key, one in fields.items()}

    try:
        packed: bytes = msgpack.packb(value, default=array_map)
    except WireError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise as_wire_error(error, 'a message cannot be packed') from error
    return packed


def unpack(frame: bytes, limits: Limits = LIMITS) -> Any:
    """Return the value of one frame.

    Keys of maps become text. Arrays are read-only.

    :raises WireError: if the frame is malformed, beyond a limit, or holds what is not allowed.
    """
    limits.check_bytes(len(frame))
    _walk(frame, limits)
    images = ImageDecoder(limits)

    def value_of(pairs: list[tuple[Any, Any]]) -> Any:
        fields = {_key(key): item for key, item in pairs}
        if _ARRAY in fields:
            array = (fields.get('dtype'), fields.get('shape'), fields.get('data'))
            return decoded_array(*array, limits)
        if _SCALAR in fields:
            return _scalar(fields)
        if MARK in fields:
            return images.decode(fields)
        return fields

    try:
        return msgpack.unpackb(frame, raw=False, strict_map_key=False, object_pairs_hook=value_of)
    except WireError:
        raise
    except (ValueError, msgpack.UnpackException) as error:
        raise as_wire_error(error, 'a message is not msgpack that is allowed') from error


def _key(key: Any) -> str:
    if isinstance(key, bytes):
        key = key.decode('utf-8', 'replace')
    if not isinstance(key, str):
        raise WireError('a map has a key that is not text', value=key, expected='text')
    return key


def _scalar(fields: Mapping[str, Any]) -> bool | int | float:
    value = fields.get('data')
    if not isinstance(value, bool | int | float):
        raise WireError('a scalar is not a number', value=value, expected='a number')
    return value


def _walk(frame: bytes, limits: Limits) -> None:
    """Check the structure of a frame without making its values.

    :raises WireError: if it is cut off, has bytes after its value, or is beyond a limit.
    """
    position, items = 0, 0
    open_containers = [1]  # items that are still due in each; the frame itself is one item
    while open_containers:
        if not open_containers[-1]:
            open_containers.pop()
            continue
        open_containers[-1] -= 1
        items += 1
        limits.check_items(items)
        position, children = _step(frame, position)
        if children:
            limits.check_items(items + children)
            open_containers.append(children)
            limits.check_depth(len(open_containers) - 1)
    if position != len(frame):
        raise _malformed(f'{len(frame) - position} bytes follow its value')


def _step(frame: bytes, position: int) -> tuple[int, int]:
    """Return the position after an item's head and payload, and the number of its children."""
    if position >= len(frame):
        raise _malformed('it is cut off')
    head = frame[position]
    position += 1
    size, children = 0, 0
    if head <= 0x7F or head >= 0xE0:
        pass
    elif head <= 0x8F:
        children = 2 * (head & 0x0F)
    elif head <= 0x9F:
        children = head & 0x0F
    elif head <= 0xBF:
        size = head & 0x1F
    elif head in _FIXED:
        size = _FIXED[head]
    elif head in _SIZED:
        size = _SIZED[head] + int.from_bytes(frame[position : position + _SIZED[head]], 'big')
    elif head in _CONTAINERS:
        size, each = _CONTAINERS[head]
        children = each * int.from_bytes(frame[position : position + size], 'big')
    else:
        raise _malformed(f'it has an item of type 0x{head:02x}')
    if position + size > len(frame):
        raise _malformed('it is cut off')
    return position + size, children


def _malformed(why: str) -> WireError:
    return WireError(f'a message is not msgpack that is allowed: {why}', 'check the sender')
