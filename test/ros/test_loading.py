# SPDX-License-Identifier: Apache-2.0
"""What the node's parameters make of a policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ros.motion import ContractError
from vla_ros.openvla import OpenVLAPolicy, Preprocessing
from vla_ros.parameters.definition import Parameters
from vla_ros.ros.loading import load_policy
from vla_ros.types import Progress


def preprocessing_of(model: Path, **parameters: str | bool) -> Preprocessing:
    policy = load_policy(Parameters(str(model), device='cpu', **parameters), ignore)
    assert isinstance(policy, OpenVLAPolicy)
    return policy.preprocessing


def ignore(progress: Progress) -> None:
    """Nobody wants to know."""


@pytest.mark.parametrize(
    ('unnorm_key', 'parameters', 'expected'),
    [
        ('bridge_orig', {}, Preprocessing()),
        ('', {'rotate_180': True}, Preprocessing(rotate_180=True)),
        ('bridge_orig', {'preprocessing': 'training'}, Preprocessing('training')),
        (
            'libero_spatial',
            {'preprocessing': 'training', 'rotate_180': True},
            Preprocessing('training', center_crop=True, rotate_180=True),
        ),
    ],
)
def test_pictures_are_cropped_where_the_contract_says_so(
    tiny_checkpoint: Path,
    unnorm_key: str,
    parameters: dict[str, str | bool],
    expected: Preprocessing,
) -> None:
    assert preprocessing_of(tiny_checkpoint, unnorm_key=unnorm_key, **parameters) == expected


@pytest.mark.parametrize('unnorm_key', ['', 'random'])
def test_without_a_contract_nobody_knows_whether_training_cropped(
    tiny_checkpoint: Path, unnorm_key: str
) -> None:
    with pytest.raises(ContractError, match=f'no action contract for unnorm_key {unnorm_key!r}'):
        preprocessing_of(tiny_checkpoint, unnorm_key=unnorm_key, preprocessing='training')
