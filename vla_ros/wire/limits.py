# SPDX-License-Identifier: Apache-2.0
"""Limits of a message from another process, checked before memory is taken."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.wire.errors import WireError

MAX_FRAME_BYTES = 16_000_000  # below the limit of common servers, 16 MiB


@dataclass(frozen=True)
class Limits:
    """Limits of one message.

    :param frame_bytes: maximum size [bytes].
    :param items: maximum number of values, keys and containers, at all levels together.
    :param depth: maximum number of containers within each other.
    :param dimensions: maximum number of dimensions of an array.
    :param pixels: maximum number of pixels of all encoded images together.
    """

    frame_bytes: int = MAX_FRAME_BYTES
    items: int = 20_000
    depth: int = 16
    dimensions: int = 8
    pixels: int = 16_000_000

    def check_bytes(self, count: int) -> None:
        """Raise WireError if a message of this size is too large."""
        if count > self.frame_bytes:
            raise WireError(
                f'a message has {count} bytes, at most {self.frame_bytes} are allowed',
                'send smaller images',
                value=count,
                expected=f'at most {self.frame_bytes}',
            )

    def check_items(self, count: int) -> None:
        """Raise WireError if a message has too many items."""
        if count > self.items:
            raise WireError(
                f'a message has more than {self.items} items',
                'send numbers as arrays',
                value=count,
                expected=f'at most {self.items}',
            )

    def check_depth(self, depth: int) -> None:
        """Raise WireError if containers are nested too deep."""
        if depth > self.depth:
            raise WireError(
                f'a message has more than {self.depth} containers within each other',
                value=depth,
                expected=f'at most {self.depth}',
            )


LIMITS = Limits()  # of every message for which nothing else is said
