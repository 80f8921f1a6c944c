# SPDX-License-Identifier: Apache-2.0
"""A policy without a model, whose time the test decides, and a worker that owns it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vla_ros.clock import ManualClock
from vla_ros.scheduling import InferenceWorker, Phase, Result, WorkerLimits
from vla_ros.types import (
    ActionSpace,
    Cancel,
    InferenceCancelled,
    InstructionError,
    Invalid,
    InvalidReason,
    Observation,
    PolicyError,
    PolicyInfo,
    PolicySpec,
    Prediction,
    Progress,
    ProgressCallback,
    TokenTrace,
    WarmupTimes,
    unknown_names,
)

INFO = PolicyInfo('fake', '', 'cpu', 'float32', 'none')


BY_POLICY = InvalidReason(Invalid.BY_POLICY)
SPEC = PolicySpec(
    cameras=('image',),
    state_dim=0,
    action_dim=7,
    horizon=1,
    action_space=ActionSpace.UNKNOWN,
    names=unknown_names(7),
    period_s=None,
    emits_tokens=True,
    deterministic=True,
)
_OF_TOKENS = [field.name for field in fields(TokenTrace)]


def a_prediction(value: float = 0.5, **changes: object) -> Prediction:
    """Return one of seven equal values.

    :param changes: of the prediction or of its tokens.
    """
    tokens = {'ids': np.full(7, 31900), 'probabilities': np.ones(7, dtype=np.float32)}
    tokens |= {name: changes.pop(name) for name in _OF_TOKENS if name in changes}
    actions = np.full((1, 7), value)
    arguments = {
        'actions': actions,
        'normalized_actions': actions,
        'tokens': TokenTrace(**tokens),
        'unnorm_key': 'fake',
    }
    return Prediction(**{**arguments, **changes})


class FakeSession:
    """Counts its resets."""

    spec = SPEC

    def __init__(self, unnorm_key: str | None) -> None:
        self.unnorm_key = unnorm_key
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1


class FakePolicy:
    """Calls ``act`` once for every batch; keeps what it was asked."""

    def __init__(
        self,
        act: Callable[[Cancel], Prediction] = lambda cancel: a_prediction(),
        refused: str | None = None,
    ) -> None:
        """
        :param refused: an instruction that is not usable.
        """
        self.info = INFO
        self.max_batch_size = 8
        self.batches: list[list[str]] = []  # the instructions of each
        self.cancels: list[Cancel] = []  # of each
        self.calls: list[tuple[NDArray[np.uint8], str, str | None]] = []
        self.sessions: list[FakeSession] = []  # in the order they were begun
        self.resets: list[int] = []  # that the session had had, of each call
        self.threads: set[str] = set()
        self.closed = False
        self.check_files_hook: Callable[[], None] = lambda: None
        self._act = act
        self._refused = refused

    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> WarmupTimes:
        if progress is not None:
            progress(Progress('warming up', 1, 1))
        return WarmupTimes(0.25, 0.2, 0.05)

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        return SPEC

    def close(self) -> None:
        self.closed = True

    def check_files(self) -> None:
        self.check_files_hook()

    def check_instruction(self, instruction: str) -> None:
        if instruction == self._refused:
            raise InstructionError(f'{instruction!r} is refused')

    def session(self, unnorm_key: str | None = None) -> FakeSession:
        self.sessions.append(FakeSession(unnorm_key))
        return self.sessions[-1]

    def predict(
        self, batch: Sequence[tuple[FakeSession, Observation]], cancel: Cancel | None = None
    ) -> list[Prediction | PolicyError]:
        assert cancel is not None
        self.cancels.append(cancel)
        self.batches.append([one.instruction for _, one in batch])
        self.calls += [(one.image, one.instruction, own.unnorm_key) for own, one in batch]
        self.resets += [own.resets for own, _ in batch]
        self.threads.add(threading.current_thread().name)
        prediction = self._act(cancel)
        return [replace(prediction, model_images=one.images) for _, one in batch]


class Gate:
    """Holds an inference until it is opened, or until it is cancelled if it listens."""

    def __init__(self, listens_to_cancel: bool = True) -> None:
        self.entered = threading.Semaphore(0)
        self._open = threading.Semaphore(0)
        self._listens = listens_to_cancel

    def open(self) -> None:
        self._open.release()

    def __call__(self, cancel: Cancel) -> Prediction:
        self.entered.release()
        for _ in range(2000):
            if self._open.acquire(timeout=0.005):
                return a_prediction()
            if self._listens and cancel.is_set():
                raise InferenceCancelled
        raise AssertionError('the gate was never opened')


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Fail the test if the condition does not come true in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f'not within {timeout_s} s'
        time.sleep(0.002)


LIMITS = WorkerLimits(max_image_age_s=0.5, inference_timeout_s=1.0, hang_timeout_s=5.0)
IMAGE = np.zeros((4, 6, 3), dtype=np.uint8)


class WorkerBench:
    """A worker with its clock and its policy."""

    def __init__(self, policy: FakePolicy, sources: int = 1) -> None:
        self.clock = ManualClock()
        self.policy = policy
        self.notified = threading.Semaphore(0)
        self.worker = InferenceWorker(
            lambda progress: policy, LIMITS, self.clock, 'fake', self.notified.release, sources
        )
        self.results: list[Result] = []

    def wait_for_results(self, count: int) -> list[Result]:
        """Until there are so many in all."""

        def come() -> bool:
            while (result := self.worker.next_result()) is not None:
                self.results.append(result)
            return len(self.results) >= count

        wait_until(come)
        return self.results


Bench = TypeVar('Bench', bound=WorkerBench)


@contextmanager
def started(bench: Bench) -> Iterator[Bench]:
    """Its worker is ready, and ends at the end."""
    bench.worker.start()
    wait_until(lambda: bench.worker.status().phase is Phase.READY)
    yield bench
    assert bench.worker.close(10)
