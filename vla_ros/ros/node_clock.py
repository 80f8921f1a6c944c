"""The node's clock, by which worker, gates and cameras go, and what is wrong with it at times.

Any thread may ask for the time; the rest is the executor's thread's. Refuses to know what a
fault of the clock leads to.
"""

from __future__ import annotations

import time

from rclpy.node import Node

from vla_ros.scheduling import ClockWatch


class NodeClock:
    """Its time is the node's, be that the system's or a simulation's."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.start_over()

    def now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def monotonic_s(self) -> float:
        return time.monotonic()

    @property
    def jumps(self) -> int:
        return self._watch.jumps

    def start_over(self) -> None:
        """Count jumps from zero, from now on."""
        self._watch = ClockWatch(self)

    def look(self) -> tuple[str, bool]:
        """What is wrong, empty if nothing is, and whether the clock has jumped since last time."""
        simulated = self._node.get_clock().ros_time_is_active
        jumped_s = self._watch.jump_s(simulated)
        if jumped_s:
            why = (
                f"clock jump: this machine's clock went {jumped_s:+.3f} s by itself, so ages are "
                'unknown; what was under way is dropped'
            )
            return why, True
        if simulated and self.now_ns() == 0:
            return 'no simulated time: use_sim_time is true, and nothing publishes /clock', False
        return '', False
