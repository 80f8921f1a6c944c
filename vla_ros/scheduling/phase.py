"""What the worker's thread is at, for whoever asks. Knows neither ROS nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vla_ros.reasons import Cause
from vla_ros.types import PolicyInfo, PolicySpec, Progress, WarmupTimes


class Phase(Enum):
    """What the worker's thread is at."""

    LOADING = 'loading'
    WARMING_UP = 'warming up'
    READY = 'ready'
    FAILED = 'failed'
    CLOSED = 'closed'


@dataclass(frozen=True)
class WorkerStatus:
    """
    :param elapsed_s: time in this phase.
    :param progress: of loading and warming up.
    :param info: of the policy, once it is loaded.
    :param spec: of the policy, once it is loaded.
    :param load_s: what loading took, once it is over.
    :param warmup_times: what the warm-up took, once it is over.
    :param failure: the cause, if the phase is FAILED.
    """

    phase: Phase
    elapsed_s: float
    progress: Progress | None
    info: PolicyInfo | None
    spec: PolicySpec | None
    load_s: float
    warmup_times: WarmupTimes | None
    failure: Cause | None
