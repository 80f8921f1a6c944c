"""From parameters to a policy, and the words for how far that has come."""

from __future__ import annotations

from collections.abc import Callable

from vla_ros.ros.parameters import Parameters
from vla_ros.scheduling import WorkerStatus
from vla_ros.types import Policy, ProgressCallback

LoadPolicy = Callable[[Parameters, ProgressCallback], Policy]


def load_openvla(parameters: Parameters, progress: ProgressCallback) -> Policy:
    """Build the policy. Worker only: importing torch takes seconds, and the node has to answer."""
    from vla_ros.openvla import OpenVLAPolicy

    policy = OpenVLAPolicy.from_pretrained(
        parameters.model,
        device=parameters.device,
        dtype=parameters.dtype,
        quantization=parameters.quantization,
        revision=parameters.revision or None,
        progress=progress,
    )
    policy.check_unnorm_key(parameters.unnorm_key)
    return policy


def progress_text(status: WorkerStatus) -> str:
    if status.progress is None:
        return status.phase.value
    return f'{status.progress.text}: {status.progress.done} of {status.progress.total}'
