# SPDX-License-Identifier: Apache-2.0
"""The processes of this package's commands: start and end, shared memory, arguments of the node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from vla_ros.console import say, signals_deferred
from vla_ros.release import profile_variables, ros_distro
from vla_ros.share import share_file
from vla_ros.shared_memory import remove_dead_segments

# Parameters of a node whose limits must not end a command's measurement.
PATIENT: Mapping[str, str] = MappingProxyType(
    {
        'frozen_image_timeout_s': '0.0',  # a simulated camera has no noise
        'image_reliability': 'reliable',  # from the beginning, before the node has found the camera
        **dict.fromkeys(
            (
                'first_image_timeout_s',
                'image_timeout_s',
                'inference_timeout_s',
                'max_action_age_s',
                'hang_timeout_s',
            ),
            '3600.0',
        ),
    }
)


@contextlib.contextmanager
def running(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    **streams: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``python -m module`` in a process; end it by SIGINT, then by SIGKILL.

    :param environment: variables in addition to those of this process.
    :param streams: stdin, stdout and stderr, as for Popen.
    """
    with contextlib.ExitStack() as stack:
        with signals_deferred():  # every process that starts also ends
            process = subprocess.Popen(
                [sys.executable, '-m', module, *arguments],
                env={**os.environ, **(environment or {})},
                **streams,
            )
            stack.callback(_end, process)
        yield process


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()


def clean_shared_memory() -> None:
    """Remove the segments of crashed processes; call it before ``rclpy.init``."""
    removed = remove_dead_segments()
    if removed.segments:
        say(str(removed))


def camera_environment() -> dict[str, str]:
    """Return the variable that selects the Fast DDS profile for publishers of large images."""
    read, _ = profile_variables(ros_distro())
    return {read: str(share_file('config/fastdds.xml'))}


def parameter_arguments(values: Mapping[str, str]) -> list[str]:
    """Return the node's parameters as arguments after ``--ros-args``."""
    return [word for name, value in values.items() for word in ('-p', f'{name}:={value}')]
