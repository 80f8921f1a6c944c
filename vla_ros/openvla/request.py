# SPDX-License-Identifier: Apache-2.0
"""A request to the model: images, an instruction, a state and a draft; and their types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vla_ros.text import quoted
from vla_ros.types import PolicyError, PolicySpec

if TYPE_CHECKING:
    from vla_ros.openvla.kept_patches import PatchMemory


@dataclass(frozen=True)
class Request:
    """The images, the instruction and the state of one moment.

    :param images: uint8 [H, W, 3] RGB each, in the order of the policy's cameras; never written to.
    :param instruction: the user's words, without the prompt's template.
    :param unnorm_key: data set whose statistics scale the action; optional if there is one.
    :param draft: int64 [<=D], probable token ids of the action, such as the previous action's. It
        saves time where it is right, and never changes the action. Only where tokens are decoded
        one after the other.
    :param state: float64 [S], raw; None if the policy takes none.
    :param patches: memory of the robot's patches; None if every patch is computed.
    """

    images: tuple[NDArray[np.uint8], ...]
    instruction: str
    unnorm_key: str | None = None
    draft: NDArray[np.int64] | None = None
    state: NDArray[np.float64] | None = None
    patches: PatchMemory | None = None


def check_type(instruction: Any) -> None:
    """Raise TypeError if the instruction is not text."""
    if not isinstance(instruction, str):
        raise TypeError(f'instruction is {quoted(instruction)}; expected text (str)')


def camera_images(images: Mapping[str, Any], spec: PolicySpec) -> tuple[NDArray[np.uint8], ...]:
    """Return the images of the policy's cameras in their order.

    :raises PolicyError: if one is missing.
    """
    for camera in spec.cameras:
        if camera not in images:
            raise PolicyError(
                f'there is no image of the camera {camera!r}; there are images of '
                f'{", ".join(sorted(images)) or "no camera"}'
            )
    return tuple(rgb_array(images[camera]) for camera in spec.cameras)


def checked_state(state: Any, spec: PolicySpec) -> NDArray[np.float64] | None:
    """Return the state that the policy gets; None if it takes none.

    :param state: [S], raw.
    :raises PolicyError: if it is missing, of another size, or not finite.
    """
    if not spec.state_dim:
        return None
    if state is None:
        raise PolicyError('there is no state', expected=f'{spec.state_dim} values')
    values = np.asarray(state, dtype=np.float64)
    if values.shape != (spec.state_dim,):
        raise PolicyError(
            f'state has the shape {list(values.shape)}',
            value=list(values.shape),
            expected=f'{spec.state_dim} values',
        )
    if not (finite := np.isfinite(values)).all():
        index = int((~finite).argmax())
        raise PolicyError(
            f'value {index} of the state is {values[index]}',
            value=float(values[index]),
            expected='a finite number',
        )
    return values


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
