"""The errors a person can cause; each text says what, which value, what is allowed, what to do."""

from __future__ import annotations

from collections.abc import Iterable

from vla_ros.types import PolicyError


class CheckpointError(PolicyError):
    """The checkpoint can't be found, or is not a whole OpenVLA checkpoint."""


class PlacementError(PolicyError):
    """The device, dtype or quantization asked for is not to be had here."""


class UnnormKeyError(PolicyError):
    """The checkpoint has no statistics under the unnorm_key asked for."""


def listing(names: Iterable[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    ordered = sorted(names)
    shown = ', '.join(ordered[:most]) or 'none'
    return shown if len(ordered) <= most else f'{shown} and {len(ordered) - most} more'
