# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: what a function asks of the device is recorded once, and then repeated as a whole.

A fast card waits for most of an inference until Python has asked it for the next small thing. A
graph asks once. It repeats the same kernels on the same memory, so its results are those of the
function, bit for bit; the warm-up compares them. What has no graph runs as ever.

Runs in the policy's thread. Independent of what the functions compute.
"""

from __future__ import annotations

import functools
import gc
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Protocol

import torch
from torch import Tensor

from vla_ros.openvla.placement import empty_cache

_LOG = logging.getLogger(__name__)
_LAYERS_OF_A_PIECE = 8  # between two pieces an inference can be cancelled
# Comparisons of a graph with its function. The second one mostly has other inputs.
_CHECKS = 2

Function = Callable[..., tuple[Tensor, ...]]
Replay = Callable[[], None]


class Recorder(Protocol):
    """Records what a device is asked for."""

    def rehearse(self, run: Callable[[], object]) -> None:
        """Run once where recordings are made, so that what is made at a first call exists."""

    def begin(self) -> None:
        """Begin to record; until the end nothing is computed."""

    def end(self) -> Replay:
        """End the recording, and return what repeats it."""

    def abandon(self) -> None:
        """End a recording that failed, if it has not ended yet."""


class CudaRecorder:
    """CUDA graphs that share their memory, since they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _capture_stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._open = ExitStack()
        self._graph: torch.cuda.CUDAGraph | None = None

    def rehearse(self, run: Callable[[], object]) -> None:
        """Run once in the stream of the recordings."""
        usual = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            run()
        usual.wait_stream(self._stream)

    def begin(self) -> None:
        """Begin a graph. Other threads may use the device at the same time."""
        self._graph = torch.cuda.CUDAGraph()
        # A graph that can't be ended leaves its stream behind: the outer one is restored, too.
        self._open.enter_context(torch.cuda.stream(torch.cuda.current_stream(self._device)))
        self._open.enter_context(
            torch.cuda.graph(
                self._graph,
                pool=self._pool,
                stream=self._stream,
                capture_error_mode='thread_local',
            )
        )

    def end(self) -> Replay:
        """End the graph."""
        graph, self._graph = self._graph, None
        self._open.close()
        if graph is None:
            raise RuntimeError('no graph was begun')
        return graph.replay

    def abandon(self) -> None:
        """End the graph, if it has not ended yet; ending a broken one raises again."""
        self._graph = None
        with suppress(RuntimeError):
            self._open.close()


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all recordings: cuBLAS keeps memory for each stream it ever met."""
    return torch.cuda.Stream(device)


def recorder_of(device: torch.device) -> Recorder | None:
    """Return what records graphs on the device; None where there are none."""
    return CudaRecorder(device) if device.type == 'cuda' else None


class Backlog:
    """Keeps the host at most one piece of work ahead of a CUDA device.

    Otherwise a cancelled inference would end only with all that was queued.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: deque[torch.cuda.Event] = deque()

    def limit(self) -> None:
        """Wait until the device has begun the last piece that was queued."""
        if self._device.type != 'cuda':
            return
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)
        if len(self._events) > 1:
            self._events.popleft().synchronize()


class _Program:
    """A function that was recorded for inputs of certain shapes.

    :param inputs: the memory that the recording reads.
    :param pieces: repeat the recording, one after the other.
    :param outputs: the memory that the recording writes to; other recordings may, too.
    """

    def __init__(
        self, inputs: Sequence[Tensor], pieces: Sequence[Replay], outputs: tuple[Tensor, ...]
    ) -> None:
        self.checks_left = _CHECKS
        self._inputs = inputs
        self._pieces = pieces
        self._outputs = outputs

    def run(self, inputs: Sequence[Tensor], between: Callable[[], None]) -> tuple[Tensor, ...]:
        """Return copies of the outputs.

        :param between: called before each piece.
        """
        for memory, value in zip(self._inputs, inputs, strict=True):
            memory.copy_(value)
        for piece in self._pieces:
            between()
            piece()
        return tuple(output.clone() for output in self._outputs)


