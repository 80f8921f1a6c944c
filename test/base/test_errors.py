# SPDX-License-Identifier: Apache-2.0
"""Errors for users: their parts, their text, and how the doctor shows them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vla_ros.client.question import CheckFailed
from vla_ros.clock import ManualClock
from vla_ros.doctor.findings import fail, refused
from vla_ros.errors import VlaError
from vla_ros.files import FileError, read_bytes
from vla_ros.images.compressed import compressed_to_rgb
from vla_ros.images.files import UnreadableImage
from vla_ros.images.raw import UnusableImage, check_size
from vla_ros.motion import ContractError, load_contracts
from vla_ros.openvla.checkpoint import Checkpoint
from vla_ros.openvla.errors import CheckpointError
from vla_ros.openvla.normalization import read_norm_stats
from vla_ros.parameters.check import ParameterError
from vla_ros.parameters.overrides import ParameterFileError
from vla_ros.pipeline.summary import PipelineError
from vla_ros.replay.actions import ActionsError
from vla_ros.replay.bag import BagError, UnreadableMessage
from vla_ros.replay.run import NoAction
from vla_ros.scheduling import CameraWatch
from vla_ros.text import MAX_MESSAGE_CHARACTERS
from vla_ros.types import InstructionError, PolicyError
from vla_ros.yaml_text import YAMLTextError

KINDS = [
    *(VlaError, PolicyError, InstructionError, CheckpointError, ContractError, ParameterError),
    *(BagError, ActionsError, NoAction, PipelineError, FileError, UnreadableImage, CheckFailed),
    *(ParameterFileError, YAMLTextError, UnusableImage, UnreadableMessage),
]


@pytest.mark.parametrize('kind', KINDS)
def test_every_part_is_bounded_and_on_one_line(kind: type[VlaError]) -> None:
    assert issubclass(kind, VlaError)
    assert str(kind('a\nb\x1b[31m\ud800\u202ec')) == 'a b\\x1b[31m\\ud800\\u202ec'
    assert str(kind('x' * 10**7)) == 'x' * MAX_MESSAGE_CHARACTERS + ' ...'
    assert str(kind('Würfel in %s {} fehlt')) == 'Würfel in %s {} fehlt'
    bomb: list[Any] = ['x' * 10**6]
    for _ in range(64):
        bomb = [bomb] * 10
    error = kind('a\x1b', 'b\nc', value=bomb, expected='d\x1b' + 'e' * 10**6)
    assert (error.what, error.advice) == ('a\\x1b', 'b c')
    assert str(error) == 'a\\x1b; b c'
    assert len(error.value) < 100
    assert len(error.expected) == MAX_MESSAGE_CHARACTERS + len('\\x1b') - 1 + len(' ...')
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind and str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_what_is_expected_is_the_advice_where_there_is_no_other() -> None:
    error = VlaError('frame is 7', value=7, expected='base or end_effector')
    assert error.advice == 'expected base or end_effector'
    assert str(error) == 'frame is 7; expected base or end_effector'
    assert VlaError('frame is 7', 'write base', expected='base').advice == 'write base'
    assert VlaError('it failed').advice == VlaError('it failed').value == ''
    assert VlaError('it is', value='7\n').value == "'7\\n'"


def surplus_tensors(folder: Path) -> None:
    save_file({'a': torch.zeros(1), 'b': torch.zeros(1)}, folder / 'model.safetensors')
    Checkpoint(folder).check_shapes({'a': (1,)})


def another_shape(folder: Path) -> None:
    save_file({'a': torch.zeros(2)}, folder / 'model.safetensors')
    Checkpoint(folder).check_shapes({'a': (1,)})


def bounds_of_different_lengths(folder: Path) -> None:
    read_norm_stats({'mine': {'action': {'q01': [0.0], 'q99': [1.0, 2.0]}}}, 'config.json')


def misspelt_contract(folder: Path) -> None:
    file = folder / 'mine.yaml'
    file.write_text('mine: {robots: a}')
    load_contracts(file)


def no_gripper_range(folder: Path) -> None:
    file = folder / 'mine.yaml'
    file.write_text('mine: UR5e; or UR10e')
    load_contracts(file)


def a_folder(folder: Path) -> None:
    read_bytes(folder, 1)


def a_large_picture(folder: Path) -> None:
    check_size(8001, 8000)


def a_depth_picture(folder: Path) -> None:
    class Message:
        format = '16UC1; compressedDepth png'
        data = b''

    compressed_to_rgb(Message())


def a_picture_of_yesterday(folder: Path) -> None:
    watch = CameraWatch(0.0, ManualClock())
    image = np.zeros((1, 1, 3), np.uint8)
    watch.judge(image, 2_000_000_000)
    refusal = watch.judge(image, 1_000_000_000).refusal
    if refusal:
        raise refusal


FIELDS = (
    'robot, period_s, gripper_closed, gripper_open, center_crop, source, frame, metres_per_unit, '
    'rotation, radians_per_unit, max_linear_m_s, max_angular_rad_s'
)


@pytest.mark.parametrize(
    ('cause', 'text', 'advice'),
    [
        (
            surplus_tensors,
            '{} has 1 tensors that this model has not: b',
            'take the config.json of this model; if the weights are of an adapter, merge them',
        ),
        (
            another_shape,
            '{}/model.safetensors: a has shape (2,)',
            'expected (1,) by config.json',
        ),
        (
            bounds_of_different_lengths,
            'config.json: mine: q01, q99 and mask have 1, 2 and 1 values',
            'expected as many in each',
        ),
        (
            misspelt_contract,
            "contracts file {}/mine.yaml: mine: 'robots' is unknown",
            'did you mean robot?',
        ),
        (
            no_gripper_range,
            "contracts file {}/mine.yaml: mine is 'UR5e; or UR10e'",
            f'expected {FIELDS}, indented below it (docs/contracts.md)',
        ),
        (a_folder, '{} is a folder', 'expected a regular file'),
        (
            a_large_picture,
            'image is 8001 x 8000 (width x height), at most 64000000 pixels are allowed',
            'have the camera send a smaller image',
        ),
        (
            a_depth_picture,
            "compressed image of format '16UC1; compressedDepth png' is a depth image",
            "send the camera's colour topic (.../compressed) instead",
        ),
        (
            a_picture_of_yesterday,
            "backwards: the image's stamp is 1.000 s before the last one's",
            'check whether there is more than one publisher, or a recording started over',
        ),
    ],
)
def test_the_doctor_shows_the_parts_of_real_errors(
    cause: Callable[[Path], None], text: str, advice: str, tmp_path: Path
) -> None:
    with pytest.raises(VlaError) as caught:
        cause(tmp_path)
    assert refused(caught.value, 'otherwise') == fail(text.format(tmp_path), advice)


def test_an_error_without_advice_gets_the_one_of_the_check() -> None:
    assert refused(VlaError('a; b'), 'otherwise') == fail('a; b', 'otherwise')
