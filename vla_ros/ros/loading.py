# SPDX-License-Identifier: Apache-2.0
"""Loading of the policy that the parameters ask for, and texts about its progress and duration.

``load_policy`` is called by the worker's thread, the rest by the executor's.
"""

from __future__ import annotations

from collections.abc import Callable

from vla_ros import policies
from vla_ros.parameters.definition import Parameters
from vla_ros.policy_request import PolicyRequest
from vla_ros.reasons import Cause, Reason
from vla_ros.scheduling import Phase, WorkerStatus
from vla_ros.types import Policy, ProgressCallback, WarmupTimes

LoadPolicy = Callable[[Parameters, ProgressCallback], Policy]

_PHASE_LIMITS = {
    Phase.LOADING: ('load_timeout_s', Reason.LOAD_TIMEOUT),
    Phase.WARMING_UP: ('warmup_timeout_s', Reason.WARMUP_TIMEOUT),
}
_SILENCE_MARGIN_S = 0.5  # a sound executor may be late by this on a busy machine


def load_policy(parameters: Parameters, progress: ProgressCallback) -> Policy:
    """Build the policy. Worker only: importing torch takes seconds, and the node has to answer.

    :raises PolicyError: if there is no such policy.
    """
    request = PolicyRequest.of(vars(parameters))
    return policies.load_policy(request, len(parameters.robot_names), progress)


def progress_text(status: WorkerStatus) -> str:
    if status.progress is None:
        return status.phase.value
    progress = status.progress
    if not progress.total:
        return progress.text
    return f'{progress.text}: {progress.done} of {progress.total}'


def busy_text(status: WorkerStatus) -> str:
    """Return what a policy's thread does, for people: loading with its step, or just the policy."""
    if status.phase not in _PHASE_LIMITS:
        return 'the policy'
    text = progress_text(status)
    return text if status.progress is None else f'{status.phase.value} ({text})'


def time_out(status: WorkerStatus, parameters: Parameters) -> Cause | None:
    """Return why loading or warming up has taken longer than it may; None if it has not."""
    if status.phase not in _PHASE_LIMITS:
        return None
    limit, reason = _PHASE_LIMITS[status.phase]
    limit_s = getattr(parameters, limit)
    if status.elapsed_s <= limit_s:
        return None
    return Cause(
        reason,
        f'{status.phase.value} took longer than {limit}, {limit_s:g} s ({progress_text(status)})',
    )


def silence_limit(status: WorkerStatus | None, parameters: Parameters) -> tuple[float, str]:
    """Return how long the executor may give no sign of life [s], and which limit that is.

    Loading and warming up may keep the interpreter's lock for their whole time limit. If the
    executor runs, the node's own time-outs come first.
    """
    limit, elapsed_s = 'hang_timeout_s', 0.0
    if status is not None and status.phase in _PHASE_LIMITS:
        (limit, _), elapsed_s = _PHASE_LIMITS[status.phase], status.elapsed_s
    limit_s = getattr(parameters, limit)
    left_s = max(0.0, limit_s - elapsed_s)
    return left_s + _SILENCE_MARGIN_S, f'{limit} is {limit_s:g} s'


def warmup_text(load_s: float, times: WarmupTimes) -> str:
    """Return the durations of loading and warm-up, for the log."""
    return (
        f'loaded in {load_s:.1f} s, warm after {times.total_s:.1f} s more; the first '
        f'action took {times.first_inference_s:.2f} s, one takes {times.steady_inference_s:.2f} s '
        f'now{"; " if times.graphs else ""}{times.graphs}'
    )


def why_too_slow(status: WorkerStatus, parameters: Parameters) -> str:
    """Return a warning if the warm policy is slower than the time-out; empty if not."""
    steady_s = status.warmup_times.steady_inference_s if status.warmup_times else 0.0
    if steady_s <= parameters.inference_timeout_s:
        return ''
    return (
        f'an action takes {steady_s:.2f} s here and inference_timeout_s is '
        f'{parameters.inference_timeout_s:g}: all would be late; raise inference_timeout_s and '
        'max_action_age_s'
    )
