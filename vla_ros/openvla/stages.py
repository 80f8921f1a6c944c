# SPDX-License-Identifier: Apache-2.0
"""The durations of one inference's stages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from vla_ros.openvla.placement import synchronize


class Marks(Protocol):
    """Marks in time."""

    def begin(self) -> Any:
        """Return a mark of now."""

    def end(self) -> Any:
        """Return a mark of when the device has done what was asked of it until now."""

    def seconds(self, begin: Any, end: Any) -> float:
        """Return the time between two marks; waits until both have passed."""


class _HostMarks:
    """The times of the host's clock. The end of a stage waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def begin(self) -> float:
        return time.monotonic()

    def end(self) -> float:
        synchronize(self._device)
        return time.monotonic()

    def seconds(self, begin: float, end: float) -> float:
        return end - begin


class _CudaMarks:
    """Events in the queue of a CUDA device, so that no stage waits for the one before it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def begin(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    end = begin

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


class Stages:
    """The durations of one inference's stages.

    ``seconds`` has the duration of each [s] after :meth:`finish`; zero for one that was not needed.
    """

    def __init__(
        self, device: torch.device, names: Sequence[str], marks: Marks | None = None
    ) -> None:
        """Begin.

        :param names: of all stages.
        :param marks: None: those of the device.
        """
        on_cuda = device.type == 'cuda'
        self._marks: Marks = marks or (_CudaMarks(device) if on_cuda else _HostMarks(device))
        self._spans: list[tuple[str, Any, Any]] = []
        self.seconds = dict.fromkeys(names, 0.0)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the block as (a part of) a stage."""
        begin = self._marks.begin()
        with torch.profiler.record_function(name):
            yield
            end = self._marks.end()
        self._spans.append((name, begin, end))

    def finish(self) -> None:
        """Wait for the end of the last stage, and fill in the durations."""
        for name, begin, end in self._spans:
            self.seconds[name] += self._marks.seconds(begin, end)
        self._spans.clear()
