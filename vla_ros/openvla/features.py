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
            # Copies: whoever writes the next picture into the same memory must not be taken for
            # seen.
            known += zip([image.copy() for image in unseen], features, strict=True)
        found = [
            next(index for index, (image, _) in enumerate(known) if np.array_equal(image, wanted))
            for wanted in images
        ]
        self._seen = [known[index] for index in sorted(set(found))]
        return torch.stack([known[index][1] for index in found])
