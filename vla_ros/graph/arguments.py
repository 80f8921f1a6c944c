# SPDX-License-Identifier: Apache-2.0
"""Arguments for ROS that ROS rejects, as errors for the user. Any thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rclpy.exceptions import ParameterException

from vla_ros.errors import VlaError


class ArgumentsError(VlaError):
    """Arguments after ``--ros-args`` that ROS rejects."""


@contextlib.contextmanager
def usable_arguments() -> Iterator[None]:
    """Initialize rclpy, and create a node, in this block.

    :raises ArgumentsError: if ROS rejects the arguments there.
    """
    try:
        yield
    except (RuntimeError, ParameterException) as error:  # RCLError is the first
        text = ' '.join(str(error).split())
        raise ArgumentsError(
            f'ROS rejects the arguments: {text}', 'correct what follows --ros-args'
        ) from error
