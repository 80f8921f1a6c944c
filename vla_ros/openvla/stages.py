# SPDX-License-Identifier: Apache-2.0
"""The durations of one inference's stages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from vla_ros.openvla.placement import synchronize


class Stages:
    """The durations of one inference's stages; waits for the device at the end of each.

    ``seconds`` has the duration of each [s]; zero for one that was not needed.
    """

    def __init__(self, device: torch.device, names: Sequence[str]) -> None:
        self._device = device
        self.seconds = dict.fromkeys(names, 0.0)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the block as (a part of) a stage."""
        started = time.monotonic()
        with torch.profiler.record_function(name):
            yield
            synchronize(self._device)
        self.seconds[name] += time.monotonic() - started
