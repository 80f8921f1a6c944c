# SPDX-License-Identifier: Apache-2.0
"""What may move a robot, and the sentences that say why not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from support.fakes import BY_POLICY, SPEC, a_prediction
from vla_ros.types import (
    ActionSpace,
    Invalid,
    InvalidReason,
    Observation,
    PolicyError,
    invalid_reason,
    unknown_names,
)

CHUNK = dataclasses.replace(SPEC, horizon=3)


def test_a_sound_prediction_may_move_a_robot() -> None:
    assert invalid_reason(a_prediction(), SPEC) is None
    rows = np.zeros((3, 7))
    assert invalid_reason(a_prediction(actions=rows, normalized_actions=rows), CHUNK) is None
    edge = np.full((1, 7), -1.0)
    assert invalid_reason(a_prediction(normalized_actions=edge), SPEC) is None


def test_a_policy_need_not_tell_normalized_actions() -> None:
    assert invalid_reason(a_prediction(5.0, normalized_actions=None), SPEC) is None


def test_the_policy_s_own_reason_comes_first() -> None:
    prediction = a_prediction(np.nan, invalid=BY_POLICY)
    assert invalid_reason(prediction, SPEC) is BY_POLICY
    assert str(BY_POLICY) == 'the policy marked it as invalid'


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('field', ['actions', 'normalized_actions'])
def test_a_value_that_is_not_finite(field: str, value: float) -> None:
    values = np.zeros((3, 7))
    values[1, 2] = value
    sound = {name: np.zeros((3, 7)) for name in ('actions', 'normalized_actions')}
    reason = invalid_reason(a_prediction(**(sound | {field: values})), CHUNK)
    assert reason is not None
    assert (reason.kind, reason.index) == (Invalid.NOT_FINITE, 9)
    word = 'value' if field == 'actions' else 'normalized value'
    assert str(reason) == f'{word} 9 is {value}, which is not finite'


@pytest.mark.parametrize('field', ['actions', 'normalized_actions'])
@pytest.mark.parametrize(
    ('shape', 'spec', 'sentence'),
    [
        ((1, 3), SPEC, 'it has 3 values, expected 7'),
        ((7,), SPEC, 'it has 7 values, expected 7'),
        ((0, 7), SPEC, 'it has 0 values, expected 7'),
        ((2, 7), CHUNK, 'it has 14 values, expected 3 rows of 7'),
        ((3, 6), CHUNK, 'it has 18 values, expected 3 rows of 7'),
    ],
)
def test_another_shape(field: str, shape: tuple[int, ...], spec: object, sentence: str) -> None:
    sound = {name: np.zeros(spec.action_shape) for name in ('actions', 'normalized_actions')}
    reason = invalid_reason(a_prediction(**(sound | {field: np.zeros(shape)})), spec)
    assert reason is not None
    assert reason.kind is Invalid.SHAPE
    assert str(reason) == sentence


@pytest.mark.parametrize('value', [1.0001, -7.0])
def test_an_action_out_of_bounds(value: float) -> None:
    normalized = np.zeros((1, 7))
    normalized[0, 3] = value
    reason = invalid_reason(a_prediction(normalized_actions=normalized), SPEC)
    assert reason == InvalidReason(Invalid.OUT_OF_BOUNDS, 3, value, '-1 and 1')
    assert str(reason) == f'normalized value 3 is {value}, not within -1 and 1'


def test_every_reason_has_a_sentence() -> None:
    for kind in Invalid:
        assert str(InvalidReason(kind, 2, 3, 'what is allowed'))


def test_an_observation_is_as_old_as_its_oldest_image() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    one = Observation.of_one(image, 'go', 7)
    assert one.image is image and one.stamp_ns == 7 and one.state is None
    two = Observation({'a': image, 'b': image}, 'go', {'a': 9, 'b': 8})
    assert two.stamp_ns == 8
    with pytest.raises(ValueError, match='too many'):
        _ = two.image


@pytest.mark.parametrize('period_s', [0.0, -0.2, math.inf, -math.inf, math.nan])
def test_a_period_is_finite_and_above_zero(period_s: float) -> None:
    with pytest.raises(PolicyError) as refused:
        dataclasses.replace(SPEC, period_s=period_s)
    assert refused.value.what == f'period_s of the policy is {period_s:g}'
    assert refused.value.expected == 'a finite time above 0 s, or None'


@pytest.mark.parametrize('period_s', [None, 1, 0.2])
def test_a_period_may_be_unknown(period_s: float | None) -> None:
    assert dataclasses.replace(SPEC, period_s=period_s).period_s == period_s


def test_columns_without_a_name_are_numbered() -> None:
    assert unknown_names(2) == ('value_0', 'value_1')


def test_the_numbers_of_the_action_spaces_stay() -> None:
    """They are part of the messages."""
    assert {one.name: one.value for one in ActionSpace} == {
        'UNKNOWN': 0,
        'POSE_DELTA': 1,
        'JOINT_POSITION': 2,
        'JOINT_DELTA': 3,
        'JOINT_VELOCITY': 4,
    }
