"""Tells a new image from one that was seen before, however long ago within some minutes.

A driver that is stuck repeats one buffer, or several in turn. A sound camera has noise: no two of
its images are equal. Used by one thread.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_SAMPLE = np.s_[::16, ::16]  # of the pixels: enough to tell most images apart
_MEMORY = 4096  # images; at 30 Hz more than two minutes

V = TypeVar('V')


class Novelty:
    """Remembers images by digests: 0.2 MB in all, and some microseconds for a new image."""

    def __init__(self) -> None:
        # Digest of a sample, and whether the whole image has a digest in _images. The whole is
        # digested only where the sample was seen before: that takes a hundred times as long.
        self._samples: OrderedDict[bytes, bool] = OrderedDict()
        self._images: OrderedDict[bytes, None] = OrderedDict()

    def is_new(self, image: NDArray[np.uint8]) -> bool:
        """Return whether no such image came before, and remember it.

        Where the sample was seen once before and nothing is known of the rest, the image counts as
        seen: the next one under that sample is told apart by all of its pixels.

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
    """Put the key last, and forget the first if there are too many; the key's value before."""
    before = memory.pop(key, None)
    memory[key] = value
    if len(memory) > _MEMORY:
        memory.popitem(last=False)
    return before
