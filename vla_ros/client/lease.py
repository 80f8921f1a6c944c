"""An instruction that is in force only while the process lives which gives it.

At its end the process takes it back. Where it dies before, by SIGKILL or a crash, a small process
beside it does (``heir.py``).
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Sequence

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

from vla_ros.client.heir import NOTHING_LEFT
from vla_ros.clock import Clock, SystemClock
from vla_ros.graph.heard import cleaned
from vla_ros.msg import VlaStatus
from vla_ros.text import printable

_TAKE_BACK_S = 3.0
_REPEAT_S = 0.2


class Lease:
    """One instruction on the topic ``instruction``, and the node's status. Of the node's thread."""

    def __init__(self, node: Node, instruction: str, clock: Clock = SystemClock()) -> None:
        self._clock = clock
        self.status: VlaStatus | None = None  # the last one
        self._instruction = instruction
        self._said = False
        self._instructions = node.create_publisher(String, 'instruction', 1)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(VlaStatus, 'status', self._on_status, latched)

    @property
    def topic(self) -> str:
        return str(self._instructions.topic_name)

    @property
    def is_in_force(self) -> bool:
        """Whether the node says that it carries out this instruction."""
        shown = printable(self._instruction)
        return self.status is not None and bool(shown) and self.status.instruction == shown

    def renew(self) -> None:
        """Say it, or say it again: the node may take back what is not repeated."""
        self._said = True
        self._instructions.publish(String(data=self._instruction))

    def take_back(self, spin: Callable[[], object], timeout_s: float = _TAKE_BACK_S) -> bool:
        """Tell the node to hold, again and again, until its status shows that it heard that.

        Nothing is told if the instruction was not said, and is not in force.

        :param spin: handles what comes, and returns soon.
        :returns: whether the instruction is out of force within ``timeout_s``.
        """
        before = self.status  # tells nothing of what comes now
        ends_s, repeat_s = self._clock.monotonic_s() + timeout_s, 0.0
        while self.status is before or self.is_in_force:
            now_s = self._clock.monotonic_s()
            if now_s > ends_s:
                return False
            if now_s > repeat_s and (self._said or self.is_in_force):
                repeat_s = now_s + _REPEAT_S
                self._instructions.publish(String(data=''))
            spin()
        # That status may be older than an instruction which is still on its way.
        left_s = max(0.0, ends_s - self._clock.monotonic_s())
        return bool(self._instructions.wait_for_all_acked(Duration(seconds=left_s)))

    def _on_status(self, message: VlaStatus) -> None:
        self.status = cleaned(message)


class Heir:
    """The process that takes the instruction back if this one ends before it has dismissed it."""

    def __init__(self, instruction: str, ros_arguments: Sequence[str]) -> None:
        """
        :param ros_arguments: what this process was given, with ``--ros-args``.
        :raises OSError: if it can't be started.
        """
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'vla_ros.client.heir', instruction, *ros_arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # the terminal's signals are not for it
        )

    def dismiss(self) -> None:
        """There is nothing left to take back."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # it has died, or is stopped
            self._process.communicate(NOTHING_LEFT, timeout=5.0)
