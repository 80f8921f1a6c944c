"""What the model is asked: one image, one instruction, and a guess at the answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Request:
    """One image and one instruction for the model.

    :param image: uint8 [H, W, 3] RGB; never written to.
    :param instruction: the user's words, without the prompt's template.
    :param unnorm_key: whose statistics scale the action; may be left out if there is one.
    :param draft: int64 [<=D], a guess at the action's token ids, such as the previous action's.
        Where it is right the action comes sooner; right or wrong, the action is the same.
    """

    image: NDArray[np.uint8]
    instruction: str
    unnorm_key: str | None = None
    draft: NDArray[np.int64] | None = None
