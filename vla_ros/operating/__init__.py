# SPDX-License-Identifier: Apache-2.0
"""``vla_console`` on the ROS graph: what the page's server hears of robots, and tells them.

Two threads: that of the server's loop, and one that spins the ROS node. Messages go from the second
to the first by ``call_soon_threadsafe``. Commands are published by the first, so that a stop waits
for no callback.
"""
