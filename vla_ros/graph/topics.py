"""Names of topics on which the node and the other programs must agree."""

from __future__ import annotations

from collections.abc import Sequence


def image_topics(cameras: Sequence[str]) -> dict[str, str]:
    """Return the relative topic of each camera: ``image`` of a single one, otherwise NAME/image."""
    if len(cameras) == 1:
        return {cameras[0]: 'image'}
    return {name: f'{name}/image' for name in cameras}
