"""Whether a status accounts for every picture and every inference."""

from __future__ import annotations

from vla_ros.msg import VlaStatus


def unaccounted(status: VlaStatus) -> tuple[int, int]:
    """Pictures and inferences that no counter names."""
    pictures = status.received - (
        status.rejected
        + status.unstamped
        + status.future
        + status.repeated
        + status.backwards
        + status.frozen
        + status.idle
        + status.superseded
        + status.stale
        + status.taken
        + status.waiting
    )
    inferences = status.taken - (
        status.published
        + status.overrun
        + status.invalid
        + status.cancelled
        + status.failed
        + status.in_flight
    )
    return pictures, inferences
