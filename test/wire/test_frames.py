# SPDX-License-Identifier: Apache-2.0
"""Frames and bodies: what goes in comes out, and nothing hostile gets through or costs much."""

from __future__ import annotations

import base64
import json
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest

from vla_ros.wire import (
    ARRAY_KEYS_TEXT,
    Limits,
    WireError,
    encoded_image,
    pack,
    pack_body,
    unpack,
    unpack_body,
)

DTYPES = ('?', 'i1', 'u1', 'i2', '<u4', '>i4', 'i8', 'u8', 'f2', 'f4', '>f8')


def random_value(rng: random.Random, depth: int = 0) -> Any:
    """Any value that both encodings know."""
    scalars: list[Callable[[], Any]] = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.randrange(-(2**63), 2**64),
        lambda: rng.uniform(-1e9, 1e9),
        lambda: ''.join(rng.choices('aé§{}[],"\\ \n𝄞', k=rng.randrange(6))),
        lambda: random_array(rng),
    ]
    if depth < 4 and rng.random() < 0.4:
        size = rng.randrange(5)
        if rng.random() < 0.5:
            return [random_value(rng, depth + 1) for _ in range(size)]
        return {f'key_{each}': random_value(rng, depth + 1) for each in range(size)}
    return rng.choice(scalars)()


