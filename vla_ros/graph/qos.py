# SPDX-License-Identifier: Apache-2.0
"""QoS profiles that several programs use."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile


def latched(depth: int = 1) -> QoSProfile:
    """Return the profile of topics whose last messages reach subscribers that join later.

    :param depth: number of messages that are kept.
    """
    return QoSProfile(depth=depth, durability=DurabilityPolicy.TRANSIENT_LOCAL)
