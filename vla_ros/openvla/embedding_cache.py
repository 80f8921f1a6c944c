# SPDX-License-Identifier: Apache-2.0
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
    :param words: the instruction, if the embeddings depend on it; otherwise empty.
    :param model_image: uint8 [S, S, 3], as the first tower was given it.
    :param embeds: [...], what the model made of it.
    """

    image: Image
    words: str
    model_image: Image
    embeds: Tensor


class EmbeddingCache:
    """The embeddings of the last batch's images, found again by every pixel."""

    def __init__(self) -> None:
        self._last: list[Embedded] = []

    def get(
        self,
        images: Sequence[Image],
        make: Callable[[list[int]], tuple[Tensor, list[Image]]],
        words: Sequence[str] | None = None,
    ) -> tuple[Tensor, list[Image]]:
        """Return the embeddings of a batch [len(images), ...], and what the first tower was given.

        :param images: the batch; an image may occur several times.
        :param make: called with the numbers of all images that are new, each once, if there are
            any; returns their embeddings [new, ...], and what the first tower was given for each.
        :param words: of each image, if its embeddings depend on words.
        """
        inputs = list(zip(images, words or [''] * len(images), strict=True))
        known, new = list(self._last), list[int]()
        places = []
        for number, one in enumerate(inputs):
            candidates = [*((each.image, each.words) for each in known), *(inputs[i] for i in new)]
            place = _place(one, candidates)
            if place == len(candidates):
                new.append(number)
            places.append(place)
        if new:
            embeds, model_images = make(new)
            # Copies, because a camera's driver may write the next image into the same memory.
            copies = [images[number].copy() for number in new]
            known += map(Embedded, copies, (inputs[i][1] for i in new), model_images, embeds)
        self._last = [known[place] for place in sorted(set(places))]
        batch = [known[place] for place in places]
        return torch.stack([one.embeds for one in batch]), [one.model_image for one in batch]


def _place(one: tuple[Image, str], candidates: Sequence[tuple[Image, str]]) -> int:
    """Return the index of identical words and an identical image; if there is none, the length."""
    for index, (image, words) in enumerate(candidates):
        if words == one[1] and np.array_equal(image, one[0]):
            return index
    return len(candidates)
