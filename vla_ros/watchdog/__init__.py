"""Ends a process that is stuck, even if a thread of it keeps the interpreter's lock.

The node beats: its executor writes into a pipe, for how long it may now be silent. A small process
of its own reads the beats; when none came in time, it has the node print every thread's stack and
abort. Standard library only; independent of ROS.
"""

from vla_ros.watchdog.watchdog import Watchdog

__all__ = ['Watchdog']
