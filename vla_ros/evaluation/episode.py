"""What one episode came to."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.types import PolicyError


class EvaluationError(PolicyError):
    """There is no action, and so nothing to judge."""


@dataclass(frozen=True)
class Episode:
    """The result of one episode.

    :param seed: of the start.
    :param instruction: what the world judges by.
    :param said: what the policy was told; another one where instructions are swapped.
    :param steps: actions that were done.
    :param duration_s: of the world's time.
    :param latencies_s: from an image's capture to its action's arrival, of each action done.
    :param failure: why it ended before its time; empty: it did not.
    :param unanswered: in step: how often no action came to an image in time.
    :param skipped: free-running: images that the simulation was too slow to take.
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
