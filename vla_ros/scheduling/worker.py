"""The one thread that owns the policy, and what others may ask of it.

The policy is built, warmed and called in the thread ``vla-inference`` and nowhere else. Pictures
reach it through a slot in which the newest wins; results wait in a list until their reader, told
by ``notify``, takes them. Knows neither ROS nor torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from vla_ros.scheduling.clock import Clock, is_fresh
from vla_ros.scheduling.result import Outcome, Result, failure_text
from vla_ros.scheduling.slot import LatestSlot, SlotClosed, SlotStatistics
from vla_ros.types import (
    InferenceCancelled,
    Observation,
    Policy,
    PolicyInfo,
    Prediction,
    Progress,
    ProgressCallback,
    Request,
    WarmupTimes,
)

_IDLE_WAIT_S = 60.0  # bounds every wait of the worker; nothing happens when it ends

BuildPolicy = Callable[[ProgressCallback], Policy]


class Phase(Enum):
    """What the worker's thread is at."""

    LOADING = 'loading'
    WARMING_UP = 'warming up'
    READY = 'ready'
    FAILED = 'failed'
    CLOSED = 'closed'


class Deadline(Enum):
    """How the inference under way stands to its deadlines."""

    MET = 'met'
    MISSED = 'missed'
    HUNG = 'hung'


@dataclass(frozen=True)
class WorkerLimits:
    """
    :param max_image_age_s: an older picture is not taken.
    :param inference_timeout_s: an inference that takes longer is cancelled.
    :param hang_timeout_s: how long it may then take to come back.
    """

    max_image_age_s: float
    inference_timeout_s: float
    hang_timeout_s: float


@dataclass(frozen=True)
class WorkerStatus:
    """
    :param elapsed_s: time in this phase.
    :param progress: of loading and warming up.
    :param info: of the policy, once it is loaded.
    :param load_s: what loading took, once it is over.
    :param warmup_times: what the warm-up took, once it is over.
    :param failure: why, if the phase is FAILED.
    """

    phase: Phase
    elapsed_s: float
    progress: Progress | None
    info: PolicyInfo | None
    load_s: float
    warmup_times: WarmupTimes | None
    failure: str


@dataclass
class _Inference:
    """The one under way; guarded by the worker's lock, but for the event."""

    started_s: float
    cancel: threading.Event = field(default_factory=threading.Event)
    late_since_s: float | None = None  # when it was noticed, and cancelled

    def deadline(self, now_s: float, limits: WorkerLimits) -> Deadline:
        if self.late_since_s is None and now_s - self.started_s > limits.inference_timeout_s:
            self.late_since_s = now_s
            self.cancel.set()
        if self.late_since_s is None:
            return Deadline.MET
        # Counted from the cancel: whoever looks may have been late, too.
        hung = now_s - self.late_since_s > limits.hang_timeout_s
        return Deadline.HUNG if hung else Deadline.MISSED


