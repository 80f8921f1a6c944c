# SPDX-License-Identifier: Apache-2.0
"""The policy of a server. Its methods run in the policy's thread, its connections in another."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from vla_ros.errors import VlaError
from vla_ros.policy_request import PolicyRequest
from vla_ros.remote.dialects import Dialect
from vla_ros.remote.failures import ConnectionFailed, ServerFull, ServerRefused, ServerRestarts
from vla_ros.remote.network import Network
from vla_ros.remote.self_check import check, plan_trials
from vla_ros.remote.server import Connection, Server, keep_trying, open_soonest, reporter
from vla_ros.text import is_blank
from vla_ros.types import (
    Cancel,
    InstructionError,
    Observation,
    PolicyError,
    PolicySpec,
    Prediction,
    Progress,
    ProgressCallback,
    Session,
    TimedCancel,
    WarmupTimes,
    all_predicted,
    check_instruction,
)
from vla_ros.wire import Request
from vla_ros.wire.limits import LIMITS

_LOG = logging.getLogger(__name__)
_FULL_S = 1.0  # time to the next attempt at a server that is full
_FAILED_S = 0.05  # and at one that could not be reached


class RemoteSession:
    """The session of one robot: its connection, which is used in the network's loop only."""

    def __init__(self, spec: PolicySpec, unnorm_key: str) -> None:
        self.spec = spec
        self.unnorm_key = unnorm_key
        self.connection: Connection | None = None
        self.is_reset = True  # the connection may be that of the warm-up

    def reset(self) -> None:
        """Have the server forget all earlier predictions with the next request."""
        self.is_reset = True


