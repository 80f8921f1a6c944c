# SPDX-License-Identifier: Apache-2.0
"""One copy of a policy that answers many connections.

A replica owns an :class:`InferenceWorker` and a pool of sessions; a session is a source of the
worker. So the newest request of a session wins, all requests that wait form one batch, and the
inference of a client that leaves is cancelled. Independent of Ray and of any protocol.

All methods belong to one event loop. The worker's thread only wakes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vla_ros.clock import Clock
from vla_ros.scheduling import (
    Deadline,
    InferenceWorker,
    Outcome,
    Phase,
    Result,
    SlotClosed,
    WorkerLimits,
    WorkerStatus,
    failure_text,
)
from vla_ros.serving.clock import ServerClock
from vla_ros.serving.counters import ServingCounters
from vla_ros.serving.errors import ServerFull, ServingError
from vla_ros.serving.keyed import KeyedObservation, KeyedPolicy
from vla_ros.serving.loading import Loaded
from vla_ros.serving.text import without_paths
from vla_ros.types import InstructionError, Policy, PolicyError, Prediction, ProgressCallback
from vla_ros.wire import Request, ServedPolicy, ServerError

Answer = Prediction | ServerError

HUNG_EXIT_CODE = 70  # as vla_node's
_TICK_S = 0.02  # between two looks at the deadlines while requests wait
_CLOSE_S = 2.0
_ENDED = ServerError('failed', 'the policy of the server has ended', 'connect again')

_log = logging.getLogger('vla_serve')


@dataclass(frozen=True)
class ReplicaLimits:
    """The limits of a replica.

    :param max_sessions: connections at a time.
    :param inference_timeout_s: time after which an inference is cancelled [s].
    :param hang_timeout_s: time that a cancelled inference may take to return; then the process
        ends [s].
    :param load_timeout_s: maximum duration of loading [s].
    :param warmup_timeout_s: maximum duration of warming up [s].
    """

    max_sessions: int = 16
    inference_timeout_s: float = 5.0
    hang_timeout_s: float = 10.0
    load_timeout_s: float = 1800.0
    warmup_timeout_s: float = 1800.0


@dataclass(eq=False)
class _Pending:
    """A request that has no answer yet."""

    observation: KeyedObservation
    answer: asyncio.Future[Answer]
    timer: asyncio.TimerHandle | None = field(default=None)


def _end_process() -> None:
    _log.critical('the inference hangs; this replica ends, so that another one is started')
    os._exit(HUNG_EXIT_CODE)


class Replica:
    """A policy, its worker, and the sessions of its clients."""

    def __init__(
        self,
        load: Callable[[ProgressCallback], Loaded],
        limits: ReplicaLimits = ReplicaLimits(),
        clock: Clock | None = None,
        end_process: Callable[[], None] = _end_process,
    ) -> None:
        """Prepare the replica; :meth:`start` loads the policy.

        :param load: called in the worker's thread.
        :param clock: by default the server's.
        :param end_process: called when a cancelled inference does not return.
        """
        self.limits = limits
        self.clock = clock or ServerClock()
        self.counters = ServingCounters()
        self._load, self._end_process = load, end_process
        self._free = deque(range(limits.max_sessions))
        self._sessions: dict[int, ServedSession] = {}
        self._worker = InferenceWorker(
            self._build_policy,
            WorkerLimits(math.inf, limits.inference_timeout_s, limits.hang_timeout_s),
            self.clock,
            notify=self._notify,
            sources=limits.max_sessions,
        )
        self._served: ServedPolicy | None = None
        self._policy: KeyedPolicy | None = None
        self._woken, self._busy = asyncio.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the policy, warm it up and let it check itself.

        :raises ServingError: if that fails or takes too long.
        """
        self._loop = asyncio.get_running_loop()
        self._worker.start()
        allowed = {
            Phase.LOADING: self.limits.load_timeout_s,
            Phase.WARMING_UP: self.limits.warmup_timeout_s,
        }
        while (status := self._worker.status()).phase in allowed:
            if status.elapsed_s > allowed[status.phase]:
                self._worker.close(0.0)
                raise ServingError(
                    f'{status.phase.value} the policy took longer than {allowed[status.phase]:g} s',
                    'allow more time, or serve a smaller policy',
                )
            self._woken.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._woken.wait(), 1.0)
        if status.phase is not Phase.READY:
            raise ServingError('the policy cannot be served', _failure(status))
        self._watch = self._loop.create_task(self._watch_deadlines())

    def served(self) -> ServedPolicy:
        """Return the policy as its metadata describes it.

        :raises ServingError: before the policy is loaded.
        """
        if self._served is None:
            raise ServingError('the policy is not loaded yet', 'wait')
        times, free = self._worker.status().warmup_times, len(self._free)
        if times is None:
            return replace(self._served, sessions_free=free)
        return replace(self._served, sessions_free=free, warmup=times, self_checked=True)

    def check(self) -> None:
        """Raise ServingError if the policy does not answer any more. Call it regularly."""
        self._look_at_deadline()  # an inference may hang whose client has left
        status = self._worker.status()
        if status.phase is not Phase.READY:
            raise ServingError('the policy does not answer any more', _failure(status))

    @property
    def phase(self) -> str:
        """What the worker does now."""
        return self._worker.status().phase.value

    @property
    def batches(self) -> int:
        """Number of batches that the policy has begun, in addition to its warm-up."""
        return 0 if self._policy is None else self._policy.batches

    def open(self) -> ServedSession:
        """Take a session.

        :raises ServerFull: if none is free.
        """
        if not self._free:
            self.counters.full += 1
            raise ServerFull(
                f'all {self.limits.max_sessions} sessions of this server are taken',
                'connect fewer robots, or serve more replicas',
            )
        source = self._free.popleft()
        session = ServedSession(self, self._worker, source)
        self._sessions[source] = session
        return session

    async def close(self) -> None:
        """End the worker, and answer all requests that wait."""
        if self._watch is not None:
            self._watch.cancel()
        await asyncio.to_thread(self._worker.close, _CLOSE_S)
        self._fail_all()

    # -- worker's thread -----------------------------------------------------------------------

    def _build_policy(self, progress: ProgressCallback) -> Policy:
        loaded = self._load(progress)
        self._served = loaded.served
        first_key = next(iter(loaded.served.specs))
        self._policy = KeyedPolicy(loaded.policy, first_key, self.limits.max_sessions)
        return self._policy

    def _notify(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before the worker
                self._loop.call_soon_threadsafe(self._wake)

    # -- event loop ----------------------------------------------------------------------------

    def release(self, source: int) -> None:
        """Take a session back. Sessions call this."""
        self._worker.reset(source)
        del self._sessions[source]
        self._free.append(source)

    def began(self) -> None:
        """Watch the deadlines from now on. Sessions call this for each request."""
        self.counters.requests += 1
        self.counters.waiting += 1
        self._busy.set()

    def ended(self, answer: Answer) -> None:
        """Count an answer. Sessions call this once for each request."""
        counters = self.counters
        counters.waiting -= 1
        if not counters.waiting:
            self._busy.clear()
        if isinstance(answer, Prediction):
            name = 'answered' if answer.invalid is None else 'invalid'
        else:
            counted = ('superseded', 'stale', 'overrun', 'cancelled')
            name = answer.kind if answer.kind in counted else 'failed'
        setattr(counters, name, getattr(counters, name) + 1)

    def _wake(self) -> None:
        self._woken.set()
        while (result := self._worker.next_result()) is not None:
            session = self._sessions.get(result.source)
            if session is not None:
                session.take(result)
        if self._worker.status().phase in (Phase.FAILED, Phase.CLOSED):
            self._fail_all()

    def _fail_all(self) -> None:
        for session in self._sessions.values():
            session.end_all(_ENDED)

    async def _watch_deadlines(self) -> None:
        deadline = Deadline.MET
        while True:
            if deadline is Deadline.MET:
                await self._busy.wait()
            await asyncio.sleep(_TICK_S)
            deadline = self._look_at_deadline()

    def _look_at_deadline(self) -> Deadline:
        """Answer those who wait for a late inference; end the process if it hangs."""
        deadline = self._worker.enforce_deadline()
        if deadline is Deadline.HUNG:
            self._end_process()
        if deadline is not Deadline.MET:
            limit_s = self.limits.inference_timeout_s
            late = ServerError('overrun', f'the inference took longer than {limit_s:g} s')
            for source in self._worker.overdue():
                if source in self._sessions:
                    self._sessions[source].end_all(late)
        return deadline


class ServedSession:
    """The session of one client: of a connection, or of one REST request."""

    def __init__(self, replica: Replica, worker: InferenceWorker, source: int) -> None:
        """Begin a session; :meth:`Replica.open` does."""
        self._replica, self._worker, self._source = replica, worker, source
        self._pending: list[_Pending] = []

    def ask(self, request: Request) -> asyncio.Future[Answer]:
        """Submit a request. It supersedes one of this session whose inference has not begun."""
        if request.reset:
            self.reset()
        loop = asyncio.get_running_loop()
        observation = KeyedObservation(**vars(request.observation), unnorm_key=request.unnorm_key)
        pending = _Pending(observation, loop.create_future())
        self._replica.began()
        superseded = self._worker.statistics(self._source).superseded
        self._pending.append(pending)
        try:
            self._worker.submit(observation, self._source)
        except SlotClosed:
            self._end(pending, _ENDED)
            return pending.answer
        if self._worker.status().phase is not Phase.READY:  # nobody takes it from its slot
            self._end(pending, _ENDED)
            return pending.answer
        if self._worker.statistics(self._source).superseded > superseded:
            newer = ServerError('superseded', 'a newer request of this connection came')
            for one in self._pending[-2:-1]:
                self._end(one, newer)
        if request.budget_s is not None:
            pending.timer = loop.call_later(request.budget_s, self._give_up, pending)
        return pending.answer

    def reset(self) -> None:
        """Forget all earlier predictions, and cancel what this client asked for."""
        self._worker.reset(self._source)
        self.end_all(ServerError('cancelled', 'the client began anew'))

    def close(self) -> None:
        """Cancel what this client asked for, and free the session."""
        self.end_all(ServerError('cancelled', 'the client has left'))
        self._replica.release(self._source)

    def take(self, result: Result) -> None:
        """Answer the request of a result; one that has its answer is passed over."""
        for pending in self._pending:
            if pending.observation is result.observation:
                self._end(pending, _answer(result))
                return

    def end_all(self, answer: ServerError) -> None:
        """Give every request that waits the same answer."""
        for pending in list(self._pending):
            self._end(pending, answer)

    def _give_up(self, pending: _Pending) -> None:
        """Answer a request whose time is over; the newest one is cancelled as well."""
        begun = not self._worker.statistics(self._source).waiting
        if begun:
            answer = ServerError('overrun', 'the inference did not end in the time that was left')
        else:
            answer = ServerError('stale', 'no inference began in the time that was left')
        is_newest = pending is self._pending[-1]
        self._end(pending, answer)
        if is_newest:
            self._worker.reset(self._source)
            self.end_all(ServerError('cancelled', 'a later request had no time left'))

    def _end(self, pending: _Pending, answer: Answer) -> None:
        self._pending.remove(pending)
        if pending.timer is not None:
            pending.timer.cancel()
        if not pending.answer.done():
            pending.answer.set_result(answer)
        self._replica.ended(answer)


def _answer(result: Result) -> Answer:
    if result.outcome is Outcome.PREDICTED:
        return result.predicted()
    if result.outcome is Outcome.OVERRUN:
        return ServerError('overrun', f'the inference took {result.inference_s:.2f} s')
    if result.outcome is not Outcome.FAILED or result.error is None:
        return ServerError('cancelled', 'the inference was cancelled')
    error = result.error
    _log.warning('a request failed: %s', failure_text(error))
    if isinstance(error, PolicyError):
        kind = 'instruction' if isinstance(error, InstructionError) else 'failed'
        return ServerError(kind, without_paths(error.what), without_paths(error.advice))
    return ServerError(
        'failed', f'the policy raised {type(error).__name__}', "see the server's log"
    )


def _failure(status: WorkerStatus) -> str:
    """Return the last line of the failure; a traceback goes to the log."""
    if status.failure is None:
        return 'it has ended'
    _log.error('%s', status.failure.message)
    return status.failure.message.splitlines()[-1]
