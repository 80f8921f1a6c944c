"""Qualities of service that several programs use."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile


def latched(depth: int = 1) -> QoSProfile:
    """Return the quality of topics whose last message reaches whoever subscribes later."""
    return QoSProfile(depth=depth, durability=DurabilityPolicy.TRANSIENT_LOCAL)
