"""A request to the model: one image, one instruction and a draft; and the types that they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vla_ros.text import quoted


@dataclass(frozen=True)
class Request:
    """One image and one instruction for the model.

    :param image: uint8 [H, W, 3] RGB; never written to.
    :param instruction: the user's words, without the prompt's template.
    :param unnorm_key: data set whose statistics scale the action; optional if there is one.
    :param draft: int64 [<=D], probable token ids of the action, such as the previous action's. It
        saves time where it is right, and never changes the action.
    """

    image: NDArray[np.uint8]
    instruction: str
    unnorm_key: str | None = None
    draft: NDArray[np.int64] | None = None


def check_type(instruction: Any) -> None:
    """Raise TypeError if the instruction is not text."""
    if not isinstance(instruction, str):
        raise TypeError(f'instruction is {quoted(instruction)}; expected text (str)')


def rgb_array(image: Any) -> NDArray[np.uint8]:
    """Return an image of a caller as an array; its shape is checked later.

    :param image: uint8 [H, W, 3] RGB, or an image of PIL in mode RGB.
    :raises TypeError: if it is neither. Another dtype or mode has another scale or order.
    """
    expected = 'a NumPy array, uint8 [H, W, 3] RGB, or an image of PIL in mode RGB'
    if isinstance(image, Image.Image):
        if image.mode != 'RGB':
            raise TypeError(f'image is of PIL in mode {image.mode}; expected {expected}')
        return np.asarray(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f'image is of type {type(image).__name__}; expected {expected}')
    if image.dtype != np.uint8:
        raise TypeError(f'image is {image.dtype} {list(image.shape)}; expected {expected}')
    return image
