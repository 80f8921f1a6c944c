"""The embeddings of the last batch's images, so that an identical image is embedded once.

Two robots may share a camera, and one image of a slow camera may be used twice. Used by the
policy's thread only. Independent of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]  # [H, W, 3]


class Embedded(NamedTuple):
    """One image of the last batch.

    :param image: uint8 [H, W, 3], as it came.
    :param model_image: uint8 [S, S, 3], as the first tower was given it.
    :param embeds: [...], what the model made of it.
    """

    image: Image
    model_image: Image
    embeds: Tensor


class EmbeddingCache:
    """The embeddings of the last batch's images, found again by every pixel."""

    def __init__(self) -> None:
        self._last: list[Embedded] = []

    def get(
        self,
        images: Sequence[Image],
        make: Callable[[list[Image]], tuple[Tensor, list[Image]]],
    ) -> tuple[Tensor, list[Image]]:
        """Return the embeddings of a batch [len(images), ...], and what the first tower was given.

        :param images: the batch; an image may occur several times.
        :param make: called with all images that are new, each once, if there are any; returns their
            embeddings [new, ...], and what the first tower was given for each.
        """
        known, new = list(self._last), list[Image]()
        places = []
        for image in images:
            candidates = [*(embedded.image for embedded in known), *new]
            place = _place(image, candidates)
            if place == len(candidates):
                new.append(image)
            places.append(place)
        if new:
            embeds, model_images = make(new)
            # Copies, because a camera's driver may write the next image into the same memory.
            known += map(Embedded, [image.copy() for image in new], model_images, embeds)
        self._last = [known[place] for place in sorted(set(places))]
        batch = [known[place] for place in places]
        return torch.stack([one.embeds for one in batch]), [one.model_image for one in batch]


def _place(image: Image, candidates: Sequence[Image]) -> int:
    """Return the index of an identical image; the number of candidates if there is none."""
    for index, candidate in enumerate(candidates):
        if np.array_equal(image, candidate):
            return index
    return len(candidates)
