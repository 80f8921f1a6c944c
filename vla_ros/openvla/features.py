"""Remembers what was made of the last pictures, so that an identical one is not looked at again.

Two robots may share a camera, and a slow camera be asked about twice. Belongs to the policy's
thread. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]  # [H, W, 3]


class SeenFeatures:
    """Of the pictures of the last batch."""

    def __init__(self) -> None:
        self._seen: list[tuple[Image, Tensor]] = []

    def unseen(self, images: Sequence[Image]) -> list[Image]:
        """Those that nothing is known of yet, each once."""
        known = [image for image, _ in self._seen]
        new: list[Image] = []
        for image in images:
            if not any(np.array_equal(image, other) for other in (*known, *new)):
                new.append(image)
        return new

    def of(
        self, images: Sequence[Image], unseen: Sequence[Image], features: Tensor | None
    ) -> Tensor:
        """Join what is known with what is new, and remember what belongs to ``images``.

        :param unseen: what :meth:`unseen` gave for these images.
        :param features: [len(unseen), ...], theirs; None if there are none.
        :returns: [len(images), ...].
        """
        known = [*self._seen]
        if features is not None:
            known += zip(unseen, features, strict=True)
        found = [
            next(value for image, value in known if np.array_equal(image, wanted))
            for wanted in images
        ]
        # Copies: whoever writes the next picture into the same memory must not be taken for seen.
        self._seen = [(image.copy(), value) for image, value in zip(images, found, strict=True)]
        return torch.stack(found)
