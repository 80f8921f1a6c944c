# SPDX-License-Identifier: Apache-2.0
"""An instruction that is in force only while the process that gives it lives.

At its end the process takes the instruction back. If it dies before, by SIGKILL or a crash, a small
second process does so (``heir.py``).
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence

from rclpy.duration import Duration

from vla_ros.client.heir import NOTHING_LEFT
from vla_ros.client.vla_client import VlaClient
from vla_ros.text import is_blank

_TAKE_BACK_S = 3.0


class Lease:
    """One instruction of a client. Used by the client's thread."""

    def __init__(self, client: VlaClient, instruction: str) -> None:
        self._client = client
        self._instruction = instruction
        self._said = False
        self._instructions = client.instructions  # created now, so that the node finds it in time

    @property
    def topic(self) -> str:
        """Name of the instructions' topic."""
        return str(self._instructions.topic_name)

    @property
    def is_in_force(self) -> bool:
        """Whether the node's status shows this instruction."""
        return not is_blank(self._instruction) and self._client.is_in_force(self._instruction)

    def renew(self) -> None:
        """Publish the instruction; repeat it, since the node may let it expire."""
        self._said = True
        self._client.say(self._instruction)

    def take_back(self, timeout_s: float = _TAKE_BACK_S) -> bool:
        """Tell the node to hold, repeatedly, until its status shows that it received that.

        Publish nothing if the instruction was never published and is not in force.

        :returns: whether the instruction is out of force within ``timeout_s``.
        """
        client = self._client
        before = client.status  # older than the request to hold
        ends_s = client.clock.monotonic_s() + timeout_s

        def hold() -> None:
            if self._said or self.is_in_force:
                client.say('')

        def is_out() -> bool:
            return client.status is not before and not self.is_in_force

        if not client.repeat_until(hold, is_out, timeout_s):
            return False
        # That status may be older than an instruction that has not arrived yet.
        left_s = max(0.0, ends_s - client.clock.monotonic_s())
        return bool(self._instructions.wait_for_all_acked(Duration(seconds=left_s)))


class Heir:
    """The process that takes the instruction back if this one ends without dismissing it.

    :param ros_arguments: arguments of this process from ``--ros-args`` on.
    :raises OSError: if the process can't be started.
    """

    def __init__(self, instruction: str, ros_arguments: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'vla_ros.client.heir', instruction, *ros_arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # so that it does not get the terminal's signals
        )

    def dismiss(self) -> None:
        """End the process: there is nothing left to take back."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # it is dead or stopped
            self._process.communicate(NOTHING_LEFT, timeout=5.0)
