"""A request to the model: one image, one instruction and a draft."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