class Graphs:
    """Runs functions of tensors, by a graph where there is one for their inputs' shapes.

    :param recorder: None: there are no graphs.
    :param device: of the model.
    :param check_cancelled: raises InferenceCancelled if the inference is cancelled.

    ``recording`` is true while a graph is made for each shape that occurs. ``problem`` says why
    there are no graphs although there is a recorder; empty: no problem.
    """

    def __init__(
        self,
        recorder: Recorder | None,
        device: torch.device,
        check_cancelled: Callable[[], None],
    ) -> None:
        self.recording = False
        self.problem = ''
        self._recorder = recorder
        self._device = device
        self._check_cancelled = check_cancelled
        self._backlog = Backlog(device)
        self._programs: dict[object, _Program] = {}
        self._pieces: list[Replay] | None = None  # of the recording that is being made
        self._layers = 0

    def __len__(self) -> int:
        """Return the number of functions and shapes that have a graph."""
        return len(self._programs)

    @property
    def text(self) -> str:
        """How many graphs there are, or why none; empty if none are wanted."""
        if self._recorder is None:
            return ''
        return f'no CUDA graphs: {self.problem}' if self.problem else f'{len(self)} CUDA graphs'

    @property
    def wanted(self) -> bool:
        """Whether memory has to stay where it is, because graphs are or may be made of it."""
        return self._recorder is not None

    def run(self, name: str, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the function returns for the inputs.

        :param name: of the function. What it reads beside its inputs must be at the same place
            whenever this is called with this name and inputs of these shapes.
        """
        if self._recorder is None or self.problem:
            return function(*inputs)
        key = name, tuple((one.shape, one.dtype) for one in inputs)
        program = self._programs.get(key)
        if self.recording and (program is None or program.checks_left):
            return self._checked(key, function, inputs)
        if program is None:
            return function(*inputs)
        return program.run(inputs, self._between_pieces)

    @contextmanager
    def making(self, wanted: bool = True) -> Iterator[None]:
        """Make a graph for each shape that occurs within the block; the warm-up does.

        :param wanted: False: make none.
        """
        self.recording = wanted
        try:
            yield
        finally:
            self.recording = False

    def before_layer(self) -> None:
        """Limit the queue, or begin the next piece of a recording. Called before each layer."""
        self._layers += 1
        if self._layers <= _LAYERS_OF_A_PIECE:
            return
        self._layers = 1
        if self._pieces is None or self._recorder is None:
            self._backlog.limit()
            return
        self._pieces.append(self._recorder.end())
        self._recorder.begin()

    def drop(self, problem: str = '') -> None:
        """Free all graphs.

        :param problem: why; then no others are made.
        """
        self.problem = problem
        self._programs.clear()
        if problem:
            _LOG.warning('no CUDA graphs, the policy runs without: %s', problem)
        gc.collect()
        empty_cache(self._device)

    def _checked(
        self, key: object, function: Function, inputs: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the function's results, after comparing them with those of its graph."""
        outputs = function(*inputs)
        problem = self._problem(key, function, inputs, outputs)
        if problem:  # nothing refers to the recording any more
            self.drop(problem)
        return outputs

    def _problem(
        self,
        key: object,
        function: Function,
        inputs: Sequence[Tensor],
        outputs: tuple[Tensor, ...],
    ) -> str:
        """Return why the function's graph can't be used; empty if it can."""
        try:
            program = self._programs.get(key) or self._recorded(function, inputs)
            repeated = program.run(inputs, self._between_pieces)
            if not all(map(_same_bits, outputs, repeated)):
                return f'the graph of {key} differs from what it was made of'
        except (MemoryError, RuntimeError) as error:
            return ' '.join(str(error).split())[:200] or type(error).__name__
        program.checks_left -= 1
        self._programs[key] = program  # not before: the comparison may be cancelled
        return ''

    def _recorded(self, function: Function, inputs: Sequence[Tensor]) -> _Program:
        """Return a recording of the function. Its memory stays where it is."""
        recorder = self._recorder
        if recorder is None:
            raise RuntimeError('nothing records here')
        static = [one.clone() for one in inputs]
        recorder.rehearse(lambda: function(*static))
        pieces: list[Replay] = []
        self._pieces, self._layers = pieces, 0
        recorder.begin()
        try:
            outputs = function(*static)
            pieces.append(recorder.end())
        except BaseException:
            recorder.abandon()
            raise
        finally:
            self._pieces = None
        return _Program(static, pieces, outputs)

    def _between_pieces(self) -> None:
        self._check_cancelled()
        self._backlog.limit()


def _same_bits(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors are equal bit for bit; NaN equals itself."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    bits = [one.contiguous().view(torch.uint8) for one in (first, second)]
    return torch.equal(*bits)
