# SPDX-License-Identifier: Apache-2.0
"""Images to pixel values and instructions to input ids, exactly as the released processor.

A :class:`.Preprocessing` may come before it. Runs in the policy's thread. Independent of the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from vla_ros.openvla.config import OpenVLAConfig, TowerConfig
from vla_ros.openvla.errors import CheckpointError, listing
from vla_ros.openvla.files import Remember, unwatched
from vla_ros.openvla.json_files import read_json, read_text
from vla_ros.openvla.preprocessing import RAW, Preprocessing
from vla_ros.text import is_blank, printable, quoted
from vla_ros.types import InstructionError, check_instruction

# The single space between `Out:` and the actions in training.
SPACE_TOKEN_ID = 29871
_QWEN_FIRST = '<|im_start|>'
_IMAGE_TAG = '<image>'  # of Prismatic's prompts; MiniVLA's program takes it out of instructions
# The keys of a preprocessor's config that change its images.
_TVF_KEYS = (
    'tvf_resize_params',
    'tvf_crop_params',
    'tvf_do_letterbox',
    'tvf_letterbox_fill',
    'tvf_normalize_params',
)
# Prompts are padded to one of these lengths, BOS included, so that the model has few shapes.
PROMPT_LENGTHS = (24, 32, 64, 128)


@dataclass(frozen=True)
class TowerTransform:
    """The geometry and normalisation of one tower's input.

    :param resize: (height, width), or one number for the shorter side, which keeps the ratio.
    :param crop: (height, width), from the middle.
    :param letterbox_fill: colour of the border that makes the image square; None: no border.
    :param interpolation: PIL's number; 3 is bicubic.
    :param pixel_table: float32 [3, 256], the normalised value of each level of each channel.
    """

    resize: tuple[int, int] | int
    crop: tuple[int, int]
    letterbox_fill: tuple[int, int, int] | None
    interpolation: int
    pixel_table: NDArray[np.float32]

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output, for images of any size."""
        height, width = (self.resize,) * 2 if isinstance(self.resize, int) else self.resize
        return min(height, self.crop[0]), min(width, self.crop[1])

    def resized(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return uint8 [crop height, crop width, 3]."""
        if self.letterbox_fill is not None:
            image = _letterboxed(image, self.letterbox_fill)
        height, width = self._resized_size(image)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling(self.interpolation))
        crop_height, crop_width = self.crop
        top = round((height - crop_height) / 2.0)
        left = round((width - crop_width) / 2.0)
        return np.asarray(image)[top : top + crop_height, left : left + crop_width]

    def normalized(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return an image, uint8 [H, W, 3], as float32 [3, H, W]."""
        return np.stack([self.pixel_table[c][pixels[..., c]] for c in range(3)])

    def _resized_size(self, image: Image.Image) -> tuple[int, int]:
        if isinstance(self.resize, tuple):
            return self.resize
        short, long = sorted(image.size)
        longer = int(self.resize * long / short)
        return (longer, self.resize) if image.height >= image.width else (self.resize, longer)


class ImageProcessor:
    """Images to the towers' input.

    :param transforms: one for each tower, in their order; all give images of one size.
    :param preprocessing: before the transforms.
    """

    def __init__(
        self, transforms: tuple[TowerTransform, ...], preprocessing: Preprocessing = RAW
    ) -> None:
        self._transforms = transforms
        self.preprocessing = preprocessing

    @classmethod
    def from_directory(
        cls,
        directory: Path,
        towers: Sequence[TowerConfig],
        preprocessing: Preprocessing = RAW,
        remember: Remember = unwatched,
    ) -> ImageProcessor:
        """Read the checkpoint's preprocessor config.

        :raises CheckpointError: if the file is missing or malformed, or another contradicts it.
        """
        config, path = _read_preprocessor(directory, remember)
        try:
            transforms = tuple(_read_transform(config, index) for index in range(len(towers)))
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise CheckpointError(
                f'{path} is malformed ({error!r})',
                expected='tvf_resize_params, tvf_crop_params and '
                f'tvf_normalize_params for {len(towers)} vision towers',
            ) from error
        for tower, transform in zip(towers, transforms, strict=True):
            if transform.output_size != (tower.image_size, tower.image_size):
                raise CheckpointError(
                    f'{path} makes images of {transform.output_size} pixels for '
                    f'{tower.timm_id}, which takes {tower.image_size} by config.json'
                )
        return cls(transforms, preprocessing)

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """Return :meth:`pixel_values` of :meth:`model_images`."""
        return self.pixel_values(self.model_images(image))

    def model_images(self, image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Return the image as each tower gets it; towers of one geometry share one array.

        :param image: uint8 [H, W, 3] RGB.
        :returns: for each tower uint8 [224, 224, 3], read-only.
        :raises ValueError: if the image has another shape or dtype, or is too large.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                f'image is {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3] RGB'
            )
        size = self._transforms[0].output_size
        preprocessed = self.preprocessing(Image.fromarray(image), size)
        model_images = []
        resized: dict[tuple[Any, ...], NDArray[np.uint8]] = {}
        for transform in self._transforms:
            # Fused towers usually have one geometry: resize once.
            geometry = (
                transform.resize,
                transform.crop,
                transform.letterbox_fill,
                transform.interpolation,
            )
            if geometry not in resized:
                resized[geometry] = transform.resized(preprocessed)
            model_images.append(resized[geometry])
        return model_images

    def pixel_values(self, model_images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Normalise the towers' images.

        :param model_images: uint8 [224, 224, 3] each, from :meth:`model_images`.
        :returns: float32 [1, 3 * towers, 224, 224], normalised.
        """
        channels = [
            transform.normalized(image)
            for transform, image in zip(self._transforms, model_images, strict=True)
        ]
        return torch.from_numpy(np.concatenate(channels)[np.newaxis])


class PromptTokenizer:
    """Instructions to input ids.

    ``prompt_lengths`` are the lengths of padded prompts that occur with this template.

    It runs the tokenizers library on tokenizer.json, because transformers 5 rebuilds the pipeline
    and gives other ids for some texts.
    """

    def __init__(
        self, directory: Path, config: OpenVLAConfig, remember: Remember = unwatched
    ) -> None:
        """Read the tokenizer.

        :raises CheckpointError: if tokenizer.json is missing, malformed, or contradicts the config.
        """
        path = directory / 'tokenizer.json'
        text = read_text(path, remember)
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f'{path} is no tokenizer: {error}') from error
        # A prompt of Qwen's begins with the template's own special token and ends with a newline.
        self._is_qwen = config.layout is not None and config.layout.prompt != 'openvla'
        self._drops_image_tag = config.layout is not None and config.layout.prompt == 'minivla'
        self._added = _added_tokens(text)
        _check_tokenizer(self._tokenizer, directory, not self._is_qwen, remember)
        self._tokenizer.no_truncation()  # a prompt cut short would be another instruction
        self._tokenizer.no_padding()
        self._template = config.prompt_template
        vocabulary = config.llama.vocab_size
        first = (
            self._tokenizer.token_to_id(_QWEN_FIRST) if self._is_qwen else config.llama.bos_token_id
        )
        input_ids = self._encode('pick up the cup')
        if input_ids[0] != first or max(input_ids) >= vocabulary:
            raise CheckpointError(
                f'{path} does not fit the model: a prompt becomes {input_ids[:3]}... up to '
                f'{max(input_ids)}',
                expected=f'{_QWEN_FIRST if first is None else first} first and all below '
                f'{vocabulary}',
            )
        shortest = len(self._encode('a'))
        self._template_tokens = shortest - 1
        self.prompt_lengths = tuple(length for length in PROMPT_LENGTHS if length >= shortest)
        if not self.prompt_lengths:
            raise CheckpointError(
                f'{path} makes {shortest} tokens of the shortest prompt',
                expected=f'at most {PROMPT_LENGTHS[-1]}',
            )

    def prompt(self, instruction: str) -> str:
        """Return the instruction in the model's template."""
        words = instruction.lower()
        if self._drops_image_tag:
            words = words.replace(_IMAGE_TAG, '')
        return self._template.format(instruction=words)

    def __call__(self, instruction: str) -> Tensor:
        """Return the input ids of an instruction's prompt.

        :param instruction: without template.
        :returns: int64 [1, T], T at most the last of ``prompt_lengths``; a Llama's begins with BOS
            and ends with the space token.
        :raises InstructionError: if the instruction is empty, too long, or not plain text, or has
            the text of a special token.
        """
        if is_blank(instruction):
            raise InstructionError('instruction is empty', 'say what to do')
        check_instruction(instruction)
        self._check_special(instruction)
        input_ids = self._encode(instruction)
        tokens, most, template = len(input_ids), self.prompt_lengths[-1], self._template_tokens
        if tokens > most:
            raise InstructionError(
                f'instruction {instruction[:40]!r}... has {tokens - template} tokens, at most '
                f'{most - template} are allowed; with the template its prompt has {tokens} '
                f'tokens, at most {most} are allowed',
                'say it in fewer words',
            )
        return torch.tensor([input_ids])

    def padded_length(self, tokens: int) -> int:
        """Return the smallest of ``prompt_lengths`` for a prompt of ``tokens`` tokens."""
        return next(length for length in self.prompt_lengths if length >= tokens)

    def _check_special(self, instruction: str) -> None:
        """Raise InstructionError for the text of one of the tokenizer's added tokens."""
        lowered = instruction.lower()
        for token in self._added:
            if token in lowered:
                raise InstructionError(
                    f'instruction {printable(instruction, 80)!r} has the special token {token!r}',
                    'leave it out, since the tokenizer would not read it as text',
                )

    def _encode(self, instruction: str) -> list[int]:
        if self._is_qwen:
            return self._tokenizer.encode(self.prompt(instruction), add_special_tokens=False).ids
        input_ids = self._tokenizer.encode(self.prompt(instruction)).ids
        if not input_ids or input_ids[-1] != SPACE_TOKEN_ID:
            input_ids.append(SPACE_TOKEN_ID)
        return input_ids


def load_processors(
    directory: Path,
    config: OpenVLAConfig,
    preprocessing: Preprocessing = RAW,
    remember: Remember = unwatched,
) -> tuple[ImageProcessor, PromptTokenizer]:
    """Read a checkpoint's processors.

    :param remember: called with each file immediately before it is opened.
    :raises CheckpointError: if one of their files is missing or malformed.
    """
    return (
        ImageProcessor.from_directory(directory, config.towers, preprocessing, remember),
        PromptTokenizer(directory, config, remember),
    )


def _read_preprocessor(directory: Path, remember: Remember) -> tuple[Mapping[str, Any], Path]:
    """Return the preprocessor's config, and its file.

    transformers 5 writes and prefers processor_config.json; transformers 4 wrote
    preprocessor_config.json, and only the processor's class into the other one. If both have the
    config they must agree.

    :raises CheckpointError: if they do not.
    """
    old, new = directory / 'preprocessor_config.json', directory / 'processor_config.json'
    nested = read_json(new, remember).get('image_processor') if os.path.lexists(new) else None
    if nested is None:
        return read_json(old, remember), old
    if not isinstance(nested, Mapping):
        raise CheckpointError(
            f'{new}: image_processor is {quoted(nested)}',
            value=nested,
            expected=f'what {old.name} holds',
        )
    if os.path.lexists(old):
        config = read_json(old, remember)
        differ = {key for key in _TVF_KEYS if config.get(key) != nested.get(key)}
        if differ:
            raise CheckpointError(
                f'{old} and {new} disagree about {listing(differ)}',
                'move the one that is not meant out of the folder',
            )
    return nested, new


def _added_tokens(text: str) -> tuple[str, ...]:
    """Return the texts of the added tokens of tokenizer.json that are more than one character.

    :param text: of the file, which the tokenizers library can read.
    """
    added = json.loads(text).get('added_tokens') or ()
    contents = (token.get('content') for token in added if isinstance(token, Mapping))
    return tuple(one for one in contents if isinstance(one, str) and len(one) > 1)


def _check_tokenizer(
    tokenizer: Tokenizer, directory: Path, adds_bos: bool, remember: Remember
) -> None:
    """Check that no other file contradicts tokenizer.json, which alone is used.

    :param adds_bos: whether prompts begin with BOS.
    :raises CheckpointError: if another file has another id for a token, or other ends of a prompt.
    """
    added = directory / 'added_tokens.json'
    if os.path.lexists(added):
        _check_token_ids(tokenizer, read_json(added, remember), added)
    path = directory / 'tokenizer_config.json'
    if not os.path.lexists(path):
        return
    config = read_json(path, remember)
    # The reference adds these tokens to a prompt even if tokenizer.json does not.
    for key, only in (('add_bos_token', adds_bos), ('add_eos_token', False)):
        if config.get(key, only) not in (only, None):
            raise CheckpointError(
                f'{path}: {key} is {quoted(config[key])}', value=config[key], expected=str(only)
            )
    decoder = config.get('added_tokens_decoder')
    if isinstance(decoder, Mapping):
        contents = {
            token['content']: int(number)
            for number, token in decoder.items()
            if isinstance(token, Mapping) and 'content' in token and str(number).isdecimal()
        }
        _check_token_ids(tokenizer, contents, path)


def _check_token_ids(tokenizer: Tokenizer, ids: Mapping[Any, Any], path: Path) -> None:
    for token, number in ids.items():
        there = tokenizer.token_to_id(token) if isinstance(token, str) else None
        if there is not None and there != number:
            raise CheckpointError(
                f'{path} and tokenizer.json disagree: {quoted(token)} is {quoted(number)} in the '
                f'one and {there} in the other',
                'download or copy both again',
            )


def _read_transform(config: Mapping[str, Any], index: int) -> TowerTransform:
    # The released processor uses the tvf_* entries; the means and stds beside them are the same
    # numbers before they were rounded to bfloat16.
    resize = config['tvf_resize_params'][index]
    size = resize['size']
    crop_height, crop_width = config['tvf_crop_params'][index]['output_size']
    fill = None
    if config['tvf_do_letterbox']:
        red, green, blue = config['tvf_letterbox_fill']
        fill = (red, green, blue)
    normalize = config['tvf_normalize_params'][index]
    mean = np.array(normalize['mean'], dtype=np.float32).reshape(3, 1)
    std = np.array(normalize['std'], dtype=np.float32).reshape(3, 1)
    levels = np.arange(256, dtype=np.float32) / np.float32(255)  # [256]
    return TowerTransform(
        resize=size if isinstance(size, int) else (int(size[0]), int(size[1])),
        crop=(int(crop_height), int(crop_width)),
        letterbox_fill=fill,
        interpolation=Image.Resampling(resize['interpolation']),
        pixel_table=(levels - mean) / std,
    )


def _letterboxed(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """Add equal borders left and right, top and bottom; one pixel off square if the gap is odd."""
    side = max(image.size)
    border_x = int((side - image.width) / 2)
    border_y = int((side - image.height) / 2)
    if not border_x and not border_y:
        return image
    size = (image.width + 2 * border_x, image.height + 2 * border_y)
    canvas = Image.new('RGB', size, fill)
    canvas.paste(image, (border_x, border_y))
    return canvas