class InferenceWorker:
    """Start it once, submit observations, take results, close it. A new policy is a new worker.

    Lock order: the slot's lock may be held while this object's is taken, never the other way.
    """

    def __init__(
        self,
        build_policy: BuildPolicy,
        limits: WorkerLimits,
        clock: Clock,
        unnorm_key: str | None = None,
        notify: Callable[[], None] = lambda: None,
    ) -> None:
        """
        :param build_policy: called in the worker's thread.
        :param notify: called in the worker's thread when the phase changed or a result waits;
            must not block.
        """
        self._build_policy = build_policy
        self._limits = limits
        self._clock = clock
        self._unnorm_key = unnorm_key
        self._notify = notify
        self._slot: LatestSlot[tuple[Observation, int]] = LatestSlot()
        self._thread = threading.Thread(target=self._run, name='vla-inference', daemon=True)
        self._closing = threading.Event()
        self._last_ids: NDArray[np.int64] | None = None  # worker only: of the last valid action
        self._last_epoch = -1

        self._lock = threading.Lock()  # guards all below
        self._epoch = 0
        self._inference: _Inference | None = None
        self._results: list[tuple[Result, int]] = []
        self._phase = Phase.LOADING
        self._phase_since_s = clock.monotonic_s()
        self._progress: Progress | None = None
        self._info: PolicyInfo | None = None
        self._load_s = 0.0
        self._warmup_times: WarmupTimes | None = None
        self._failure = ''

    # -- any thread ------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def submit(self, observation: Observation) -> None:
        """Hand over the newest observation; one that still waits is superseded.

        :raises SlotClosed: after :meth:`close`.
        """
        with self._lock:
            epoch = self._epoch
        self._slot.put((observation, epoch))

    def reset(self) -> None:
        """Let nothing that was submitted so far become an action."""
        with self._lock:
            self._epoch += 1
            if self._inference is not None:
                self._inference.cancel.set()

    def next_result(self) -> Result | None:
        """Take out what has come, one by one; what is from before a reset is CANCELLED."""
        with self._lock:
            while self._results:
                result, epoch = self._results.pop(0)
                if epoch == self._epoch:
                    return result
                if result.outcome is not Outcome.STALE:  # that one was never taken
                    inference_s = result.inference_s
                    return Result(result.observation, Outcome.CANCELLED, inference_s=inference_s)
            return None

    def enforce_deadline(self) -> Deadline:
        """Look at the inference under way; cancel it if it is late. Call this regularly."""
        with self._lock:
            if self._inference is None:
                return Deadline.MET
            return self._inference.deadline(self._clock.monotonic_s(), self._limits)

    def status(self) -> WorkerStatus:
        with self._lock:
            return WorkerStatus(
                self._phase,
                self._clock.monotonic_s() - self._phase_since_s,
                self._progress,
                self._info,
                self._load_s,
                self._warmup_times,
                self._failure,
            )

    def statistics(self) -> SlotStatistics:
        return self._slot.statistics()

    def close(self, timeout_s: float) -> bool:
        """Stop what is under way and end the thread.

        :returns: whether it ended within ``timeout_s``.
        """
        self._closing.set()
        self._slot.close()
        self.reset()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- worker only -----------------------------------------------------------------------------

    def _run(self) -> None:
        policy = None
        try:
            policy = self._build_policy(self._report)
            action_dim = policy.action_dim(self._unnorm_key)
            with self._lock:
                self._info = policy.info
                self._load_s = self._clock.monotonic_s() - self._phase_since_s
            self._enter(Phase.WARMING_UP)
            warmup_times = policy.warmup(self._report, self._closing)
            with self._lock:
                self._warmup_times = warmup_times
            self._enter(Phase.READY)
            while True:
                self._serve(policy, action_dim)
        except (SlotClosed, InferenceCancelled):
            self._enter(Phase.CLOSED)
        except BaseException as error:  # a panic of a Rust library is no Exception
            with self._lock:
                self._failure = failure_text(error)
            self._enter(Phase.FAILED)
        finally:
            if policy is not None:
                policy.close()

    def _serve(self, policy: Policy, action_dim: int) -> None:
        """Wait for an observation and make a result of it."""
        taken = self._slot.take(self._is_fresh, _IDLE_WAIT_S)
        if taken is None:
            return
        (observation, epoch), fresh = taken
        if fresh:
            result = self._infer(policy, observation, epoch, action_dim)
        else:
            result = Result(observation, Outcome.STALE)
        with self._lock:
            if result.outcome is Outcome.STALE and epoch != self._epoch:
                return  # dropped by a reset, not by its age: there is nothing to tell
            self._results.append((result, epoch))
        self._notify()

    def _is_fresh(self, item: tuple[Observation, int]) -> bool:
        observation, epoch = item
        with self._lock:
            current = epoch == self._epoch
        now_ns = self._clock.now_ns()
        return current and is_fresh(observation.stamp_ns, now_ns, self._limits.max_image_age_s)

    def _infer(
        self, policy: Policy, observation: Observation, epoch: int, action_dim: int
    ) -> Result:
        started_s = self._clock.monotonic_s()
        inference = _Inference(started_s)
        with self._lock:
            self._inference = inference
            if epoch != self._epoch:
                inference.cancel.set()
        prediction: Prediction | None = None
        error: BaseException | None = None
        try:
            # What was predicted before a reset is no guess at what comes after it.
            draft = self._last_ids if self._last_epoch == epoch else None
            request = Request(observation.image, observation.instruction, self._unnorm_key, draft)
            (prediction,) = policy.predict_actions([request], inference.cancel)
            outcome = Outcome.PREDICTED
            if prediction.valid:
                self._last_ids, self._last_epoch = prediction.token_ids, epoch
        except InferenceCancelled:
            outcome = Outcome.CANCELLED
        except BaseException as raised:  # one bad inference must not end the worker
            error = raised
            outcome = Outcome.FAILED
        inference_s = self._clock.monotonic_s() - started_s
        with self._lock:
            self._inference = None
        was_late = inference.late_since_s is not None
        late = was_late or inference_s > self._limits.inference_timeout_s
        if late and outcome is not Outcome.FAILED:
            outcome, prediction = Outcome.OVERRUN, None
        return Result(observation, outcome, prediction, error, inference_s, action_dim)

    def _enter(self, phase: Phase) -> None:
        with self._lock:
            self._phase = phase
            self._phase_since_s = self._clock.monotonic_s()
            self._progress = None
        self._notify()

    def _report(self, progress: Progress) -> None:
        """Called by the policy while it loads and warms up; also the place where it can stop."""
        if self._closing.is_set():
            raise InferenceCancelled
        with self._lock:
            self._progress = progress
        self._notify()
