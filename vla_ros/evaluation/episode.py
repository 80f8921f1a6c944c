"""What one episode came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Episode:
    """
    :param seed: of the start.
    :param instruction: what the world judges by.
    :param said: what the policy was told; another one where instructions are swapped.
    :param steps: actions that were done.
    :param duration_s: of the world's time.
    :param latencies_s: from a picture's capture to its action's arrival, of each action done.
    :param unanswered: pictures, in step, that no action came to in time, and that were repeated.
    """

    seed: int
    instruction: str
    said: str
    success: bool
    steps: int
    duration_s: float
    latencies_s: tuple[float, ...]
    unanswered: int = 0
