# SPDX-License-Identifier: Apache-2.0
"""Bodies of REST requests and replies: JSON with arrays, as OpenVLA's and OFT's servers have it.

An array is a map ``{__numpy__: base64, dtype, shape}`` (json_numpy 2.1.1). Clients may encode
twice: their body is ``{"encoded": "<that JSON>"}``, and the reply is then a JSON text that holds
JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

import numpy as np

from vla_ros.wire.arrays import as_wire_error, decoded_array, sendable
from vla_ros.wire.errors import WireError
from vla_ros.wire.limits import LIMITS, Limits

_ARRAY = '__numpy__'
_TWICE = 'encoded'
_BRACKETS = re.compile(rb'[\[\]{}]')


def pack_body(value: Any, double: bool = False) -> bytes:
    """Return a value as JSON.

    :param value: lists, maps, text, numbers, None, and arrays of kinds b, i, u and f.
    :param double: whether to encode twice, as a reply to a request that was.
    :raises WireError: if it holds anything else, or a number outside an array is not finite.
    """
    try:
        text = json.dumps(value, default=_array_map, allow_nan=False)
    except WireError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise as_wire_error(error, 'a message cannot be written as JSON') from error
    return (json.dumps(text) if double else text).encode()


def unpack_body(body: bytes, limits: Limits = LIMITS) -> tuple[Any, bool]:
    """Return the value of a body, and whether it was encoded twice.

    :raises WireError: if it is not JSON, is beyond a limit, or holds what is not allowed.
    """
    limits.check_bytes(len(body))
    value = _parsed(body, limits)
    if isinstance(value, str):
        return _if_json(value, limits)
    if isinstance(value, dict) and set(value) == {_TWICE} and isinstance(value[_TWICE], str):
        return _parsed(value[_TWICE].encode('utf-8', 'surrogatepass'), limits), True
    return value, False


def _if_json(text: str, limits: Limits) -> tuple[Any, bool]:
    """Return what the text holds if it is an array or a map in JSON; else the text itself."""
    if not text.lstrip().startswith(('{', '[')):
        return text, False
    return _parsed(text.encode('utf-8', 'surrogatepass'), limits), True


def _parsed(body: bytes, limits: Limits) -> Any:
    # Each item but the first has one of these before it. Those within text count, too.
    limits.check_items(sum(map(body.count, (b',', b'[', b'{', b']', b'}'))))
    _check_depth(body, limits)

    def value_of(fields: dict[str, Any]) -> Any:
        if _ARRAY not in fields:
            return fields
        data = _decoded(fields[_ARRAY])
        array = decoded_array(fields.get('dtype'), fields.get('shape'), data, limits)
        return array if array.ndim else array.item()

    try:
        return json.loads(body, object_hook=value_of)
    except WireError:
        raise
    except (ValueError, RecursionError) as error:
        raise as_wire_error(error, 'a message is not JSON') from error


def _check_depth(body: bytes, limits: Limits) -> None:
    """Raise WireError if more containers are open than allowed; brackets within text count, too.

    The parser would raise RecursionError.
    """
    depth = 0
    for bracket in _BRACKETS.finditer(body):
        depth += 1 if bracket[0] in (b'[', b'{') else -1
        limits.check_depth(depth)


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise as_wire_error(error, 'data of an array is not base64') from error


def _array_map(item: Any) -> Any:
    item = sendable(item, 'numbers, text, lists, maps or arrays')
    if not isinstance(item, np.ndarray):
        return item
    data = base64.b64encode(item.tobytes()).decode()
    return {_ARRAY: data, 'dtype': item.dtype.str, 'shape': list(item.shape)}
