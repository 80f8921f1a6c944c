"""An instruction that is in force only while the process lives which gives it.

At its end the process takes it back. Where it dies before, by SIGKILL or a crash, a small process
beside it does (``heir.py``).
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
        self._instructions = client.instructions  # made now, so that the node finds it in time

    @property
    def topic(self) -> str:
        return str(self._instructions.topic_name)

    @property
    def is_in_force(self) -> bool:
        """Whether the node says that it carries out this instruction."""
        return not is_blank(self._instruction) and self._client.is_in_force(self._instruction)

    def renew(self) -> None:
        """Say it, or say it again: the node may take back what is not repeated."""
        self._said = True
        self._client.say(self._instruction)

    def take_back(self, timeout_s: float = _TAKE_BACK_S) -> bool:
        """Tell the node to hold, again and again, until its status shows that it heard that.

        Nothing is told if the instruction was not said, and is not in force.

        :returns: whether the instruction is out of force within ``timeout_s``.
        """
        client = self._client
        before = client.status  # tells nothing of what comes now
        ends_s = client.clock.monotonic_s() + timeout_s

        def hold() -> None:
            if self._said or self.is_in_force:
                client.say('')

        def is_out() -> bool:
            return client.status is not before and not self.is_in_force

        if not client.repeat_until(hold, is_out, timeout_s):
            return False
        # That status may be older than an instruction which is still on its way.
        left_s = max(0.0, ends_s - client.clock.monotonic_s())
        return bool(self._instructions.wait_for_all_acked(Duration(seconds=left_s)))


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
