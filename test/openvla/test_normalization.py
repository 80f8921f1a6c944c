# SPDX-License-Identifier: Apache-2.0
"""Statistics of a checkpoint: right, or refused with key, value and what is expected."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vla_ros.openvla.errors import CheckpointError, UnnormKeyError
from vla_ros.openvla.normalization import read_norm_stats, select_statistics

Q01, Q99, MASK = [-1.0, -2.0, 0], [1.0, 2.0, 1], [True, True, False]


def read(key: str = 'mine', **changes: Any) -> Any:
    """As they come out of a JSON file."""
    action = {'q01': Q01, 'q99': Q99, 'mask': MASK} | changes
    action = {name: value for name, value in action.items() if value != 'absent'}
    return read_norm_stats(json.loads(json.dumps({key: {'action': action}})), 'statistics.json')


def refusal(key: str = 'mine', **changes: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(key, **changes)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600
    return str(caught.value)


def test_sound_ones_are_read_as_they_are() -> None:
    statistics = read()['mine']
    assert statistics.low.dtype == statistics.high.dtype == np.float64
    assert (statistics.low.tolist(), statistics.high.tolist()) == (Q01, Q99)
    assert statistics.mask.dtype == np.bool_ and statistics.mask.tolist() == MASK
    assert read(mask='absent')['mine'].mask.all()


@pytest.mark.parametrize('mask', [[1, 1, 0], [True, 1, 0]])
def test_numbers_that_can_only_mean_a_truth_are_one(mask: list[Any]) -> None:
    assert read(mask=mask)['mine'].mask.tolist() == MASK


def test_a_value_that_never_changed_stays_what_it_was() -> None:
    """q01 equals q99; the reference computes the same."""
    statistics = read(q01=[0.5, -2.0, 0], q99=[0.5, 2.0, 1])['mine']
    for normalized in (-1.0, 0.3, 1.0):
        assert statistics.unnormalize(np.full(3, normalized))[0] == 0.5


def test_whole_numbers_become_the_nearest_ones() -> None:
    assert read(q99=[2**53 + 1, 2.0, 1])['mine'].high[0] == 2.0**53


@pytest.mark.parametrize(
    ('value', 'shown'),
    [
        ('1.0', "'1.0'"),
        ('', "''"),
        (True, 'True'),
        (False, 'False'),
        (None, 'None'),
        ([1.0], '[1.0]'),
        ([], '[]'),
        ({}, '{}'),
        (float('nan'), 'nan'),
        (float('inf'), 'inf'),
        (float('-inf'), '-inf'),
        (10**400, '<1329 bits>'),
        (1e300, '1e+300'),  # what is between -1e300 and 1e300 overflows
        ('\x1b[2J', "'\\x1b[2J'"),
        ('x' * 10**6, "'xxx"),
    ],
    ids=lambda value: repr(value)[:20],
)
@pytest.mark.parametrize('name', ['q01', 'q99'])
def test_a_bound_that_is_no_finite_number(name: str, value: Any, shown: str) -> None:
    bounds = {'q01': Q01, 'q99': Q99}[name]
    refused = refusal(**{name: [bounds[0], value, bounds[2]]})
    assert refused.startswith(f'statistics.json: mine: {name}[1] is {shown}')
    assert refused.endswith('; expected a finite number')


@pytest.mark.parametrize(
    ('value', 'shown'),
    [
        ('false', "'false'"),
        ('True', "'True'"),
        ('0', "'0'"),
        ('', "''"),
        (2, '2'),
        (-1, '-1'),
        (0.0, '0.0'),
        (1.0, '1.0'),
        (None, 'None'),
        ([False], '[False]'),
        ([], '[]'),
        (float('nan'), 'nan'),
    ],
    ids=lambda value: repr(value),
)
def test_a_mask_that_is_neither_true_nor_false(value: Any, shown: str) -> None:
    """NumPy takes each text for true, and a list for what is in it."""
    refused = refusal(mask=[True, value, False])
    assert refused == f'statistics.json: mine: mask[1] is {shown}; expected true or false'


@pytest.mark.parametrize('name', ['q01', 'q99', 'mask'])
@pytest.mark.parametrize('value', [None, [], {}, 1.0, True, 'abc', '', {'0': 1.0}], ids=repr)
def test_what_is_no_list(name: str, value: Any) -> None:
    refused = refusal(**{name: value})
    assert refused.startswith(f'statistics.json: mine: {name} is {value!r}; expected a list')


def test_what_is_missing_or_does_not_fit() -> None:
    assert 'mine: q01 is missing; expected a list' in refusal(q01='absent')
    assert 'mine: q99 is missing; expected a list' in refusal(q99='absent')
    assert 'q01, q99 and mask have 3, 2 and 3 values' in refusal(q99=Q99[:2])
    assert 'q01, q99 and mask have 3, 3 and 4 values' in refusal(mask=[*MASK, True])
    assert 'q01[1] is 3 and q99[1] is 2; expected q01 not above' in refusal(q01=[-1.0, 3.0, 0])


@pytest.mark.parametrize(
    'entry', [None, [], 7, 'x', {}, {'action': None}, {'action': [1]}], ids=repr
)
def test_what_is_no_entry(entry: Any) -> None:
    with pytest.raises(CheckpointError, match='mine has no action statistics; expected "action"'):
        read_norm_stats({'mine': entry}, 'statistics.json')


@pytest.mark.parametrize('statistics', [None, {}, [], 7, 'x'], ids=repr)
def test_what_is_no_statistics(statistics: Any) -> None:
    with pytest.raises(CheckpointError, match=r'statistics\.json has no norm_stats'):
        read_norm_stats(statistics, 'statistics.json')


@pytest.mark.parametrize(
    'key',
    [
        '',
        ' ',
        'a\nERROR: forged',
        'a\x1b[31m',
        'a\u200b',
        '\u202eabc',
        'a\x00',
        '\ud800',
        'x' * 201,
    ],
    ids=lambda key: repr(key)[:20],
)
def test_a_data_set_whose_name_can_not_be_shown(key: str) -> None:
    refused = refusal(key)
    assert refused.startswith('statistics.json has the data set ')
    assert refused.endswith('; expected text that can be seen, of 1 to 200 characters, as its name')
    assert 'ERROR: forged' not in refused.splitlines()


@pytest.mark.parametrize('key', ['bridge_orig', 'mein Würfel', 'データ', '10', 'x' * 200])
def test_a_name_that_can_be_shown(key: str) -> None:
    assert select_statistics(read(key), key)[0] == key


def test_a_key_that_was_asked_for_is_quoted() -> None:
    with pytest.raises(UnnormKeyError) as caught:
        select_statistics(read(), 'a\x1b[31m' + 'x' * 10**6)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300
    assert 'expected one of mine' in str(caught.value)
