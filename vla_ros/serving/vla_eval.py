# SPDX-License-Identifier: Apache-2.0
"""The websocket of allenai's vla-evaluation-harness, as functions from frames to requests and back.

Here the client speaks first. It gets one action for each observation: the rows of a chunk are sent
one by one, and an inference follows the last one. The harness closes a gripper with +1 and opens it
with -1, so the column is turned by the contract of the data set. Source: vla-eval 0.8.0.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.motion import Contract
from vla_ros.serving.inputs import Keys, observation_of
from vla_ros.serving.openpi import Reply
from vla_ros.types import PolicyError, Prediction
from vla_ros.wire import (
    ARRAY_KEYS_TEXT,
    Fields,
    Request,
    ServedPolicy,
    ServerError,
    WireError,
    pack,
)

PATH = '/vla-eval'
_PROTOCOL = 1
_MAX_SEQ = 2**53


@dataclass(frozen=True)
class Message:
    """A frame of the harness.

    :param reply: the reply, where no inference is needed; None without a request: there is none.
    """

    seq: int
    request: Request | None = None
    is_reset: bool = False
    reply: Reply | None = None


class Harness:
    """One connection of the harness: the rows of its chunk that are still to be sent."""

    def __init__(self, served: ServedPolicy, keys: Keys, contracts: dict[str, Contract]) -> None:
        self._served, self._keys, self._contracts = served, keys, contracts
        self._rows: list[NDArray[np.float64]] = []

    def read(self, message: Any, stamp_ns: int) -> Message:
        """Return what the harness sent.

        :raises WireError: if it is not a message of the harness.
        """
        given = Fields(message, 'message')
        kind, payload = given.text('type', most=100), given.map('payload', {})
        seq = given.whole('seq', 0, high=_MAX_SEQ)
        if kind == 'hello':
            return Message(seq, reply=self._frame('hello', self._hello(), seq))
        if kind in ('episode_start', 'episode_end'):
            self._rows.clear()
            return Message(seq, is_reset=True)
        if kind != 'observation':
            raise WireError('type of message', value=kind, expected='hello or observation')
        if self._rows:
            return Message(seq, reply=self._action(seq))
        try:
            observed = {key: payload.get(key) for key in payload}
            key, spec = self._served.spec(payload.text('unnorm_key', ''))
            observation = observation_of(observed, spec, self._keys, stamp_ns)
        except (WireError, PolicyError) as error:
            return Message(seq, reply=self.error(seq, ServerError('request', error.what)))
        return Message(seq, Request(observation, unnorm_key=key))

    def write(self, message: Message, answer: Prediction | ServerError) -> Reply:
        """Return the reply to an observation."""
        if isinstance(answer, ServerError):
            return self.error(message.seq, answer)
        if answer.invalid is not None:
            return self.error(message.seq, ServerError('invalid', str(answer.invalid)))
        self._rows = list(closing_positive(answer, self._contracts))
        return self._action(message.seq)

    def error(self, seq: int, error: ServerError) -> Reply:
        """Return the reply for an error; the connection stays open."""
        return self._frame('error', {'error': error.what}, seq)

    def _action(self, seq: int) -> Reply:
        return self._frame('action', {'actions': self._rows.pop(0)}, seq)

    def _hello(self) -> dict[str, Any]:
        return {
            'harness_version': '0.8.0',
            'protocol_version': _PROTOCOL,
            'model_server': f'vla_ros {self._served.info.model}',
            'capabilities': {},
        }

    def _frame(self, kind: str, payload: dict[str, Any], seq: int) -> Reply:
        message = {'type': kind, 'payload': payload, 'seq': seq, 'timestamp': time.time()}
        return Reply(pack(message, ARRAY_KEYS_TEXT))


def closing_positive(prediction: Prediction, contracts: dict[str, Contract]) -> NDArray[np.float64]:
    """Return the actions with each gripper's column -1 (open) or +1 (closed).

    :returns: float64 [K, D]; unchanged where no contract says what the columns mean.
    """
    contract = contracts.get(prediction.unnorm_key)
    if contract is None or prediction.actions.shape[1] != len(contract.columns):
        return prediction.actions
    actions = prediction.actions.copy()
    for column in contract.gripper_columns:
        openings = np.array([contract.opening(value) for value in actions[:, column]])
        actions[:, column] = np.where(openings > 0.5, -1.0, 1.0)
    return actions
