# SPDX-License-Identifier: Apache-2.0
"""Arrays on the wire: kinds b, i, u and f only, and as many bytes as the shape says."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaError
from vla_ros.wire.errors import WireError
from vla_ros.wire.limits import Limits

_KINDS = 'biuf'
# What NumPy, json_numpy and other languages write. No other text reaches NumPy's own parser.
_DTYPE = re.compile(r'[<>|=]?(b1|[iu][1248]|f[248])')
_NAME = re.compile(r'bool|u?int(8|16|32|64)|float(16|32|64)')
_ALLOWED = 'bool, int8 to int64, uint8 to uint64, float16 to float64'


def decoded_array(dtype: Any, shape: Any, data: Any, limits: Limits) -> NDArray[Any]:
    """Return the array that a message describes, read-only and in this machine's byte order.

    :param dtype: text such as ``<f4`` or ``float32``, or the same as bytes.
    :param shape: list of sizes.
    :param data: bytes of the elements, row by row.
    :raises WireError: if the kind is not allowed, or shape and data contradict each other.
    """
    kind = _dtype(dtype)
    sizes = _sizes(shape, limits)
    if not isinstance(data, bytes):
        raise WireError('data of an array is not bytes', value=type(data), expected='bytes')
    needed = math.prod(sizes) * kind.itemsize
    if needed != len(data):
        raise WireError(
            f'an array of shape {list(sizes)} and type {kind.str} has {len(data)} bytes of data',
            value=len(data),
            expected=f'{needed}',
        )
    if not needed:
        array: NDArray[Any] = np.zeros(sizes, kind)
    else:
        array = np.frombuffer(data, kind).reshape(sizes)
    if kind.kind == 'b':
        array = array.view(np.uint8) != 0  # other bytes than 0 and 1 would not be bools
    native = array.astype(kind.newbyteorder('='), copy=False)
    native.flags.writeable = False
    return native


def sendable(item: Any, expected: str) -> Any:
    """Return an array as it is, and a scalar of NumPy as a number of Python.

    :param expected: what a message may hold, for the error.
    :raises WireError: if it is neither, or of a kind that can't be sent.
    """
    if not isinstance(item, np.ndarray | np.generic):
        raise WireError(f'a value of type {type(item).__name__} cannot be sent', expected=expected)
    if item.dtype.kind not in _KINDS or item.dtype.itemsize > 8:
        raise WireError(
            f'an array of type {item.dtype} cannot be sent',
            value=str(item.dtype),
            expected=_ALLOWED,
        )
    return item.item() if isinstance(item, np.generic) else item


def _dtype(text: Any) -> np.dtype[Any]:
    name = text.decode('ascii', 'replace') if isinstance(text, bytes) else text
    if not isinstance(name, str) or not (_DTYPE.fullmatch(name) or _NAME.fullmatch(name)):
        raise WireError('type of an array is not allowed', value=text, expected=_ALLOWED)
    return np.dtype(name)


def _sizes(shape: Any, limits: Limits) -> tuple[int, ...]:
    if not isinstance(shape, list | tuple) or len(shape) > limits.dimensions:
        raise WireError(
            'shape of an array is not allowed',
            value=shape,
            expected=f'a list of at most {limits.dimensions} sizes',
        )
    for size in shape:
        if type(size) is not int or not 0 <= size <= limits.frame_bytes:
            raise WireError(
                'shape of an array has a size that is not allowed',
                value=size,
                expected=f'0 to {limits.frame_bytes}',
            )
    return tuple(shape)


def as_wire_error(error: Exception, what: str) -> WireError:
    """Return an error of another library as one of ours, with its text bounded."""
    if isinstance(error, VlaError):
        return WireError(f'{what}: {error.what}', error.advice, expected=error.expected)
    return WireError(f'{what}: {error or type(error).__name__}', 'check the sender')