def random_array(rng: random.Random) -> np.ndarray:
    shape = [rng.randrange(4) for _ in range(rng.randrange(1, 4))]
    array = np.random.default_rng(rng.randrange(2**32)).uniform(-100, 100, shape)
    with np.errstate(invalid='ignore'):
        array = array.astype(rng.choice(DTYPES))
    return array[::-1] if rng.random() < 0.3 else array


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and one.shape == other.shape
            and other.dtype == one.dtype.newbyteorder('=')
            and other.tobytes() == one.astype(other.dtype).tobytes()
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize('seed', range(3))
def test_what_is_packed_is_unpacked(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        value = random_value(rng)
        assert same(value, unpack(pack(value)))
        assert same(value, unpack(pack(value, ARRAY_KEYS_TEXT)))
        body = {'value': value}
        assert same(body, unpack_body(pack_body(body))[0])


def test_the_forms_of_other_clients() -> None:
    array = np.arange(6, dtype='<f4').reshape(2, 3)
    fields = {'data': array.tobytes(), 'dtype': '<f4', 'shape': (2, 3)}
    openpi = {b'__ndarray__': True, **{key.encode(): one for key, one in fields.items()}}
    vla_eval = {'__ndarray__': True, **fields}
    scalar = {b'__npgeneric__': True, b'data': 1.5, b'dtype': '<f8'}
    packed = msgpack.packb({'a': openpi, 'b': vla_eval, 'c': scalar, b'd': 1})
    found = unpack(packed)
    assert same(array, found['a']) and same(array, found['b'])
    assert found['c'] == 1.5 and found['d'] == 1
    assert not found['a'].flags.writeable
    # And ours as openpi reads it.
    assert msgpack.unpackb(pack(array)) == {**openpi, b'shape': [2, 3]}

    numpy_map = {'__numpy__': base64.b64encode(array.tobytes()).decode()}
    numpy_map |= {'dtype': '<f4', 'shape': [2, 3]}
    body = json.dumps({'image': numpy_map})
    assert unpack_body(body.encode())[1] is False
    value, double = unpack_body(json.dumps({'encoded': body}).encode())
    assert double and same(array, value['image'])
    answer = pack_body(array, double=True)
    assert json.loads(json.loads(answer)) == numpy_map
    value, double = unpack_body(answer)
    assert double and same(array, value)
    assert unpack_body(b'"error"') == ('error', False)


def test_images_are_compressed_by_choice() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    found = unpack(pack({'image': encoded_image(rgb, 'png')}))['image']
    assert np.array_equal(found, rgb)
    smooth = np.full((24, 32, 3), 100, np.uint8)
    found = unpack(pack(encoded_image(smooth, 'jpeg')))
    assert found.shape == smooth.shape and np.abs(found.astype(int) - 100).max() <= 3
    few = Limits(pixels=2 * 24 * 32 - 1)
    with pytest.raises(WireError, match='pixels'):
        unpack(pack([encoded_image(rgb, 'png')] * 2), few)
    half = encoded_image(rgb, 'png')
    half['data'] = half['data'][:200]
    with pytest.raises(WireError, match='complete'):
        unpack(pack(half))
    with pytest.raises(WireError, match='png, jpeg or raw'):
        unpack(pack({**half, 'format': 'gif'}))


def array_map(**changes: Any) -> dict[str, Any]:
    fields = {'__ndarray__': True, 'data': bytes(8), 'dtype': '<f4', 'shape': [2]}
    return {**fields, **changes}


@pytest.mark.parametrize(
    'hostile',
    [
        array_map(dtype='O'),
        array_map(dtype='|O8'),
        array_map(dtype='V8'),
        array_map(dtype='<c8'),
        array_map(dtype='M8[s]'),
        array_map(dtype='S8'),
        array_map(dtype='f4,f4'),
        array_map(dtype='(2,)f4'),
        array_map(dtype=[['a', 'f4']]),
        array_map(dtype='float128'),
        array_map(shape=[3]),
        array_map(shape=[-1]),
        array_map(shape=[2**40, 2**40]),
        array_map(shape=[True, 2]),
        array_map(shape=[1] * 9 + [2]),
        array_map(shape='2'),
        array_map(data='x' * 8),
        array_map(data=None),
        array_map(data=bytes(9)),
        {'__npgeneric__': True, 'data': [1], 'dtype': '<f4'},
        {1: 2},
        {None: 2},
    ],
    ids=str,
)
def test_arrays_and_maps_that_are_not_allowed(hostile: Any) -> None:
    with pytest.raises(WireError) as caught:
        unpack(msgpack.packb(hostile))
    assert caught.value.what and caught.value.advice


@pytest.mark.parametrize(
    'frame',
    [
        b'',
        b'\xc1',
        b'\x81\xa1a',
        b'\xc4\xff',
        b'\xdd\xff\xff\xff\xff',
        b'\xdf\xff\xff\xff\xff',
        b'\xc6\xff\xff\xff\xff',
        b'\xc7\x01\x05a',  # extensions
        b'\xd4\x05a',
        b'\xd6\xff' + bytes(4),  # a time stamp
        b'\xc0\xc0',
        b'\xa1\xff',
        b'\x91' * 17 + b'\xc0',
        b'\x91' * 100_000,
        b'\xdc\xff\xff' + b'\x80' * 65_535,
        bytes(Limits().frame_bytes + 1),
    ],
    ids=range(16),
)
def test_frames_that_are_not_allowed(frame: bytes) -> None:
    with pytest.raises(WireError):
        unpack(frame)


@pytest.mark.parametrize(
    'body',
    [
        b'',
        b'{',
        b'\xff\xfe',
        b'[' * 100_000,
        b'{"a":' * 20,
        b'[' + b'{},' * 30_000 + b'{}]',
        b'1' * 5000,
        b'{"__numpy__": "AAAA", "dtype": "O", "shape": [1]}',
        b'{"__numpy__": "!!!!", "dtype": "|u1", "shape": [3]}',
        b'{"__numpy__": 5, "dtype": "|u1", "shape": [3]}',
        b'{"__numpy__": "AAAA", "dtype": "|u1", "shape": [4]}',
        json.dumps({'encoded': '[' * 100}).encode(),
    ],
    ids=range(12),
)
def test_bodies_that_are_not_allowed(body: bytes) -> None:
    with pytest.raises(WireError):
        unpack_body(body)


@pytest.mark.parametrize(
    'value', [1j, {1, 2}, np.array(['a']), np.array([None]), 1 << 70, '\ud800']
)
def test_values_that_are_not_sent(value: Any) -> None:
    with pytest.raises(WireError):
        pack({'value': value})


def test_ten_thousand_hostile_frames() -> None:
    """Damaged frames give a value or a WireError, and the memory for it stays bounded."""
    rng = random.Random(5)
    seeds = [pack(random_value(random.Random(each))) for each in range(60)]
    seeds += [pack({'image': encoded_image(np.zeros((9, 9, 3), np.uint8), 'png')})]
    seeds += [pack_body({'value': random_value(random.Random(each))}) for each in range(20)]
    accepted = 0
    tracemalloc.start()
    for _ in range(10_000):
        frame = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 5)):
            kind, at = rng.randrange(4), rng.randrange(len(frame) + 1)
            if kind == 0:
                frame[at : at + 1] = bytes([rng.randrange(256)])
            elif kind == 1:
                del frame[at : at + rng.randrange(1, 9)]
            elif kind == 2:
                frame[at:at] = rng.randbytes(rng.randrange(1, 9))
            else:
                frame[at:at] = bytes([rng.choice((0xDD, 0xDF, 0xC6, 0xDB)), *rng.randbytes(4)])
        for read in (unpack, unpack_body):
            try:
                read(bytes(frame))
                accepted += 1
            except WireError:
                pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < accepted < 20_000 and peak < 20_000_000
