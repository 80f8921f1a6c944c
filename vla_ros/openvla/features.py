"""Remembers what was made of the last pictures, so that an identical one is not looked at again.

Two robots may share a camera, and a slow camera be asked about twice. Belongs to the policy's
thread. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]  # [H, W, 3]


class Seen(NamedTuple):
    """
    :param image: uint8 [H, W, 3], as it came.
    :param picture: uint8 [S, S, 3], what the first tower was shown for it.
    :param features: [...].
    """

    image: Image
    picture: Image
    features: Tensor


class SeenFeatures:
    """Of the pictures of the last batch."""

    def __init__(self) -> None:
        self._seen: list[Seen] = []

    def unseen(self, images: Sequence[Image]) -> list[Image]:
        """Those that nothing is known of yet, each once."""
        known = [seen.image for seen in self._seen]
        new: list[Image] = []
        for image in images:
            if not any(np.array_equal(image, other) for other in (*known, *new)):
                new.append(image)
        return new

    def of(
        self,
        images: Sequence[Image],
        unseen: Sequence[Image],
        pictures: Sequence[Image],
        features: Tensor | None,
    ) -> tuple[Tensor, list[Image]]:
        """Join what is known with what is new, and remember what belongs to ``images``.

        :param unseen: what :meth:`unseen` gave for these images.
        :param pictures: what the first tower was shown for these, each.
        :param features: [len(unseen), ...], theirs; None if there are none.
        :returns: features [len(images), ...], and what the tower was shown for each image.
        """
        known = [*self._seen]
        if features is not None:
            # Copies: whoever writes the next picture into the same memory must not be taken for
            # seen.
            copies = [image.copy() for image in unseen]
            known += map(Seen, copies, pictures, features)
        found = [
            next(index for index, seen in enumerate(known) if np.array_equal(seen.image, wanted))
            for wanted in images
        ]
        self._seen = [known[index] for index in sorted(set(found))]
        return (
            torch.stack([known[index].features for index in found]),
            [known[index].picture for index in found],
        )
