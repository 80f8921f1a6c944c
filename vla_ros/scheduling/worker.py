# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the policy, and its interface for other threads.

The policy is built, warmed and called only in the thread ``vla-inference``. The thread serves one
or several robots; each is a source with a number from 0. Observations reach it through slots, one
for each source, that keep the newest; all waiting observations form one batch. Results wait in a
list until their reader, called by ``notify``, takes them. With ``replan_rows`` an observation waits
until rows of its source's chunk have been played. Independent of ROS and torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from vla_ros.clock import Clock, is_fresh
from vla_ros.reasons import Cause, Reason
from vla_ros.scheduling.inference import (
    Deadline,
    Inference,
    InferenceCancel,
    Submission,
    WorkerLimits,
)
from vla_ros.scheduling.phase import Phase, WorkerStatus
from vla_ros.scheduling.replanning import Replanning
from vla_ros.scheduling.result import Outcome, Result, failure_text
from vla_ros.scheduling.slot import LatestSlots, SlotClosed, SlotStatistics
from vla_ros.types import (
    InferenceCancelled,
    Observation,
    Policy,
    PolicyError,
    PolicyInfo,
    PolicySpec,
    Prediction,
    Progress,
    ProgressCallback,
    Session,
    WarmupTimes,
    invalid_reason,
)

_IDLE_WAIT_S = 1.0  # limit of every wait of the worker; then it checks the policy's files
_FAILED_IN = {
    Phase.LOADING: Reason.LOADING_FAILED,
    Phase.WARMING_UP: Reason.WARMUP_FAILED,
    Phase.READY: Reason.CHECKPOINT_CHANGED,
}

BuildPolicy = Callable[[ProgressCallback], Policy]


