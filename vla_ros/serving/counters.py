# SPDX-License-Identifier: Apache-2.0
"""Counters of a replica. Every request, connection and frame that is dropped has a name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vla_ros.scheduling.accounts import unaccounted

_ENDS = ('answered', 'invalid', 'superseded', 'stale', 'overrun', 'cancelled', 'failed')
EQUATIONS = {'requests': (*_ENDS, 'waiting')}


@dataclass
class ServingCounters:
    """Counters since the replica began; they belong to its event loop.

    They fulfil EQUATIONS at every moment.

    :param requests: requests that were submitted to the worker.
    :param answered: requests that got their actions.
    :param invalid: predictions that must not move a robot.
    :param superseded: requests that a newer one of their session replaced.
    :param stale: requests whose time was over before their inference ended.
    :param overrun: requests whose inference was late by the server's limit.
    :param cancelled: requests of clients that left.
    :param failed: requests for which the policy raised an error.
    :param waiting: requests without an answer yet.
    :param connections: connections that were accepted.
    :param full: connections and bodies that found no free session.
    :param unauthorized: connections and bodies without the token.
    :param foreign: connections and bodies from web pages (with an Origin), without a token.
    :param malformed: frames and bodies that could not be read.
    :param flooding: connections that were closed for too many unanswered requests.
    """

    requests: int = 0
    answered: int = 0
    invalid: int = 0
    superseded: int = 0
    stale: int = 0
    overrun: int = 0
    cancelled: int = 0
    failed: int = 0
    waiting: int = 0
    connections: int = 0
    full: int = 0
    unauthorized: int = 0
    foreign: int = 0
    malformed: int = 0
    flooding: int = 0

    @property
    def balances(self) -> bool:
        """Whether each request is counted once."""
        return not unaccounted(self, EQUATIONS)

    def to_map(self) -> dict[str, int]:
        """Return the counters by name."""
        return dataclasses.asdict(self)
