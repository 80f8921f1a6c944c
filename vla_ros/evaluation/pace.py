# SPDX-License-Identifier: Apache-2.0
"""The pace of an episode: what waits for what, and how the arm executes chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_ros.types import Observation

PACES = ('step', 'free', 'world')
DELTAS = ('now', 'image')
MOTIONS = ('action', 'twist')

# Called with the observation that a row is executed after, and the row; at the end with None.
Watch = Callable[[Observation, NDArray[np.float64] | None], None]


@dataclass(frozen=True)
class Pace:
    """The pace of the world and the robot.

    :param kind: ``step``: wait for each chunk. ``free``: follow the system's clock. ``world``:
        inference takes ``added_latency_s`` of the world's time, however long it takes.
    :param rate_hz: rate of the cameras, unless in step [Hz].
    :param added_latency_s: time from capture to sending of an observation, unless in step [s].
    :param deltas_from: start of a displacement, unless in step: ``now``, the tool's pose when the
        row begins, or ``image``, its pose when the image was captured, moved by the rows before.
    :param time_limit_s: maximum duration of an episode in the world's time [s]; None: the world's.
    :param rows: rows of a chunk that are executed before the next inference begins, as the node's
        ``replan_rows``; the arm goes on until the next chunk comes. None: all in step, otherwise it
        begins from the next image.
    :param motion: what moves the arm: each ``action``, or the node's ``twist``. A twist needs kind
        ``world``.
    """

    kind: str = 'step'
    rate_hz: float = 30.0
    added_latency_s: float = 0.0
    deltas_from: str = 'now'
    time_limit_s: float | None = None
    rows: int | None = None
    motion: str = 'action'
