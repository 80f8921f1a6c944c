# SPDX-License-Identifier: Apache-2.0
"""A policy whose every observation names the data set that scales its actions.

The worker gives each source one session for its whole life. A connection of the server is a source,
and each of its requests may name another ``unnorm_key``. Worker's thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vla_ros.types import (
    Cancel,
    Observation,
    Policy,
    PolicyError,
    PolicyInfo,
    PolicySpec,
    Prediction,
    ProgressCallback,
    Session,
    WarmupTimes,
)


@dataclass(frozen=True)
class KeyedObservation(Observation):
    """An observation with the data set that scales its actions; empty: the only one."""

    unnorm_key: str = ''


class KeyedSession:
    """The session of one connection. It keeps what it remembers only while the key is the same."""

    def __init__(self, policy: Policy, unnorm_key: str) -> None:
        """Begin with a key.

        :raises PolicyError: if the policy has no such statistics.
        """
        self._policy = policy
        self._key = unnorm_key
        self._session = policy.session(unnorm_key or None)

    @property
    def spec(self) -> PolicySpec:
        """The spec of the last key."""
        return self._session.spec

    @property
    def unnorm_key(self) -> str:
        """The statistics in force; empty if the policy has none."""
        return getattr(self._session, 'unnorm_key', None) or ''

    def reset(self) -> None:
        """Forget all earlier predictions."""
        self._session.reset()

    def of_key(self, unnorm_key: str) -> Session:
        """Return the policy's session for a key.

        :raises PolicyError: if the policy has no such statistics.
        """
        if unnorm_key != self._key:
            self._session = self._policy.session(unnorm_key or None)
            self._key = unnorm_key
        return self._session


class KeyedPolicy:
    """A policy that takes :class:`KeyedObservation`, any number at a time."""

    def __init__(self, policy: Policy, unnorm_key: str, sources: int) -> None:
        """Wrap a policy.

        :param unnorm_key: used where an observation names none, and before the first one.
        :param sources: most observations of a call; they are predicted in as many batches as the
            policy needs.
        """
        self._policy = policy
        self._unnorm_key = unnorm_key
        self.max_batch_size = sources
        self.batches = 0  # that were begun; written by the worker's thread

    @property
    def info(self) -> PolicyInfo:
        """The loaded policy."""
        return self._policy.info

    def spec(self, unnorm_key: str | None = None) -> PolicySpec:
        """Return the policy's spec."""
        return self._policy.spec(unnorm_key or self._unnorm_key or None)

    def warmup(
        self, progress: ProgressCallback | None = None, cancel: Cancel | None = None
    ) -> WarmupTimes:
        """Warm the policy up, with its self-check."""
        return self._policy.warmup(progress, cancel)

    def check_files(self) -> None:
        """Raise PolicyError if a file that the policy was loaded from has changed since."""
        self._policy.check_files()

    def check_instruction(self, instruction: str) -> None:
        """Raise InstructionError if the instruction can't be used."""
        self._policy.check_instruction(instruction)

    def session(self, unnorm_key: str | None = None) -> KeyedSession:
        """Begin the session of one connection."""
        return KeyedSession(self._policy, unnorm_key or self._unnorm_key)

    def predict(
        self, batch: Sequence[tuple[Session, Observation]], cancel: Cancel | None = None
    ) -> list[Prediction | PolicyError]:
        """Predict for all observations; one whose key is unknown gets its error alone."""
        answers: list[Prediction | PolicyError | None] = []
        known: list[tuple[Session, Observation]] = []
        for session, observation in batch:
            try:
                known.append((self._of_key(session, observation), observation))
                answers.append(None)
            except PolicyError as error:
                answers.append(error)
        most = self._policy.max_batch_size
        predicted: list[Prediction | PolicyError] = []
        for begin in range(0, len(known), most):
            self.batches += 1
            predicted += self._policy.predict(known[begin : begin + most], cancel)
        told = iter(predicted)
        return [next(told) if answer is None else answer for answer in answers]

    def close(self) -> None:
        """Free the policy's memory."""
        self._policy.close()

    def _of_key(self, session: Session, observation: Observation) -> Session:
        if not (isinstance(session, KeyedSession) and isinstance(observation, KeyedObservation)):
            raise TypeError('a session and an observation of another policy')
        return session.of_key(observation.unnorm_key or self._unnorm_key)