class RemotePolicy:
    """A policy on a server. Make it with :meth:`load`."""

    def __init__(
        self,
        server: Server,
        network: Network,
        connection: Connection,
        dialect: Dialect,
        max_batch_size: int,
        unnorm_key: str = '',
    ) -> None:
        self.info = dialect.info
        self._warmup_key = unnorm_key or dialect.any_key
        self.max_batch_size = max_batch_size
        self._server = server
        self._network = network
        self._dialect = dialect
        self._spares = [connection]  # connections that no session has
        self._connections = [connection]  # all that may be open
        self._fault: PolicyError | None = None  # that ends this policy
        self._failure = ConnectionFailed()  # of the last attempt to connect
        self._not_before_s = 0.0  # when the next attempt is due

    @classmethod
    def load(
        cls, request: PolicyRequest, max_batch_size: int, progress: ProgressCallback
    ) -> RemotePolicy:
        """Wait for the server, and connect to it.

        :param progress: says whom it waits for; may raise, which ends the wait.
        :raises PolicyError: if a user must act first, or the server has no such policy.
        """
        server = Server(request)
        if server.warning:
            _LOG.warning('%s', server.warning)
        network = Network()
        try:
            connection, dialect = keep_trying(server, network, progress)
        except BaseException:
            network.close()
            raise
        key = request.unnorm_key
        policy = cls(server, network, connection, dialect, max_batch_size, key)
        try:
            if key:
                policy.spec(key)
        except BaseException:
            policy.close()
            raise
        return policy

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        """Return the spec that the server or the contract tells.

        :raises PolicyError: if the server has no such statistics.
        """
        return self._dialect.spec(unnorm_key)[1]

    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> WarmupTimes:
        """Connect once for each robot, and check through the wire that inputs affect the action.

        While the connection fails, it waits and tries again.

        :raises SelfCheckError: if a check fails.
        :raises InferenceCancelled: soon after ``cancel`` is set.
        """
        started_s = time.monotonic()
        report: ProgressCallback = progress or (lambda _: None)
        while True:
            try:
                seconds = self._run_trials(report, cancel)
                return WarmupTimes(time.monotonic() - started_s, seconds[0], seconds[1])
            except ConnectionFailed as error:
                if self._fault is not None:
                    raise
                step = Progress(f'waits for {self._server.address}: {error.what}', 0, 0)
                self._pause(_FULL_S, reporter(report, step), cancel)

    def check_files(self) -> None:
        """Raise PolicyError if the server serves another policy now, or refuses this node."""
        if self._fault is not None:
            raise self._fault.with_traceback(None)

    def check_instruction(self, instruction: str) -> None:
        """Raise InstructionError if the instruction can't be used."""
        if is_blank(instruction):
            raise InstructionError('instruction is empty', 'there is nothing to do')
        check_instruction(instruction)

    def session(self, unnorm_key: str | None = None) -> RemoteSession:
        """Begin the session of one robot; it connects with its first observation.

        :raises PolicyError: if the server has no such statistics.
        """
        key, spec = self._dialect.spec(unnorm_key)
        return RemoteSession(spec, key)

    def predict(
        self, batch: Sequence[tuple[Session, Observation]], cancel: Cancel | None = None
    ) -> list[Prediction | PolicyError]:
        """Ask the server for all observations together, each by its session's connection.

        :returns: a PolicyError for each observation without an answer. Its connection has ended.
        :raises InferenceCancelled: soon after ``cancel`` is set; connections that wait for an
            answer are ended.
        """
        left_s = cancel.left_s() if isinstance(cancel, TimedCancel) else None
        for session, _ in batch:
            if not isinstance(session, RemoteSession):
                raise TypeError(f'{session!r} is not a session of a remote policy')
        asked = self._ask_all(batch, left_s)
        return self._network.run(asked, lambda: _is_set(cancel))

    def close(self) -> None:
        """End all connections, and the thread that owns them."""
        self._network.run(self._abort_all())
        self._network.close()

    # -- in the loop -------------------------------------------------------------------------------

    async def _ask_all(
        self, batch: Sequence[tuple[Session, Observation]], left_s: float | None
    ) -> list[Prediction | PolicyError]:
        asked = (
            self._ask(session, observation, left_s)
            for session, observation in batch
            if isinstance(session, RemoteSession)
        )
        return list(await asyncio.gather(*asked))

    async def _ask(
        self, session: RemoteSession, observation: Observation, left_s: float | None
    ) -> Prediction | PolicyError:
        try:
            return await self._answer(session, observation, left_s)
        except ServerRefused as error:
            self._fault = error
            return error
        except PolicyError as error:
            return error
        except VlaError as error:  # a malformed answer: who knows what the next one belongs to
            if session.connection is not None:
                session.connection.abort()
            return PolicyError(f'{self._server.address}: {error.what}', error.advice)

    async def _answer(
        self, session: RemoteSession, observation: Observation, left_s: float | None
    ) -> Prediction:
        started_s = time.monotonic()
        for camera in session.spec.cameras:
            if camera not in observation.images:
                raise PolicyError(f'there is no image of the camera {camera!r}', expected='one')
        answer = await self._asked(session, observation, left_s)
        prediction = self._dialect.decode(answer, session.unnorm_key)
        session.is_reset = False
        return replace(
            prediction,
            model_images=dict(observation.images),
            timings={**prediction.timings, 'round_trip': time.monotonic() - started_s},
        )

    async def _asked(
        self, session: RemoteSession, observation: Observation, left_s: float | None
    ) -> bytes:
        """Return the answer to a request. One that a restart interrupts is asked once more.

        :raises PolicyError: if there is none.
        """
        started_s = time.monotonic()

        async def ask() -> bytes:
            connection = await self._connected(session)
            still_s = left_s
            if left_s is not None:
                still_s = max(0.0, left_s - (time.monotonic() - started_s))
            request = Request(observation, session.unnorm_key, still_s, session.is_reset)
            message = self._dialect.encode(request)
            LIMITS.check_bytes(len(message))
            return await connection.ask(message)

        try:
            return await ask()
        except ServerRestarts:  # it says so itself: another one will answer
            return await ask()

    async def _connected(self, session: RemoteSession) -> Connection:
        """Return the session's connection; make one if it has none that can be used.

        :raises PolicyError: if there is none, or it leads to another policy than before.
        """
        if session.connection is not None and session.connection.is_usable:
            return session.connection
        session.connection = None
        while self._spares:
            spare = self._spares.pop()
            if spare.is_usable:
                session.connection = spare
                return spare
        session.connection = await self._connect()
        return session.connection

    async def _connect(self) -> Connection:
        if self._fault is not None:
            raise self._fault.with_traceback(None)
        if time.monotonic() < self._not_before_s:
            raise self._failure.with_traceback(None)
        try:
            connection, dialect = await open_soonest(self._server)
        except ConnectionFailed as error:
            wait_s = _FULL_S if isinstance(error, ServerFull) else _FAILED_S
            self._failure, self._not_before_s = error, time.monotonic() + wait_s
            raise
        except PolicyError as error:
            self._fault = error
            raise
        self._connections = [one for one in self._connections if one.is_open] + [connection]
        if difference := self._dialect.difference(dialect):
            connection.abort()
            self._fault = PolicyError(
                f'{self._server.address} serves another policy than before: {difference}',
                'clean up and configure the node, if the robot may follow it',
            )
            raise self._fault.with_traceback(None)
        return connection

    async def _abort_all(self) -> None:
        for connection in self._connections:
            connection.abort()

    # -- warm-up -----------------------------------------------------------------------------------

    def _run_trials(self, report: ProgressCallback, cancel: Cancel | None) -> list[float]:
        """Return the durations of the first two inferences [s], after all checks."""
        sessions = [self.session(self._warmup_key) for _ in range(self.max_batch_size)]
        trials = plan_trials(sessions[0].spec)
        answers: dict[str, Prediction] = {}
        seconds = []
        for number, trial in enumerate(trials, 1):
            report(Progress(trial.text, number, len(trials)))
            began_s = time.monotonic()
            batch: list[tuple[Session, Observation]] = [
                (one, trial.observation) for one in sessions
            ]
            answers[trial.name] = all_predicted(self.predict(batch, cancel))[0]
            seconds.append(time.monotonic() - began_s)
        for one in sessions:  # the robots' sessions take these connections over
            if one.connection is not None:
                self._spares.append(one.connection)
        check(answers, sessions[0].spec, self._dialect.is_checked, str(self._server.address))
        return seconds

    def _pause(self, seconds: float, look: Callable[[], bool], cancel: Cancel | None) -> None:
        self._network.run(asyncio.sleep(seconds), lambda: look() or _is_set(cancel))


def _is_set(cancel: Cancel | None) -> bool:
    return cancel is not None and cancel.is_set()
