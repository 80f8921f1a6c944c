# SPDX-License-Identifier: Apache-2.0
"""Detection of images that repeat an image of the last minutes.

A stuck driver repeats one buffer, or several in turn. A working camera has noise: no two of its
images are equal. Used by one thread.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_SAMPLE = np.s_[::16, ::16]  # every 16th pixel distinguishes most images
_MEMORY = 4096  # images; at 30 Hz more than two minutes

V = TypeVar('V')


class Novelty:
    """A memory of images by digests, of 0.2 MB. A new image takes some microseconds."""

    def __init__(self) -> None:
        # Digest of a sample -> whether the whole image has a digest in _images. The whole image is
        # digested only if its sample came before, since that takes a hundred times as long.
        self._samples: OrderedDict[bytes, bool] = OrderedDict()
        self._images: OrderedDict[bytes, None] = OrderedDict()

    def is_new(self, image: NDArray[np.uint8]) -> bool:
        """Return whether no equal image came before, and remember it.

        If the sample came once before and the rest of that image is unknown, the image counts as a
        repetition. Later images with this sample are compared by all of their pixels.

        :param image: uint8 [H, W, 3].
        """
        sample = _digest(image[_SAMPLE], repr(image.shape).encode())
        was_seen = sample in self._samples
        whole_is_known = _remember(self._samples, sample, was_seen)
        if not was_seen:
            return True
        digest = _digest(image, sample)
        is_new = bool(whole_is_known) and digest not in self._images
        _remember(self._images, digest, None)
        return is_new


def _digest(pixels: NDArray[np.uint8], salt: bytes) -> bytes:
    digest = hashlib.blake2b(salt, digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _remember(memory: OrderedDict[bytes, V], key: bytes, value: V) -> V | None:
    """Put a key last, forget the first key if there are too many, and return the old value."""
    before = memory.pop(key, None)
    memory[key] = value
    if len(memory) > _MEMORY:
        memory.popitem(last=False)
    return before
