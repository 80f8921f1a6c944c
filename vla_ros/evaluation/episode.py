# SPDX-License-Identifier: Apache-2.0
"""The result of one episode."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.types import PolicyError


class EvaluationError(PolicyError):
    """An evaluation that cannot continue."""


@dataclass(frozen=True)
class Episode:
    """The result of one episode.

    :param seed: seed of the start.
    :param instruction: instruction that decides about success.
    :param said: instruction that the policy got; another one if instructions are swapped.
    :param steps: number of rows that were executed.
    :param duration_s: duration in the world's time [s].
    :param latencies_s: time from the capture of an observation to the arrival of its actions, for
        each chunk that was executed [s].
    :param failure: reason for an early end; empty: there was none.
    :param unanswered: in step: number of times that no actions came to an observation in time.
    :param skipped: free-running: number of images that the simulation was too slow for.
    """

    seed: int
    instruction: str
    said: str
    success: bool
    steps: int
    duration_s: float
    latencies_s: tuple[float, ...]
    failure: str = ''
    unanswered: int = 0
    skipped: int = 0