class InferenceWorker:
    """A worker for one policy: start it once, submit observations, take results, close it.

    Another policy needs another worker. Lock order: the slots' lock may be held while this object's
    lock is taken, never the other way.
    """

    def __init__(
        self,
        build_policy: BuildPolicy,
        limits: WorkerLimits,
        clock: Clock,
        unnorm_key: str | None = None,
        notify: Callable[[], None] = lambda: None,
        sources: int = 1,
    ) -> None:
        """Prepare the worker without starting its thread.

        :param build_policy: called in the worker's thread; the policy must take batches of
            ``sources`` observations.
        :param notify: called in the worker's thread when the phase changed or a result waits;
            must not block.
        :param sources: number of robots.
        """
        self._build_policy = build_policy
        self._limits = limits
        self._clock = clock
        self._unnorm_key = unnorm_key
        self._notify = notify
        self._slots: LatestSlots[Submission] = LatestSlots(sources)
        self._thread = threading.Thread(target=self._run, name='vla-inference', daemon=True)
        self._closing = threading.Event()
        # Worker only: each source's session, and the session's epoch.
        self._sessions: list[Session] = []
        self._session_epochs = [0] * sources

        self._lock = threading.Lock()  # guards all below
        self._epochs = [0] * sources
        self._replannings = [Replanning() for _ in range(sources)]
        self._inference: Inference | None = None
        self._results: list[tuple[Submission, Result]] = []
        self._phase = Phase.LOADING
        self._phase_since_s = clock.monotonic_s()
        self._progress: Progress | None = None
        self._info: PolicyInfo | None = None
        self._spec: PolicySpec | None = None
        self._key_in_force = ''
        self._load_s = 0.0
        self._warmup_times: WarmupTimes | None = None
        self._failure: Cause | None = None

    # -- any thread ------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def submit(self, observation: Observation, source: int = 0) -> None:
        """Submit a source's newest observation; it supersedes one that still waits.

        :raises SlotClosed: after :meth:`close`.
        """
        with self._lock:
            epoch = self._epochs[source]
        self._slots.put(Submission(observation, source, epoch), source)

    def reset(self, source: int | None = None) -> None:
        """Cancel all observations that were submitted so far.

        The running inference continues if another source needs it; otherwise it is cancelled.

        :param source: number of the robot; None: all robots.
        """
        with self._lock:
            for each in range(len(self._epochs)) if source is None else (source,):
                self._epochs[each] += 1
                self._replannings[each].start_over()
            self._cancel_if_unneeded()
        self._slots.wake()

    def adjust(self, limits: WorkerLimits) -> None:
        """Apply other limits from now on, also to the running inference."""
        with self._lock:
            self._limits = limits
        self._slots.wake()

    def judge(self, result: Result, from_ns: int | None) -> None:
        """Say what came of a result: with ``replan_rows`` the next inference waits for that.

        :param from_ns: capture time of the first image from which the next inference may begin;
            None: any image's.
        """
        with self._lock:
            self._replannings[result.source].judge(result.observation, from_ns)
        self._slots.wake()

    def end_chunk(self, source: int = 0) -> None:
        """Wait no longer for the rows of a source's chunk: they are not played."""
        with self._lock:
            self._replannings[source].end_chunk()
        self._slots.wake()

    def next_result(self) -> Result | None:
        """Return the next result, or None; a result from before a reset becomes CANCELLED."""
        with self._lock:
            while self._results:
                submission, result = self._results.pop(0)
                if self._is_current(submission):
                    return result
                if result.outcome is not Outcome.STALE:  # a stale one was never taken
                    cancelled = Outcome.CANCELLED
                    return replace(result, outcome=cancelled, prediction=None, error=None)
            return None

    def enforce_deadline(self) -> Deadline:
        """Check the running inference, and cancel it if it is late. Call this regularly."""
        with self._lock:
            if self._inference is None:
                return Deadline.MET
            return self._inference.deadline(self._clock.monotonic_s(), self._limits)

    def overdue(self) -> set[int]:
        """Return the sources that wait for a late inference: its members, and those after it."""
        with self._lock:
            if self._inference is None or self._inference.late_since_s is None:
                return set()
            members = {one.source for one in self._inference.members}
        return members | self._slots.waiting(self._is_due)

    def status(self) -> WorkerStatus:
        with self._lock:
            return WorkerStatus(
                self._phase,
                self._clock.monotonic_s() - self._phase_since_s,
                self._progress,
                self._info,
                self._spec,
                self._load_s,
                self._warmup_times,
                self._failure,
                self._key_in_force,
            )

    def statistics(self, source: int = 0) -> SlotStatistics:
        return self._slots.statistics(source)

    def close(self, timeout_s: float) -> bool:
        """Cancel the running inference, and end the thread.

        :returns: whether it ended within ``timeout_s``.
        """
        self._closing.set()
        self._slots.close()
        self.reset()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- worker only -----------------------------------------------------------------------------

    def _run(self) -> None:
        policy = None
        try:
            policy = self._build_policy(self._report)
            self._sessions = [policy.session(self._unnorm_key) for _ in self._session_epochs]
            with self._lock:
                self._info, self._spec = policy.info, self._sessions[0].spec
                self._key_in_force = getattr(self._sessions[0], 'unnorm_key', None) or ''
                self._load_s = self._clock.monotonic_s() - self._phase_since_s
            self._enter(Phase.WARMING_UP)
            warmup_times = policy.warmup(self._report, self._closing)
            with self._lock:
                self._warmup_times = warmup_times
            self._enter(Phase.READY)
            while True:
                self._serve(policy)
        except (SlotClosed, InferenceCancelled):
            self._enter(Phase.CLOSED)
        except BaseException as error:  # a panic of a Rust library is not an Exception
            with self._lock:
                self._failure = Cause(_reason(error, self._phase), failure_text(error))
            self._enter(Phase.FAILED)
        finally:
            if policy is not None:
                policy.close()

    def _serve(self, policy: Policy) -> None:
        """Wait for observations, at most one for each source, and make a result for each.

        :raises PolicyError: if a file that the policy was loaded from has changed.
        """
        taken = self._slots.take(self._is_fresh, _IDLE_WAIT_S, self._is_due)
        # Results that need no inference do not wait for the others' inference.
        self._hand_back(
            (one, Result(one.observation, Outcome.STALE, source=one.source))
            for one, fresh in taken
            if not fresh
        )
        self._infer(policy, [one for one, fresh in taken if fresh])

    def _is_due(self, submission: Submission) -> bool:
        with self._lock:
            if not self._limits.replan_rows or not self._is_current(submission):
                return True
            replanning = self._replannings[submission.source]
            return replanning.may_begin(submission.observation.stamp_ns)

    def _is_fresh(self, submission: Submission) -> bool:
        with self._lock:
            current = self._is_current(submission)
        stamp_ns, now_ns = submission.observation.stamp_ns, self._clock.now_ns()
        return current and is_fresh(stamp_ns, now_ns, self._limits.max_image_age_s)

    def _infer(self, policy: Policy, members: Sequence[Submission]) -> None:
        """Predict for all members in one batch; a member with an unusable instruction fails alone.

        Without members only the policy's files are checked, which may hang, too.

        :raises PolicyError: if a file has changed.
        """
        started_s = self._clock.monotonic_s()
        with self._lock:
            late_s = started_s + self._limits.inference_timeout_s
            inference = Inference(started_s, members, InferenceCancel(late_s, self._clock))
            self._inference = inference
            for one in filter(self._is_current, members):
                self._replannings[one.source].ask(one.observation)
            self._cancel_if_unneeded()
        answers: Sequence[Prediction | PolicyError | None] = []
        error: BaseException | None = None
        outcome = Outcome.PREDICTED
        try:
            members = self._without_unusable(policy, inference)
            answers = self._predict(policy, members, inference.cancel)
        except InferenceCancelled:
            outcome = Outcome.CANCELLED
        except BaseException as raised:  # one bad inference must not end the worker
            outcome, error = Outcome.FAILED, raised
        changed = _changed_files(policy)
        if changed is not None:  # it is unknown which weights made the prediction
            answers, outcome, error = [], Outcome.FAILED, changed
        inference_s = self._clock.monotonic_s() - inference.started_s
        with self._lock:
            self._inference = None
        was_late = inference.late_since_s is not None
        late = was_late or inference_s > self._limits.inference_timeout_s
        if late and outcome is not Outcome.FAILED:
            outcome = Outcome.OVERRUN
        self._hand_back(
            (one, _result(one, answer, outcome, error, inference_s))
            for one, answer in zip(members, answers or [None] * len(members), strict=True)
        )
        if changed is not None:
            raise changed

    def _without_unusable(self, policy: Policy, inference: Inference) -> Sequence[Submission]:
        """Return the members with usable instructions; the others get their results now."""
        usable = []
        for one in inference.members:
            try:
                policy.check_instruction(one.observation.instruction)
                usable.append(one)
            except BaseException as error:
                failed = Result(one.observation, Outcome.FAILED, error=error, source=one.source)
                self._hand_back([(one, failed)])
        with self._lock:
            inference.members = usable
            self._cancel_if_unneeded()
        return usable

    def _predict(
        self, policy: Policy, members: Sequence[Submission], cancel: InferenceCancel
    ) -> Sequence[Prediction | PolicyError]:
        """Predict for all members, and set the reason of each prediction that is invalid."""
        if not members:
            return []
        batch = []
        for one in members:
            session = self._sessions[one.source]
            if one.epoch > self._session_epochs[one.source]:
                session.reset()  # its drafts are from before the robot's reset
                self._session_epochs[one.source] = one.epoch
            batch.append((session, one.observation))
        return [
            _judged(answer, session.spec)
            for (session, _), answer in zip(batch, policy.predict(batch, cancel), strict=True)
        ]

    def _hand_back(self, results: Iterable[tuple[Submission, Result]]) -> None:
        with self._lock:
            # A stale observation from before a reset has no result for its reader.
            told = [
                (submission, result)
                for submission, result in results
                if result.outcome is not Outcome.STALE or self._is_current(submission)
            ]
            self._results += told
        if told:
            self._notify()

    def _enter(self, phase: Phase) -> None:
        with self._lock:
            self._phase = phase
            self._phase_since_s = self._clock.monotonic_s()
            self._progress = None
        self._notify()

    def _report(self, progress: Progress) -> None:
        """Keep the policy's progress while it loads and warms up.

        The policy calls this.

        :raises InferenceCancelled: if the worker is being closed.
        """
        if self._closing.is_set():
            raise InferenceCancelled
        with self._lock:
            self._progress = progress
        self._notify()

    # -- with the lock ---------------------------------------------------------------------------

    def _is_current(self, submission: Submission) -> bool:
        """Return whether there was no reset since the submission."""
        return submission.epoch == self._epochs[submission.source]

    def _cancel_if_unneeded(self) -> None:
        inference = self._inference
        if inference is not None and not any(map(self._is_current, inference.members)):
            inference.cancel.set()


