# SPDX-License-Identifier: Apache-2.0
"""Watchdog that ends a stuck process, even if one of its threads keeps the interpreter's lock.

The node's executor writes beats into a pipe, each with the time until the next one. A small
separate process reads the beats; if one does not come in time, it makes the node print every
thread's stack and abort. Standard library only; independent of ROS.
"""

from vla_ros.watchdog.watchdog import Watchdog

__all__ = ['Watchdog']
