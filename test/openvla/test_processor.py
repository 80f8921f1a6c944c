# SPDX-License-Identifier: Apache-2.0
"""Pictures and instructions on their way in, and action tokens on their way out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.places import GOLDEN
from vla_ros.openvla.action_tokenizer import ActionTokenizer
from vla_ros.openvla.config import PROMPT_VICUNA, OpenVLAConfig
from vla_ros.openvla.errors import UnnormKeyError
from vla_ros.openvla.normalization import ActionStatistics, select_statistics
from vla_ros.openvla.processor import ImageProcessor, PromptTokenizer, TowerTransform
from vla_ros.types import MAX_INSTRUCTION_CHARACTERS, InstructionError


@pytest.fixture(scope='module')
def tokenizer() -> PromptTokenizer:
    folder = GOLDEN / 'openvla_tiny'
    return PromptTokenizer(folder, OpenVLAConfig.from_directory(folder))


def image_processor(name: str) -> ImageProcessor:
    towers = OpenVLAConfig.from_directory(GOLDEN / name).towers
    return ImageProcessor.from_directory(GOLDEN / name, towers)


def test_the_whole_action_token_table() -> None:
    table = json.loads((GOLDEN / 'action_tokens.json').read_text())
    tokenizer = ActionTokenizer(table['vocab_size'], table['n_bins'])
    assert tokenizer.bin_centers.tolist() == table['centers']
    token_ids = np.array([int(token_id) for token_id in table['decode']])
    values = [value for _, value in table['decode'].values()]
    assert tokenizer.decode(token_ids).tolist() == values
    assert set(range(31744, 32000)) < set(token_ids)
    assert tokenizer.is_action(token_ids).tolist() == [31744 <= t <= 31999 for t in token_ids]


def test_unnormalize_leaves_masked_values_alone() -> None:
    statistics = ActionStatistics(
        np.array([-1.0, 0.0, 5.0]), np.array([1.0, 10.0, 6.0]), np.array([True, True, False])
    )
    assert statistics.unnormalize(np.array([0.5, -0.5, 0.25])).tolist() == [0.5, 2.5, 0.25]


def test_unnorm_keys() -> None:
    one = ActionStatistics(np.zeros(2), np.ones(2), np.ones(2, dtype=bool))
    assert select_statistics({'a': one}, None) == ('a', one)
    assert select_statistics({'a': one, 'b': one}, 'b') == ('b', one)
    with pytest.raises(UnnormKeyError, match=r'several data sets; set it to one of: a, b'):
        select_statistics({'a': one, 'b': one}, '')
    with pytest.raises(UnnormKeyError) as caught:
        select_statistics({'a': one, 'b': one}, 'c')
    assert caught.value.what == "unnorm_key 'c' is not in this checkpoint"
    assert (caught.value.value, caught.value.expected) == ("'c'", 'one of a, b')


def test_prompt_ids_begin_with_bos_and_end_with_the_space_token(tokenizer: PromptTokenizer) -> None:
    input_ids = tokenizer('Pick up the cup')[0].tolist()
    assert input_ids[0] == 1
    assert input_ids[-1] == 29871
    assert input_ids[-2] != 29871
    assert input_ids == tokenizer('pick up THE cup')[0].tolist()


def test_the_template_keeps_braces_of_an_instruction(tokenizer: PromptTokenizer) -> None:
    assert tokenizer.prompt('put {this} in') == (
        'In: What action should the robot take to put {this} in?\nOut:'
    )
    assert PROMPT_VICUNA.format(instruction='x').endswith('take to x? ASSISTANT:')


@pytest.mark.parametrize(
    ('instruction', 'words'),
    [
        ('', 'empty'),
        ('  ', 'empty'),
        ('x' * 10_000, f'10000 characters, at most {MAX_INSTRUCTION_CHARACTERS}'),
        ('pick\u2028up', r"invisible or misleading character '\u2028'"),
        ('pick\nup', r"control character '\x0a'"),
        ('pick\x00up', r"control character '\x00'"),
        ('stop </s> now', "special token '</s>'"),
        ('<S>go', "special token '<s>'"),
        ('a <PAD> b', "special token '<pad>'"),
        ('\ud800', 'empty'),
        ('pick\ud800up', r"invisible or misleading character '\ud800'"),
        (
            'ø€漢' * 100,
            'has 801 tokens, at most 114 are allowed; with the template its prompt has 815',
        ),
    ],
)
def test_instructions_that_are_refused(
    tokenizer: PromptTokenizer, instruction: str, words: str
) -> None:
    with pytest.raises(InstructionError, match=re.escape(words)):
        tokenizer(instruction)


def test_the_longest_instruction_and_one_more(tokenizer: PromptTokenizer) -> None:
    assert tokenizer(' '.join(['the'] * 114)).shape == (1, 128)
    with pytest.raises(InstructionError, match='has 115 tokens, at most 114 are allowed'):
        tokenizer(' '.join(['the'] * 115))


def test_the_smallest_length_that_holds_a_prompt(tokenizer: PromptTokenizer) -> None:
    lengths = {
        tokens: tokenizer.padded_length(tokens) for tokens in (1, 24, 25, 32, 33, 64, 65, 128)
    }
    assert lengths == {1: 24, 24: 24, 25: 32, 32: 32, 33: 64, 64: 64, 65: 128, 128: 128}


@pytest.mark.parametrize(
    'image',
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(image: np.ndarray) -> None:
    processor = image_processor('openvla_tiny')
    with pytest.raises(ValueError, match=r'expected uint8 \[H, W, 3\] RGB'):
        processor(image)


@pytest.mark.parametrize('size', [(1, 1), (3, 500), (500, 3), (224, 224), (1920, 1080)])
@pytest.mark.parametrize('name', ['openvla_tiny', 'openvla_v01_tiny'])
def test_every_size_gives_the_same_shape(name: str, size: tuple[int, int]) -> None:
    towers = 2 if name == 'openvla_tiny' else 1
    processor = image_processor(name)
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert processor(image).shape == (1, 3 * towers, 224, 224)


def test_a_read_only_strided_picture_is_as_good(tmp_path: Path) -> None:
    processor = image_processor('openvla_tiny')
    padded = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    view = padded[:, :64]
    view.flags.writeable = False
    assert (processor(view) == processor(np.ascontiguousarray(view))).all()


def test_resize_crop_keeps_the_ratio() -> None:
    transform = TowerTransform(
        resize=224,
        crop=(224, 224),
        letterbox_fill=None,
        interpolation=3,
        pixel_table=np.zeros((3, 256), np.float32),
    )
    picture = Image.linear_gradient('L').convert('RGB').resize((640, 480))
    expected = np.asarray(picture.resize((298, 224), Image.Resampling.BICUBIC))[:, 37:261]
    assert (transform.resized(picture) == expected).all()
