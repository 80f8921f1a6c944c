# SPDX-License-Identifier: Apache-2.0
"""The phase and status of the worker's thread. Independent of ROS and torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vla_ros.reasons import Cause
from vla_ros.types import PolicyInfo, PolicySpec, Progress, WarmupTimes


class Phase(Enum):
    """A phase of the worker's thread."""

    LOADING = 'loading'
    WARMING_UP = 'warming up'
    READY = 'ready'
    FAILED = 'failed'
    CLOSED = 'closed'


@dataclass(frozen=True)
class WorkerStatus:
    """The status of a worker.

    :param elapsed_s: time in this phase.
    :param progress: progress of loading and warming up.
    :param info: the policy's info, once it is loaded.
    :param spec: the policy's spec, once it is loaded.
    :param load_s: duration of loading, once it is complete.
    :param warmup_times: durations of the warm-up, once it is complete.
    :param failure: the cause, if the phase is FAILED.
    :param unnorm_key: the one in force, once the policy is loaded; empty if the policy has none.
    """

    phase: Phase
    elapsed_s: float
    progress: Progress | None
    info: PolicyInfo | None
    spec: PolicySpec | None
    load_s: float
    warmup_times: WarmupTimes | None
    failure: Cause | None
    unnorm_key: str = ''
