# SPDX-License-Identifier: Apache-2.0
"""What CUDA graphs are on a CPU: the calls of torch are recorded, and later repeated on the same
memory without a line of Python between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# A graph can't wait for a value, and has no memory of the host.
FORBIDDEN = ('_local_scalar_dense', 'nonzero', 'lift_fresh')


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Tape(TorchDispatchMode):
    """The calls of one piece with their results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self.fresh: list[Tensor] = []  # results with memory of their own

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(name in str(func) for name in FORBIDDEN):
            raise RuntimeError(f'{func} is not permitted in a recording')
        kwargs = kwargs or {}
        given = {one.untyped_storage().data_ptr() for one in tensors((args, kwargs))}
        results = func(*args, **kwargs)
        for one in tensors(results):
            if one.untyped_storage().data_ptr() not in given:
                self.fresh.append(one)
        self.calls.append((func, args, kwargs, results))
        return results

    def repeat(self) -> None:
        for func, args, kwargs, results in self.calls:
            news = func(*args, **kwargs)
            for old, new in zip(tensors(results), tensors(news), strict=True):
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


class TapeRecorder:
    """Records on the CPU; recordings share their memory: one destroys the results of the others.

    :param fails_at: number of the piece whose end fails, counted from 1.
    """

    def __init__(self, error: Exception | None = None, fails_at: int = 0) -> None:
        self.pieces, self.repeated, self.rehearsed = 0, 0, 0
        self._error, self._fails_at = error, fails_at
        self._tape: Tape | None = None
        self._last: tuple[int, list[Tape]] = (0, [])

    def rehearse(self, run: Callable[[], object]) -> None:
        self.rehearsed += 1
        run()

    def begin(self) -> None:
        assert self._tape is None
        self._tape = Tape()
        self._tape.__enter__()

    def end(self) -> Callable[[], None]:
        assert self._tape is not None
        tape, self._tape = self._tape, None
        tape.__exit__(None, None, None)
        self.pieces += 1
        if self.pieces == self._fails_at and self._error is not None:
            raise self._error
        program = self.rehearsed

        def replay() -> None:
            self.repeated += 1
            if program != self._last[0]:
                for one in self._last[1]:
                    destroy(one)
                self._last = (program, [])
            self._last[1].append(tape)
            tape.repeat()

        return replay

    def abandon(self) -> None:
        if self._tape is not None:
            tape, self._tape = self._tape, None
            tape.__exit__(None, None, None)


def destroy(tape: Tape) -> None:
    for one in tape.fresh:
        if one.is_floating_point():
            one.fill_(float('nan'))
        elif one.dtype == torch.int64:
            one.fill_(-1)
