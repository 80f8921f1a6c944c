# SPDX-License-Identifier: Apache-2.0
"""Clients of the node: instructions, states and actions as values, a robot's cameras, processes.

``VlaClient`` and ``RobotSide`` load ROS on first use, so that the process of ``heir.py`` waits
without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vla_ros.client.robot_side import RobotSide
    from vla_ros.client.vla_client import Answer, ReceivedAction, VlaClient

__all__ = ['Answer', 'ReceivedAction', 'RobotSide', 'VlaClient']


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module = 'robot_side' if name == 'RobotSide' else 'vla_client'
    return getattr(importlib.import_module(f'vla_ros.client.{module}'), name)
