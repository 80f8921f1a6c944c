# SPDX-License-Identifier: Apache-2.0
"""The parts of torch.cuda that graphs and stage times use, without a GPU.

Streams and events only take notes. A graph is a tape of the CPU; as with torch, one that can't be
ended leaves its stream behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch

from support.recording import Tape
from vla_ros.openvla import graphs


class Stream:
    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.waited_for: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited_for.append(other)


class Graph:
    def __init__(self) -> None:
        self.tape = Tape()

    def replay(self) -> None:
        self.tape.repeat()


class Event:
    """Its time is the number of events before it [ms]."""

    made: ClassVar[list[Event]] = []

    def __init__(self, enable_timing: bool = False) -> None:
        self.enable_timing = enable_timing
        self.waited = 0

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)
        self.number = len(Event.made)
        Event.made.append(self)

    def synchronize(self) -> None:
        self.waited += 1

    def elapsed_time(self, end: Event) -> float:
        assert self.enable_timing and end.enable_timing and end.waited
        return float(end.number - self.number)


class FakeCuda:
    """In place of torch.cuda's names.

    ``broken_ends`` makes as many ends of graphs fail.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.usual = self.current = Stream()
        self.broken_ends = 0
        self.modes: set[str] = set()
        self.pools: set[int] = set()
        Event.made = []
        patch.setattr(graphs, '_capture_stream', Stream)  # the real one is kept
        for name, replacement in (
            ('Stream', Stream),
            ('stream', self.stream),
            ('current_stream', lambda device: self.current),
            ('CUDAGraph', Graph),
            ('graph', self.graph),
            ('graph_pool_handle', object),
            ('Event', Event),
        ):
            patch.setattr(torch.cuda, name, replacement)

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(
        self, graph: Graph, pool: Any, stream: Stream, capture_error_mode: str
    ) -> Iterator[None]:
        self.modes.add(capture_error_mode)
        self.pools.add(id(pool))
        before, self.current = self.current, stream
        graph.tape.__enter__()
        try:
            yield
        finally:
            graph.tape.__exit__(None, None, None)
            if self.broken_ends:
                self.broken_ends -= 1
                raise RuntimeError('CUDA error: operation failed due to a previous error')
            self.current = before
