# SPDX-License-Identifier: Apache-2.0
"""What callers from Python give: it works, or is refused with a clear TypeError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vla_ros.openvla import OpenVLAPolicy
from vla_ros.types import Observation

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def policy(tiny_checkpoint: Path) -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(tiny_checkpoint, device='cpu', dtype='float32')


def copy_read_only(image: np.ndarray) -> np.ndarray:
    copy = image.copy()
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize(
    'image',
    [
        Image.fromarray(IMAGE),
        copy_read_only(IMAGE),
        np.asfortranarray(IMAGE),
        np.flip(np.flip(IMAGE, 2).copy(), 2),
        np.ma.masked_array(IMAGE),
    ],
    ids=['PIL', 'read-only', 'columns first', 'a view', 'masked'],
)
@pytest.mark.parametrize('is_known', [True, False])
def test_what_is_the_same_image_gives_the_same_action(
    image: Any, is_known: bool, policy: OpenVLAPolicy
) -> None:
    expected = policy.predict_action(IMAGE, 'go')
    if not is_known:
        policy.reset()
    assert policy.predict_action(image, 'go').action.tolist() == expected.action.tolist()


# The value that is given, and what the error says of it.
NO_IMAGES: dict[str, tuple[Any, str]] = {
    'None': (None, 'NoneType'),
    'a list': (IMAGE.tolist(), 'list'),
    'a path': (Path('image.png'), 'Path'),
    'text': ('image.png', 'str'),
    'bytes': (IMAGE.tobytes(), 'bytes'),
    'a tensor': (torch.from_numpy(IMAGE), 'Tensor'),
    'PIL in grey': (Image.fromarray(IMAGE).convert('L'), 'mode L'),
    'PIL with alpha': (Image.fromarray(IMAGE).convert('RGBA'), 'mode RGBA'),
    'PIL with a palette': (Image.fromarray(IMAGE).convert('P'), 'mode P'),
    'PIL of 16 bits': (Image.new('I;16', (64, 48)), 'mode I;16'),
    **{
        name: (IMAGE.astype(name), name)
        for name in ('int64', 'int16', 'uint16', 'float32', 'float64', 'bool', 'object')
    },
    'from 0 to 1': ((IMAGE / 255).astype(np.float32), 'float32'),
}


@pytest.mark.parametrize('name', NO_IMAGES)
def test_what_is_no_image_is_a_type_error(name: str, policy: OpenVLAPolicy) -> None:
    """Also if the image with the same values was the last one."""
    value, words = NO_IMAGES[name]
    policy.predict_action(IMAGE, 'go')
    for _ in range(2):
        with pytest.raises(TypeError, match=rf'image is .*{words}.*; expected .* RGB'):
            policy.predict_action(value, 'go')
        observation = Observation.of_one(value, 'go', 0)
        with pytest.raises(TypeError, match=rf'image is .*{words}.*; expected .* RGB'):
            policy.predict([(policy.session(), observation)])
        policy.reset()
    assert policy.predict_action(IMAGE, 'go').invalid is None


@pytest.mark.parametrize('instruction', [None, 3, ['go'], b'go', {'say': 'go'}])
def test_what_is_no_text_is_a_type_error(instruction: Any, policy: OpenVLAPolicy) -> None:
    with pytest.raises(TypeError, match=r'instruction is .*; expected text \(str\)'):
        policy.predict_action(IMAGE, instruction)
    with pytest.raises(TypeError, match=r'instruction is .*; expected text \(str\)'):
        policy.check_instruction(instruction)