def _reason(error: BaseException, phase: Phase) -> Reason:
    """Return the reason of an error that ends the worker."""
    own = error.reason if isinstance(error, PolicyError) else None
    return _FAILED_IN[phase] if own is None else own


def _judged(answer: Prediction | PolicyError, spec: PolicySpec) -> Prediction | PolicyError:
    """Return the answer, with the reason set if it is an invalid prediction."""
    if isinstance(answer, PolicyError):
        return answer
    reason = invalid_reason(answer, spec)
    return answer if reason is None else replace(answer, invalid=reason)


def _result(
    member: Submission,
    answer: Prediction | PolicyError | None,
    outcome: Outcome,
    error: BaseException | None,
    inference_s: float,
) -> Result:
    """Return the result of one member.

    :param answer: None if the batch has no answers.
    :param outcome, error: outcome and error of the batch.
    """
    prediction = None
    if isinstance(answer, PolicyError):  # a member's own error takes precedence over lateness
        outcome, error = Outcome.FAILED, answer
    elif outcome is Outcome.PREDICTED:
        prediction = answer
    return Result(member.observation, outcome, prediction, error, inference_s, member.source)


def _changed_files(policy: Policy) -> BaseException | None:
    try:
        policy.check_files()
    except BaseException as error:
        return error
    return None
