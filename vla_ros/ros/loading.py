"""From parameters to a policy, and the words for how far that has come."""

from __future__ import annotations

from collections.abc import Callable

from vla_ros.ros.parameters import Parameters
from vla_ros.scheduling import WorkerStatus
from vla_ros.scripted import ScriptedPolicy, is_scripted
from vla_ros.types import Policy, ProgressCallback

LoadPolicy = Callable[[Parameters, ProgressCallback], Policy]


def load_policy(parameters: Parameters, progress: ProgressCallback) -> Policy:
    """Build the policy. Worker only: importing torch takes seconds, and the node has to answer."""
    if is_scripted(parameters.model):
        return ScriptedPolicy.from_script(parameters.model, progress)
    from vla_ros.openvla import OpenVLAPolicy

    return OpenVLAPolicy.from_pretrained(
        parameters.model,
        device=parameters.device,
        dtype=parameters.dtype,
        quantization=parameters.quantization,
        revision=parameters.revision or None,
        compile=parameters.compile,
        progress=progress,
    )


def progress_text(status: WorkerStatus) -> str:
    if status.progress is None:
        return status.phase.value
    progress = status.progress
    return f'{progress.text}: {progress.done} of {progress.total}'
